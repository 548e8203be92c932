"""Times of calls that take turns: one after the other, round after round, so that a slow moment of the machine hits all of them."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

Name = TypeVar("Name", bound=Hashable)

#: By name; the CPU time of a step on one thread is what it would take with nothing else running.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


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
) -> dict[Name, Sample]:
    """Return the seconds of one call of each, measured ``repeats`` times in turns by one of :data:`CLOCKS`.

    A measurement repeats the call until ``at_least_s`` seconds have gone by and divides, for calls shorter than the clock is good for.
    ``before`` is called with the name before each measurement, outside of it.
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


def say(text: str) -> None:
    """Tell whoever waits how far it is; results alone go to the standard output."""
    print(text, file=sys.stderr, flush=True)
