"""``python -m repro.doctor``: how far the first step by ``exec=auto`` and by ``exec=fast`` is from that of float32 on this machine.

Whether the numbers of float32 are right is what ``make test-cuda`` says, and how long steps take ``benchmarks/step.py``.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from repro.command import exit_code_of
from repro.config.compose import compose
from repro.data.prepare import prepare
from repro.data.types import ImageSet, RawDataset
from repro.errors import UserError
from repro.randomness import make_deterministic
from repro.runs.inputs import open_inputs
from repro.runs.provenance import device_name, versions
from repro.training.build import build
from repro.training.loop import Training
from repro.training.run import choose_device, choose_execution

#: Largest relative distance from float32 of the first step by ``exec=auto``; docs/execution.md has what such distances end in.
CLOSE = 0.1

#: Of the random images, as CIFAR-100 has them.
CLASSES = 100


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is measured: the settings of a network, images of a batch and of a meta batch, and how many steps."""

    model: tuple[str, ...] = ("model=resnet18",)
    batch: int = 128
    meta_batch: int = 256
    steps: int = 20


#: Seconds instead of minutes on a CPU.
SMALL = Sizes(("model=resnet18", "model.width=8"), batch=16, meta_batch=32, steps=3)


def check_execution(device: torch.device, sizes: Sizes) -> str:
    """Compare the first step of ``exec=auto`` and of ``exec=fast`` with that of float32."""
    first = {
        name: movement(random_training("method=instance_labels", *settings, device=device, sizes=sizes))
        for name, settings in executions(device).items()
    }
    auto, fast = (distance(first[name], first["float32"]) for name in ("auto", "fast"))
    text = f"first step, relative distance from float32: exec=auto {auto:.1e}, exec=fast {fast:.1e}"
    if not auto <= CLOSE:
        raise UserError(f"{text}. Use exec=audit.")
    return text if fast <= CLOSE else f"{text}; do not use exec=fast"


def executions(device: torch.device) -> dict[str, list[str]]:
    """Return the settings of execution that are compared. ``exec=fast`` is not compiled, which would take minutes."""
    fast = ["exec=fast", "exec.compile=false", f"exec.cuda_graphs={device.type == 'cuda'}"]
    return {"float32": ["exec=audit"], "auto": ["exec=auto"], "fast": fast}


def random_training(*settings: str, device: torch.device, sizes: Sizes) -> Training:
    """Return a training at its start, on random images in the shape of CIFAR-100's."""
    held_out = math.ceil(sizes.meta_batch / CLASSES) * CLASSES
    config = compose(
        [
            *("dataset=cifar100", "seed=0", "tracker=none", "trajectory.record=false", *sizes.model),
            *(f"optim.batch_size={sizes.batch}", f"meta.batch_size={sizes.meta_batch}", f"split.meta_size={held_out}", *settings),
        ]
    )
    config = dataclasses.replace(config, exec=choose_execution(config, device))
    make_deterministic(threads=config.exec.threads, allow_tf32=config.exec.allow_tf32)
    data = prepare(config, device, random_images(held_out + math.ceil(8 * sizes.batch / CLASSES) * CLASSES))
    return build(config, data, device, Path(config.paths.runs), open_inputs(config))


def random_images(count: int) -> RawDataset:
    """Return random pixels in the shape of CIFAR-100's."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    images = ImageSet(pixels, np.arange(count, dtype=np.int64) % CLASSES)
    return RawDataset(images, images, tuple(map(str, range(CLASSES))), (0.5,) * 3, (0.25,) * 3)


def movement(training: Training) -> list[Tensor]:
    """Take the first step and return how far it moves the parameters, and what the method learns, each as one vector."""

    def state() -> list[Tensor]:
        learned = [tensor for tensor in training.method.state_dict().values() if tensor.is_floating_point()]
        return [
            torch.cat([tensor.detach().double().flatten() for tensor in part]) for part in (training.model.parameters(), learned) if part
        ]

    plan = training.begin_epoch()
    before = state()
    training.take_step(plan)
    return [new - old for new, old in zip(state(), before, strict=True)]


def distance(moved: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
    """Return the largest of the relative distances ``|moved - reference| / |reference|``."""
    return max(float((mine - theirs).norm() / theirs.norm()) for mine, theirs in zip(moved, reference, strict=True))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 1 where something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m repro.doctor", description=__doc__)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    options = parser.parse_args(arguments)

    def command() -> int:
        device = choose_device(options.device)
        print(f"{device_name(device)}, {', '.join(f'{name} {version}' for name, version in versions().items())}", flush=True)
        try:
            print(f"ok   {check_execution(device, SMALL if device.type == 'cpu' else Sizes())}")
        except (UserError, RuntimeError) as error:
            print(f"BAD  {str(error).partition(chr(10))[0]}")
            return 1
        return 0

    return exit_code_of(command)


if __name__ == "__main__":
    sys.exit(main())
