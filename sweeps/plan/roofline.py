"""The time of counted operations at the roofline of a GPU: none takes less than its arithmetic, its bytes, or any kernel at all.

An operation takes at least

    max(FLOPs / peak of its number format, bytes / bandwidth of the memory, KERNEL_S)

and a step the sum over its operations. Where the host starts them one by one, a step takes at least LAUNCH_S for each; as a CUDA graph not.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

from sweeps.plan.gpus import Execution, Gpu

#: Seconds on the device that any kernel takes, assumed.
KERNEL_S = 3e-6
#: Seconds of the host for starting one operation of PyTorch, assumed.
LAUNCH_S = 25e-6
#: Bytes of a process on the GPU beside its tensors in a step: CUDA's context, libraries, images; assumed.
CONTEXT_BYTES = 2**30
#: Runs that share a GPU at most: each is a process that needs a processor of its own.
MOST_RUNS = 8


class Operation(NamedTuple):
    """One operation that a GPU would have to carry out.

    Attributes:
        flops: two for each multiply-accumulate.
        bytes: of its arguments and results.
        float32_bytes: the same where all is float32.
        bfloat16: its arguments are bfloat16.
        cast: from one number format to another, which is nothing where all is float32.
    """

    flops: int
    bytes: int
    float32_bytes: int
    bfloat16: bool = False
    cast: bool = False


@dataclass(frozen=True, eq=False)
class Counted:
    """The operations of a step, or of a forward pass, in bfloat16 by autocast; and the most bytes of tensors that were alive at a time.

    Attributes:
        float32_peak_bytes: the same where all is float32.
    """

    operations: tuple[Operation, ...]
    peak_bytes: int
    float32_peak_bytes: int

    @property
    def flops(self) -> int:
        """FLOPs of all operations."""
        return sum(operation.flops for operation in self.operations)

    @property
    def launches(self) -> int:
        """Operations where all is float32."""
        return sum(not operation.cast for operation in self.operations)


class Seconds(NamedTuple):
    """A step's seconds at the roofline, and those of them in which arithmetic or memory are at their limit."""

    whole: float
    busy: float


@functools.cache
def seconds(counted: Counted, gpu: Gpu, execution: Execution) -> Seconds:
    """Return the time of ``counted`` at the roofline of ``gpu``, which must have the number format of ``execution``."""
    cast, other = execution.products == "bfloat16", "float32" if execution.products == "bfloat16" else execution.products
    rate = {bfloat16: 1e12 * (gpu.peak("bfloat16" if bfloat16 else other) or 0.0) for bfloat16 in (cast, False)}
    launches, device, busy = 0, 0.0, 0.0
    for operation in counted.operations:
        if operation.cast and not cast:
            continue
        launches += 1
        arithmetic = operation.flops / rate[operation.bfloat16 and cast]
        limit = max(arithmetic, (operation.bytes if cast else operation.float32_bytes) / (1e9 * gpu.bandwidth))
        busy += limit
        device += max(limit, KERNEL_S)
    return Seconds(device if execution.graphs else max(device, launches * LAUNCH_S), busy)


@dataclass(frozen=True)
class Work:
    """What a run asks of a GPU: how often it does what was counted, and the bytes of learned labels."""

    parts: tuple[tuple[float, Counted], ...]
    label_bytes: int = 0

    def hours(self, gpu: Gpu, execution: Execution) -> float:
        """Return its hours at the roofline."""
        return sum(times * seconds(counted, gpu, execution).whole for times, counted in self.parts) / 3600

    def busy(self, gpu: Gpu, execution: Execution) -> float:
        """Return the share of its hours in which arithmetic or memory are at their limit."""
        return sum(times * seconds(counted, gpu, execution).busy for times, counted in self.parts) / 3600 / self.hours(gpu, execution)

    def memory(self, execution: Execution) -> int:
        """Return the bytes that it needs on a GPU."""
        cast = execution.products == "bfloat16"
        peak = max(counted.peak_bytes if cast else counted.float32_peak_bytes for _, counted in self.parts)
        return peak + self.label_bytes + CONTEXT_BYTES

    def runs_per_gpu(self, gpu: Gpu, execution: Execution) -> int:
        """Return how many such runs a GPU is for: as many as fill its time and fit into nine tenths of its memory; 1 to MOST_RUNS."""
        return max(1, min(MOST_RUNS, int(1.0 / self.busy(gpu, execution)), int(0.9e9 * gpu.memory) // self.memory(execution)))
