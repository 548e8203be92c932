"""The claims of the paper, tested one by one: what ``sweeps/claims.yaml`` asks, answered from finished runs.

The rule, fixed before the runs of any scale. The difference of a claim is the mean of all its comparisons, each a difference of two cells'
means. Runs vary independently, so its variance is the sum of those of the cells' means, weighted as they enter, and its degrees of freedom
are Welch's and Satterthwaite's. A claim is *supported* where the whole t interval lies on the claimed side of its margin, *contradicted*
where it lies on the other, and *undecided* where it holds the margin; the interval's confidence is 1 - level / number of claims
(Bonferroni), so that all verdicts of a scale hold together. A claim that must hold in every comparison is supported where each of them is,
and contradicted where one of them is. A claim without all its runs has no verdict; runs whose settings should have been tuned and were not
count as missing. Scales are never pooled.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from analysis.reading.cells import Collected, collect, has_plan
from analysis.reading.runs import Run, read_curves
from analysis.reading.stats import Summary, contrast, factor, summarize
from analysis.tables.table import fill_table
from sweeps.claims import Claim, Claims, Test
from sweeps.spec.load import Scale, Spec, TableSpec, load_spec

#: What a claim can come out as.
SUPPORTED, CONTRADICTED, UNDECIDED, NOT_RUN, WITHHELD = "supported", "contradicted", "undecided", "not run", "withheld"

_CONFIDENCE = 0.95
Bounds = tuple[float, float] | None


@dataclass(frozen=True)
class Cell:
    """The values of one cell's runs, by run id; ``None``: not done, or not measured."""

    values: tuple[tuple[str, float | None], ...]

    @property
    def summary(self) -> Summary:
        """What its runs say together."""
        return summarize([value for _, value in self.values if value is not None], expected=len(self.values))


@dataclass(frozen=True)
class Comparison:
    """A weighted sum of cells' means, minus a constant; ``published`` is what the paper's numbers make of it."""

    label: str
    cells: tuple[tuple[float, Cell], ...]
    constant: float = 0.0
    published: float | None = None


@dataclass(frozen=True)
class Outcome:
    """A claim at one scale, or one of its comparisons; ``runs`` of ``planned`` are done.

    Attributes:
        difference: ``None`` where runs are missing, NaN where one diverged.
        interval, adjusted: t intervals at 95%, and at the confidence that the verdict is given at.
    """

    label: str
    runs: int
    planned: int
    published: float | None
    verdict: str = NOT_RUN
    difference: float | None = None
    interval: Bounds = None
    adjusted: Bounds = None
    parts: tuple[Outcome, ...] = ()


@dataclass(frozen=True)
class Tested:
    """All claims at one scale."""

    scale: Scale
    sanity: tuple[tuple[Claim, Outcome], ...]
    claims: tuple[tuple[Claim, Outcome], ...]


def examine(claims: Claims, scale: Scale, runs: Path) -> Tested:
    """Return what the runs at ``scale`` say of each claim."""
    cells = _Cells(scale, runs)
    confidence = 1.0 - claims.level / max(1, len(claims.claims))
    sanity = tuple((claim, _outcome(claim, cells, 1.0 - claims.level)) for claim in claims.sanity)
    failed = any(outcome.verdict == CONTRADICTED for _, outcome in sanity)
    found = []
    for claim in claims.claims:
        outcome = _outcome(claim, cells, confidence)
        if failed and outcome.verdict not in (NOT_RUN, UNDECIDED):
            outcome = replace(outcome, verdict=WITHHELD)
        found.append((claim, outcome))
    return Tested(scale, sanity, tuple(found))


def _outcome(claim: Claim, cells: _Cells, confidence: float) -> Outcome:
    comparisons = [comparison for test in claim.tests for comparison in cells.comparisons(test)]
    parts = tuple(_compared(claim, item, confidence) for item in comparisons)
    if claim.every:
        return _every(claim, parts, _runs(cell for item in comparisons for _, cell in item.cells))
    share = 1.0 / len(comparisons)
    published = [item.published for item in comparisons if item.published is not None]
    whole = Comparison(
        "all" if len(comparisons) > 1 else comparisons[0].label,
        tuple((share * weight, cell) for item in comparisons for weight, cell in item.cells),
        share * math.fsum(item.constant for item in comparisons),
        share * math.fsum(published) if len(published) == len(comparisons) else None,
    )
    return replace(_compared(claim, whole, confidence), parts=parts)


def _compared(claim: Claim, comparison: Comparison, confidence: float) -> Outcome:
    # A run that stands in several cells varies once: its weights are added up.
    merged: dict[Cell, float] = {}
    for weight, cell in comparison.cells:
        merged[cell] = merged.get(cell, 0.0) + weight
    found = Outcome(comparison.label, *_runs(merged), comparison.published)
    if found.runs < found.planned or not found.planned:
        return found
    weighted = [(weight, cell.summary) for cell, weight in merged.items()]
    if any(summary.diverged for _, summary in weighted):
        return replace(found, difference=math.nan, verdict=UNDECIDED)
    difference = math.fsum(weight * (summary.mean or 0.0) for weight, summary in weighted) - comparison.constant
    half, adjusted = (contrast(weighted, confidence=level) for level in (_CONFIDENCE, confidence))
    if half is None or adjusted is None:
        return replace(found, difference=difference, verdict=UNDECIDED)
    bounds = (difference - adjusted, difference + adjusted)
    above, below = bounds[0] > claim.margin, bounds[1] < claim.margin
    wanted, other = (above, below) if claim.direction == "higher" else (below, above)
    verdict = SUPPORTED if wanted else CONTRADICTED if other else UNDECIDED
    return replace(found, difference=difference, interval=(difference - half, difference + half), adjusted=bounds, verdict=verdict)


