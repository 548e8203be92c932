"""GPUs as their makers publish them, and the ways of execution that a plan is priced for."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass

from repro.errors import did_you_mean


@dataclass(frozen=True)
class Gpu:
    """Published numbers of a GPU: dense peaks, without sparsity, and memory.

    Attributes:
        name: as options and cluster files have it.
        title: which of its forms.
        float32: TFLOP/s without tensor cores.
        tf32: TFLOP/s; ``None`` where it has none.
        bfloat16: TFLOP/s of tensor cores; ``None`` where it has none.
        bandwidth: of its memory, GB/s.
        memory: GB.
        source: where the numbers are published.
    """

    name: str
    title: str
    float32: float
    tf32: float | None
    bfloat16: float | None
    bandwidth: float
    memory: float
    source: str

    def peak(self, products: str) -> float | None:
        """Return the TFLOP/s of products in ``float32``, ``tf32`` or ``bfloat16``; ``None`` where it has none."""
        return {"float32": self.float32, "tf32": self.tf32, "bfloat16": self.bfloat16}[products]


#: By name. Where a data sheet has peaks with sparsity only, half of them.
GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("a100", "A100 SXM 80GB", 19.5, 156.0, 312.0, 2039.0, 80.0, "NVIDIA A100 Tensor Core GPU, data sheet"),
        Gpu("h100", "H100 SXM", 67.0, 494.5, 989.0, 3350.0, 80.0, "NVIDIA H100 Tensor Core GPU, data sheet"),
        Gpu("h200", "H200 SXM", 67.0, 494.5, 989.0, 4800.0, 141.0, "NVIDIA H200 Tensor Core GPU, data sheet"),
        Gpu("v100", "V100 SXM2 32GB", 15.7, None, None, 900.0, 32.0, "NVIDIA V100 Tensor Core GPU, data sheet"),
        Gpu("l40s", "L40S", 91.6, 183.0, 362.0, 864.0, 48.0, "NVIDIA L40S, data sheet"),
    )
}

#: Where neither an option nor a finished run names one.
USUAL = GPUS["a100"]


def known_gpu(text: str) -> Gpu | None:
    """Return the GPU that a driver or a site calls ``text``, such as ``NVIDIA A100-SXM4-80GB``; ``None`` if it is not listed."""
    return next((gpu for name, gpu in GPUS.items() if re.search(rf"(?<![a-z0-9]){name}(?![a-z0-9])", text.lower())), None)


def named_gpu(text: str) -> Gpu:
    """Return an option's value, one of :data:`GPUS`."""
    if text not in GPUS:
        raise argparse.ArgumentTypeError(f"there are no numbers of a GPU '{text}'.{did_you_mean(text, GPUS)} Allowed: {', '.join(GPUS)}.")
    return GPUS[text]


@dataclass(frozen=True)
class Execution:
    """How steps are executed, as far as it decides their time: the number format of products, and whether a step is one call (a graph)."""

    products: str
    graphs: bool

    def __str__(self) -> str:
        """Return it as messages name it."""
        return f"{self.products.replace('tf32', 'TF32')}, {'CUDA graphs' if self.graphs else 'one operation after another'}"


#: ``exec=audit``.
AUDIT = Execution("float32", graphs=False)
#: What the price of a default is compared by.
EXECUTIONS = (AUDIT, Execution("tf32", graphs=True), Execution("bfloat16", graphs=True))


def auto(gpu: Gpu) -> Execution:
    """Return how ``exec=auto`` executes on ``gpu``: in bfloat16 where it has tensor cores for it; in either case as CUDA graphs."""
    return Execution("float32" if gpu.bfloat16 is None else "bfloat16", graphs=True)
