"""Random numbers of an epoch's steps, on the device before the steps need them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from repro.engine.method import Context, Visit


class DrawnAhead:
    """Numbers for each visit: drawn on the CPU and copied once an epoch, since a copy in every step would make the device wait.

    Args:
        context: of the method.
        draw: returns the numbers (size, ...) of a step on the CPU, given the epoch, the step and the size of its batch.
    """

    def __init__(self, context: Context, draw: Callable[[int, int, int], Tensor]) -> None:
        self._context = context
        self._draw = draw
        self._epoch, self._first, self._size = -1, 0, 0
        self._drawn = torch.empty(0)

    def at(self, visit: Visit) -> Tensor:
        """Return the numbers (B, ...) of the step at ``visit``."""
        start = (visit.step - self._first) * self._size
        if visit.epoch != self._epoch or not 0 <= start < len(self._drawn):
            self._fill(visit)
            start = 0
        return self._drawn[start : start + len(visit.rows)]

    def _fill(self, visit: Visit) -> None:
        """Draw for the rest of the epoch: a resumed run begins within one."""
        self._epoch, self._first, self._size = visit.epoch, visit.step, len(visit.rows)
        last = max(self._context.steps_per_epoch - 1, visit.step)
        sizes = [self._size] * (last - visit.step)
        rest = len(self._context.observed) - last * self._size
        sizes.append(rest if sizes and 0 < rest < self._size else self._size)
        steps = range(visit.step, last + 1)
        parts = [self._draw(visit.epoch, step, size) for step, size in zip(steps, sizes, strict=True)]
        self._drawn = torch.cat(parts).to(self._context.device)