def _runs(cells: Iterable[Cell]) -> tuple[int, int]:
    """Return how many different runs stand in ``cells`` and are done, and how many in all."""
    runs = {name: value for cell in cells for name, value in cell.values}
    return sum(value is not None for value in runs.values()), len(runs)


def _every(claim: Claim, parts: tuple[Outcome, ...], runs: tuple[int, int]) -> Outcome:
    """Return the comparison that supports ``claim`` least, with the verdict on all; ``runs`` are how many are done, and how many in all."""
    sign = 1.0 if claim.direction == "higher" else -1.0
    published = min((part.published for part in parts if part.published is not None), key=lambda value: sign * value, default=None)
    whole = Outcome("the least of all", *runs, published, parts=parts)
    verdicts = {part.verdict for part in parts}
    if NOT_RUN in verdicts:
        return whole

    worst = min(parts, key=lambda part: -math.inf if part.difference is None or math.isnan(part.difference) else sign * part.difference)
    verdict = next(verdict for verdict in (CONTRADICTED, UNDECIDED, SUPPORTED) if verdict in verdicts)
    return replace(whole, label=worst.label, difference=worst.difference, interval=worst.interval, adjusted=worst.adjusted, verdict=verdict)


class _Cells:
    def __init__(self, scale: Scale, runs: Path) -> None:
        self._runs = runs
        self._spec = functools.cache(lambda name: load_spec(name, scale))
        self._tables = functools.cache(self._table)
        self._collected = functools.cache(self._collect)

    def comparisons(self, test: Test) -> Iterator[Comparison]:
        if test.kind == "over":
            pairs = [((row, column), (other, column)) for row in test.rows for other in test.over for column in test.columns]
            yield from (self._difference(test.spec, one, two) for one, two in pairs)
        elif test.kind == "over_columns":
            pairs = [((row, column), (row, other)) for row in test.rows for column in test.columns for other in test.over_columns]
            yield from (self._difference(test.spec, one, two) for one, two in pairs)
        else:
            for place in itertools.product(test.rows, test.columns):
                label = f"{test.spec}: {', '.join(filter(None, place))}: {' with '.join(test.metrics)}"
                yield Comparison(label, ((1.0, self._measured(test, place)),), test.above)

    def _difference(self, name: str, one: tuple[str, str], two: tuple[str, str]) -> Comparison:
        said = {(item.row, item.column): item.mean for item in self._spec(name).reported}
        published = said[one] - said[two] if one in said and two in said else None
        what = f"{one[0]} over {two[0]}, {one[1]}" if one[1] == two[1] else f"{one[1]} over {two[1]}, {one[0]}"
        cells = [self._tables(name).get(place) or _unknown(self._spec(name), place) for place in (one, two)]
        return Comparison(f"{name}: {what}", ((1.0, cells[0]), (-1.0, cells[1])), 0.0, published)

    def _table(self, name: str) -> dict[tuple[str, str], Cell]:
        spec = self._spec(name)
        assert isinstance(spec, TableSpec)
        filled = fill_table(spec, self._runs) if has_plan(spec, self._runs) else []
        unit = factor(spec.value.scale)
        return {
            item.place: Cell(
                tuple((repeat.run.run_id, None if value is None or item.cell.untuned else unit * value) for repeat, value in item.runs)
            )
            for item in filled
        }

    def _collect(self, name: str) -> dict[tuple[str, str], Collected]:
        spec = self._spec(name)
        return {cell.place: cell for cell in collect(spec, self._runs)} if has_plan(spec, self._runs) else {}

    def _measured(self, test: Test, place: tuple[str, str]) -> Cell:
        cell = self._collected(test.spec).get(place)
        if cell is None:
            return _unknown(self._spec(test.spec), place)
        tuned = not cell.untuned
        return Cell(tuple((item.run.run_id, _measure(test, item.run) if item.run.done and tuned else None) for item in cell.repeats))


def _unknown(spec: Spec, place: tuple[str, str]) -> Cell:
    """Return the cell of a spec without a plan: as many runs as the spec repeats, none of which is done."""
    return Cell(tuple((f"{spec.name}, {place}, {number}", None) for number in range(len(spec.repeats))))


def _measure(test: Test, run: Run) -> float | None:
    """Return what ``test`` reads off the curves of a run; ``None`` where it has none."""
    curves = read_curves(run, test.metrics)
    if test.kind == "correlation":
        return _correlation(curves, *test.metrics)
    curve = curves[test.metrics[0]]
    if not curve:
        return None
    last = curve[max(curve)]
    # A change is in percent: these metrics are fractions.
    return last if test.kind == "above" else 100.0 * (last - curve[min(curve)])


def _correlation(curves: Mapping[str, Mapping[int, float]], one: str, other: str) -> float | None:
    """Return Spearman's correlation of the last values of two series over the classes; 0 where one is constant."""
    from scipy.stats import spearmanr

    def values(series: str) -> dict[str, float]:
        prefix = series.removesuffix("{k}")
        return {name.removeprefix(prefix): curve[max(curve)] for name, curve in curves.items() if name.startswith(prefix)}

    first, second = values(one), values(other)
    classes = sorted(first.keys() & second.keys())
    if len(classes) < 3:
        return None
    pair = [[series[name] for name in classes] for series in (first, second)]
    if any(len(set(series)) == 1 for series in pair):
        return 0.0
    return float(spearmanr(pair[0], pair[1]).statistic)
