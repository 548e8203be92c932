"""The statistics of a cell: what a few repeated runs say, and nothing that they do not."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """What the runs of a cell say.

    Attributes:
        expected: runs that the cell is planned to have.
        n: runs that are done and have a value.
        diverged: those of the ``n`` whose value is not finite.
        mean: of all ``n`` values, so NaN when one diverged; ``None`` at n = 0.
        sd: the sample standard deviation (n - 1 in the denominator); ``None`` below n = 2 or when one diverged.
    """

    expected: int
    n: int
    diverged: int
    mean: float | None
    sd: float | None

    @property
    def complete(self) -> bool:
        """Whether every planned run is done and none diverged."""
        return 0 < self.n == self.expected and self.diverged == 0


def summarize(values: Sequence[float], *, expected: int) -> Summary:
    """Summarise the values of a cell's runs; the order of ``values`` does not matter to any bit of the result."""
    diverged = sum(not math.isfinite(value) for value in values)
    if diverged:
        return Summary(expected, len(values), diverged, math.nan, None)
    return Summary(
        expected=expected,
        n=len(values),
        diverged=0,
        mean=math.fsum(values) / len(values) if values else None,
        # stdev works in exact fractions.
        sd=statistics.stdev(values) if len(values) > 1 else None,
    )


def render(summary: Summary, *, factor: float, decimals: int, spread: bool) -> str:
    """Return a cell's text: ``91.2 ± 0.3``; no ± at n = 1; ``(2/3)`` when runs are missing; ``div (1/3)`` when one diverged; ``—``.

    ``factor`` is 100 for percent.
    """
    filled = f" ({summary.n}/{summary.expected})" if summary.n < summary.expected else ""
    if summary.mean is None:
        return f"—{filled}"
    if summary.diverged:
        return f"div ({summary.diverged}/{summary.n}){',' if filled else ''}{filled}"
    text = rounded(summary.mean, factor, decimals)
    if spread and summary.sd is not None:
        text += f" ± {rounded(summary.sd, factor, decimals)}"
    return text + filled


def rounded(value: float, factor: float, decimals: int) -> str:
    """Return ``value * factor`` with ``decimals`` digits after the point, never as ``-0.0``."""
    text = f"{value * factor:.{decimals}f}"
    return text.lstrip("-") if float(text) == 0.0 else text
