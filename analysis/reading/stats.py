"""The statistics of a cell: what a few repeated runs say, and nothing that they do not."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

#: Runs that a cell must have before it is tested against another.
MIN_TESTED = 3


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


def render(summary: Summary, *, factor: float, decimals: int) -> str:
    """Return a cell's text: ``91.2 ± 0.3``; no ± at n = 1; ``(2/3)`` when runs are missing; ``div (1/3)`` when one diverged; ``—``.

    ``factor`` is 100 for percent.
    """
    filled = f" ({summary.n}/{summary.expected})" if summary.n < summary.expected else ""
    if summary.mean is None:
        return f"—{filled}"
    if summary.diverged:
        return f"div ({summary.diverged}/{summary.n}){',' if filled else ''}{filled}"
    text = rounded(summary.mean, factor, decimals)
    if summary.sd is not None:
        text += f" ± {rounded(summary.sd, factor, decimals)}"
    return text + filled


def factor(scale: str) -> float:
    """Return what a stored number is multiplied by where it is shown: fractions are shown in percent where the spec says so."""
    return 100.0 if scale == "percent" else 1.0


def rounded(value: float, factor: float, decimals: int) -> str:
    """Return ``value * factor`` with ``decimals`` digits after the point, never as ``-0.0``."""
    text = f"{value * factor:.{decimals}f}"
    return text.lstrip("-") if float(text) == 0.0 else text


def interval(summary: Summary, *, confidence: float = 0.95) -> tuple[float, float] | None:
    """Return the t interval of the mean, ``mean ± t(n - 1) sd / sqrt(n)``; ``None`` below n = 2 or when a run diverged."""
    if summary.mean is None or summary.sd is None:
        return None
    half = _t_quantile(summary.n - 1, confidence) * summary.sd / math.sqrt(summary.n)
    return summary.mean - half, summary.mean + half


@functools.cache
def _t_quantile(freedom: float, confidence: float) -> float:
    from scipy.stats import t

    return _digits(t.ppf(0.5 + confidence / 2, freedom))


def _digits(value: float) -> float:
    """Return eight digits of what scipy computes, which all its versions agree on: pages are compared byte by byte."""
    return float(f"{value:.8g}")


@dataclass(frozen=True)
class Contrast:
    """The spread of ``sum of weight * mean`` over independent cells: its standard error and degrees of freedom."""

    error: float
    freedom: float

    def half(self, confidence: float) -> float:
        """Return half the length of the t interval."""
        return _t_quantile(self.freedom, confidence) * self.error

    def p_value(self, difference: float) -> float:
        """Return the two-sided p value of the sum being 0 where it is ``difference``."""
        from scipy.stats import t

        if self.error == 0.0:
            return float(difference == 0.0)
        return _digits(2.0 * t.sf(abs(difference) / self.error, self.freedom))


def contrast(cells: Sequence[tuple[float, Summary]]) -> Contrast | None:
    """Return the spread of ``sum of weight * mean`` over independent cells, each given with its weight.

    The variance is the sum of ``weight^2 sd^2 / n``, with the degrees of freedom of Welch and Satterthwaite. ``None`` where a cell has no
    spread to go by: fewer than two runs, or one that diverged.
    """
    terms = []
    for weight, summary in cells:
        if summary.sd is None:
            return None
        terms.append((weight**2 * summary.sd**2 / summary.n, summary.n - 1))
    variance = math.fsum(term for term, _ in terms)
    freedom = variance**2 / math.fsum(term**2 / degrees for term, degrees in terms) if variance else 1.0
    return Contrast(math.sqrt(variance), freedom)


def welch(one: Summary, other: Summary) -> float | None:
    """Return the two-sided p value of Welch's t test that two cells have the same mean.

    ``None`` where it says nothing: fewer than three complete runs in either, or no spread in both.
    """
    if one.mean is None or one.sd is None or other.mean is None or other.sd is None or one.sd == other.sd == 0.0:
        return None
    if not (one.complete and other.complete and min(one.n, other.n) >= MIN_TESTED):
        return None
    from scipy.stats import ttest_ind_from_stats

    return _digits(float(ttest_ind_from_stats(one.mean, one.sd, one.n, other.mean, other.sd, other.n, equal_var=False).pvalue))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted by Holm's step-down rule, in the order given; below a level, all those rejected hold together at it."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted
