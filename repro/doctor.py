"""``python -m repro.doctor``: checks in minutes that this machine trains as it should, and how fast.

It stops at the first thing that is wrong.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.command import exit_code_of
from repro.config.compose import compose
from repro.data.prepare import prepare
from repro.data.types import ImageSet, RawDataset
from repro.engine.lookahead import coefficient_gradient
from repro.engine.network import Network
from repro.errors import UserError
from repro.randomness import make_deterministic
from repro.runs.inputs import open_inputs
from repro.runs.provenance import device_name, versions
from repro.training.build import build
from repro.training.loop import Training
from repro.training.run import choose_device, choose_execution

#: Largest relative distance of the engine's gradient from automatic differentiation through the look-ahead step.
SAME_GRADIENT = {torch.float64: 1e-9, torch.float32: 1e-2}

#: Largest relative distance from float32 of the first step by ``exec=auto``; docs/execution.md has what such distances end in.
CLOSE = 0.1

#: What a resume must not change.
RESULTS = ("final.json", "model.safetensors", "labels/instances.f16")

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

Check = Callable[[torch.device, Sizes], str]


def check_gradient(device: torch.device, sizes: Sizes) -> str:
    """Compare the engine's gradient with automatic differentiation through the look-ahead step."""
    numbers = torch.Generator().manual_seed(0)
    inputs, meta = (torch.randn(count, 3, 32, 32, generator=numbers) for count in (SMALL.batch, SMALL.meta_batch))
    coefficients = torch.rand(SMALL.batch, CLASSES, generator=numbers) / SMALL.batch
    targets = torch.randint(0, CLASSES, (SMALL.meta_batch,), generator=numbers).to(device)
    distances = []
    for dtype, bound in SAME_GRADIENT.items():
        model = random_training("method=one_hot", "exec=audit", device=device, sizes=SMALL).model.to(dtype)
        problem = (model, inputs.to(device, dtype), coefficients.to(device, dtype), meta.to(device, dtype), targets, 0.1)
        apart = distance([coefficient_gradient(*problem)], [double_backward(*problem)])
        distances.append(f"{dtype} {apart:.1e}")
        if not apart <= bound:
            raise UserError(f"it differs from automatic differentiation by {distances[-1]}. Train nothing here, and report this.")
    return f"relative distance from automatic differentiation: {', '.join(distances)}"


def check_resume(device: torch.device, sizes: Sizes) -> str:
    """Kill a run of two epochs, resume it, and compare its bytes with those of an undisturbed one."""
    settings = ["method=instance_labels", "dataset=digits", "seed=0", "optim.epochs=2", "tracker=none", f"exec.device={device.type}"]
    command = [sys.executable, "-m", "repro", *settings, "exec=audit", "exec.checkpoint_interval_s=0"]
    with tempfile.TemporaryDirectory() as name:
        killed, undisturbed = (Path(name, folder) for folder in ("killed", "undisturbed"))
        process = subprocess.Popen([*command, f"paths.runs={killed}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not list(killed.glob("*/checkpoint.pt")):
            time.sleep(0.01)
        process.kill()
        if process.wait() == 0:
            raise UserError("the run was over before it could be killed. Try again.")
        results = []
        for folder in (killed, undisturbed):
            ended = subprocess.run([*command, f"paths.runs={folder}"], capture_output=True, text=True, check=False)
            if ended.returncode != 0:
                raise UserError(f"a run failed: {ended.stderr.strip()[-500:]}")
            results.append([next(folder.glob(f"*/{file}")).read_bytes() for file in RESULTS])
    if different := [file for file, *contents in zip(RESULTS, *results, strict=True) if contents[0] != contents[1]]:
        raise UserError(f"the bytes of {', '.join(different)} are others after a resume: was it the same device, driver and libraries?")
    return "a run that was killed and resumed has the bytes of an undisturbed one"


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


def check_speed(device: torch.device, sizes: Sizes) -> str:
    """Measure steps, plain and with labels that learn."""
    lines = []
    for name, settings in executions(device).items():
        for method in ("one_hot", "instance_labels"):
            training = random_training(f"method={method}", *settings, device=device, sizes=sizes)
            take = functools.partial(training.take_step, training.begin_epoch())
            seconds = [timed(take, device) for _ in range(2 + sizes.steps)][2:]  # in the first two, things are made ready
            lines.append(f"{name}, {method} {1e3 * statistics.median(seconds):.1f} ms")
    return f"a step of {' '.join(sizes.model)} with {sizes.batch} and {sizes.meta_batch} images: {'; '.join(lines)}"


#: In the order of what breaks most often.
CHECKS: tuple[Check, ...] = (check_gradient, check_resume, check_execution, check_speed)


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


def double_backward(
    model: nn.Module, inputs: Tensor, coefficients: Tensor, meta_inputs: Tensor, meta_targets: Tensor, learning_rate: float
) -> Tensor:
    """Return dL_meta/dC (B, K) by automatic differentiation through the look-ahead step (Eq. 3, 4, 7), as it is commonly written."""
    network, varied = Network(model), coefficients.clone().requires_grad_()
    with network.training_mode(), network.frozen_running_statistics():
        loss = -(varied * F.log_softmax(model(inputs), dim=1)).sum()
        gradients = torch.autograd.grad(loss, network.parameters, create_graph=True)
        ahead = [parameter - learning_rate * gradient for parameter, gradient in zip(network.parameters, gradients, strict=True)]
        with network.at(ahead):
            meta_loss = F.cross_entropy(model(meta_inputs), meta_targets)
    return torch.autograd.grad(meta_loss, varied)[0]


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


def timed(call: Callable[[], object], device: torch.device, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds that a call takes, with what it gives the device to do."""
    start = clock()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 1 where something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m repro.doctor", description=__doc__)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    options = parser.parse_args(arguments)

    def command() -> int:
        device = choose_device(options.device)
        print(f"{device_name(device)}, {', '.join(f'{name} {version}' for name, version in versions().items())}", flush=True)
        for check in CHECKS:
            name = check.__name__.removeprefix("check_")
            try:
                print(f"ok   {name}: {check(device, SMALL if device.type == 'cpu' else Sizes())}", flush=True)
            except (UserError, RuntimeError, OSError) as error:
                print(f"BAD  {name}: {str(error).partition(chr(10))[0]}")
                return 1
        return 0

    return exit_code_of(command)


if __name__ == "__main__":
    sys.exit(main())
