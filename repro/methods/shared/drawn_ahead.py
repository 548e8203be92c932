"""Random numbers for each visit of an image, drawn and copied to the device once an epoch: a copy in every step would make it wait."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from repro.engine.method import Context, Visit
from repro.randomness import Stream


class DrawnAhead:
    """Numbers (B,) for each step, a function of the seed, ``names``, the epoch and the step.

    Args:
        context: of the method.
        names: what tells the stream from others.
        transform: makes them of numbers in [0, 1), float64 on the CPU, element by element.
    """

    def __init__(self, context: Context, *names: str, transform: Callable[[Tensor], Tensor] = torch.Tensor.clone) -> None:
        self._context, self._names, self._transform = context, names, transform
        self._epoch, self._first, self._drawn = -1, 0, torch.empty(0, 0)

    def at(self, visit: Visit) -> Tensor:
        """Return the numbers (B,) of the step at ``visit``, on the device."""
        if visit.epoch != self._epoch or not 0 <= visit.step - self._first < len(self._drawn):
            # For the rest of the epoch, since a resumed run begins within one. A smaller batch takes the first numbers of its step.
            last = max(self._context.steps_per_epoch, visit.step + 1)
            streams = (Stream(self._context.seed, "method", *self._names, visit.epoch, step) for step in range(visit.step, last))
            drawn = torch.stack([self._transform(torch.from_numpy(stream.uniform(len(visit.rows)))) for stream in streams])
            self._drawn = drawn.to(torch.get_default_dtype()).to(self._context.device)
            self._epoch, self._first = visit.epoch, visit.step
        return self._drawn[visit.step - self._first, : len(visit.rows)]
