"""What ``python -m repro.doctor`` and the benchmarks measure with: calls that take turns, made images, a look-ahead by double backward."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.data.types import ImageSet, RawDataset
from repro.engine.network import Network

Name = TypeVar("Name", bound=Hashable)

#: By name; the CPU time of a step on one thread is what it would take with nothing else running.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}

#: Of :func:`made_images`, as CIFAR-100 has them.
CLASSES = 100


@dataclass(frozen=True)
class Sample:
    """Measured values of one quantity, a round each."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """Return the median."""
        return statistics.median(self.values)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Return the lower and the upper quartile, by linear interpolation."""
        lower, upper = np.quantile(self.values, [0.25, 0.75])
        return float(lower), float(upper)

    def over(self, other: Sample) -> Sample:
        """Return the quotients of the two, round by round."""
        return Sample(tuple(mine / theirs for mine, theirs in zip(self.values, other.values, strict=True)))


def synchronize(device: torch.device) -> None:
    """Wait until ``device`` has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def in_turns(
    calls: Mapping[Name, Callable[[], object]],
    *,
    repeats: int,
    device: torch.device,
    clock: str = "wall",
    before: Callable[[Name], None] = lambda name: None,
    at_least_s: float = 0.0,
    say: Callable[[str], None] = lambda text: None,
) -> dict[Name, Sample]:
    """Return the seconds of one call of each, measured ``repeats`` times in turns, so that a slow moment of the machine hits all of them.

    A measurement, by one of :data:`CLOCKS`, repeats the call until ``at_least_s`` seconds have gone by and divides, for calls shorter than
    the clock is good for. ``before`` is called with the name before each measurement, outside of it; ``say`` is told of each round.
    """
    now = CLOCKS[clock]
    seconds: dict[Name, list[float]] = {name: [] for name in calls}
    for index in range(repeats):
        for name, call in calls.items():
            before(name)
            synchronize(device)
            start, count = now(), 0
            while count == 0 or now() - start < at_least_s:
                call()
                count += 1
            synchronize(device)
            seconds[name].append((now() - start) / count)
        say(f"round {index + 1} of {repeats}")
    return {name: Sample(tuple(values)) for name, values in seconds.items()}


def made_images(num_images: int) -> RawDataset:
    """Return random pixels in the shape of CIFAR-100's."""
    numbers = np.random.default_rng(0)

    def some(number: int) -> ImageSet:
        return ImageSet(numbers.integers(0, 256, (number, 3, 32, 32), dtype=np.uint8), np.arange(number, dtype=np.int64) % CLASSES)

    return RawDataset(some(num_images), some(5 * CLASSES), tuple(map(str, range(CLASSES))), (0.5,) * 3, (0.25,) * 3)


def look_ahead(loss: Tensor, parameters: Sequence[Tensor], learning_rate: float) -> list[Tensor]:
    """Return ``parameters`` after a step of SGD on ``loss`` (Eq. 3), with its graph."""
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    return [parameter - learning_rate * gradient for parameter, gradient in zip(parameters, gradients, strict=True)]


def double_backward(
    model: nn.Module, inputs: Tensor, coefficients: Tensor, meta_inputs: Tensor, meta_targets: Tensor, learning_rate: float
) -> Tensor:
    """Return dL_meta/dC (B, K) by automatic differentiation through the look-ahead step (Eq. 3, 4, 7), as it is commonly written."""
    network, varied = Network(model), coefficients.clone().requires_grad_()
    with network.training_mode(), network.frozen_running_statistics():
        loss = -(varied * F.log_softmax(model(inputs), dim=1)).sum()
        with network.at(look_ahead(loss, network.parameters, learning_rate)):
            meta_loss = F.cross_entropy(model(meta_inputs), meta_targets)
    return torch.autograd.grad(meta_loss, varied)[0]
