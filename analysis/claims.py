"""The claims of the paper, tested one by one: what ``sweeps/claims.yaml`` asks, answered from finished runs.

The rule, fixed before the runs of any scale. The difference of a claim is the mean of all its comparisons, each a difference of two cells'
means. Runs vary independently, so its variance is the sum of those of the cells' means, weighted as they enter, and its degrees of freedom
are Welch's and Satterthwaite's. A claim is *supported* where the whole t interval lies on the claimed side of its margin, *contradicted*
where it lies on the other, and *undecided* where it holds the margin; the interval's confidence is 1 - level / number of claims
(Bonferroni), so that all verdicts of a scale hold together. A claim that must hold in every comparison is supported where each of them is,
and contradicted where one of them is. A claim without all its runs has no verdict. Scales are never pooled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.collect import Collected, collect, plan_path, read_curves
from analysis.stats import Summary, contrast, summarize
from analysis.tables import fill_table
from sweeps.claims import Claim, Claims, Test
from sweeps.spec import Scale, Spec, TableSpec, load_spec

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
    """A claim at one scale, or one of its comparisons.

    Attributes:
        difference: ``None`` where runs are missing, NaN where one diverged.
        interval, adjusted: t intervals at 95%, and at the confidence that the verdict is given at.
        runs, planned: how many runs are done, of how many.
    """

    label: str
    difference: float | None
    interval: Bounds
    adjusted: Bounds
    runs: int
    planned: int
    published: float | None
    verdict: str
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
            outcome = Outcome(**{**vars(outcome), "verdict": WITHHELD})
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
    outcome = _compared(claim, whole, confidence)
    return Outcome(**{**vars(outcome), "parts": parts})


def _compared(claim: Claim, comparison: Comparison, confidence: float) -> Outcome:
    # A run that stands in several cells varies once: its weights are added up.
    merged: dict[Cell, float] = {}
    for weight, cell in comparison.cells:
        merged[cell] = merged.get(cell, 0.0) + weight
    done, planned = _runs(merged)

    def outcome(difference: float | None, verdict: str, interval: Bounds = None, adjusted: Bounds = None) -> Outcome:
        return Outcome(comparison.label, difference, interval, adjusted, done, planned, comparison.published, verdict)

    if done < planned or not planned:
        return outcome(None, NOT_RUN)
    weighted = [(weight, cell.summary) for cell, weight in merged.items()]
    if any(summary.diverged for _, summary in weighted):
        return outcome(math.nan, UNDECIDED)
    difference = math.fsum(weight * (summary.mean or 0.0) for weight, summary in weighted) - comparison.constant
    half, adjusted = (contrast(weighted, confidence=level) for level in (_CONFIDENCE, confidence))
    if half is None or adjusted is None:
        return outcome(difference, UNDECIDED)
    bounds = (difference - adjusted, difference + adjusted)
    above, below = bounds[0] > claim.margin, bounds[1] < claim.margin
    wanted, other = (above, below) if claim.direction == "higher" else (below, above)
    verdict = SUPPORTED if wanted else CONTRADICTED if other else UNDECIDED
    return outcome(difference, verdict, (difference - half, difference + half), bounds)


def _runs(cells: Iterable[Cell]) -> tuple[int, int]:
    """Return how many different runs stand in ``cells`` and are done, and how many in all."""
    runs = {name: value for cell in cells for name, value in cell.values}
    return sum(value is not None for value in runs.values()), len(runs)


def _every(claim: Claim, parts: Sequence[Outcome], runs: tuple[int, int]) -> Outcome:
    """Return the comparison that supports ``claim`` least, with the verdict on all; ``runs`` are how many are done, and how many in all."""
    verdicts = {part.verdict for part in parts}
    done, planned = runs
    published = [part.published for part in parts if part.published is not None]
    sign = 1.0 if claim.direction == "higher" else -1.0
    least = min((sign * value for value in published), default=None)
    paper = None if least is None else sign * least
    if NOT_RUN in verdicts:
        return Outcome("the least of all", None, None, None, done, planned, paper, NOT_RUN, tuple(parts))

    def strength(part: Outcome) -> float:
        if part.difference is None or math.isnan(part.difference):
            return -math.inf
        return sign * part.difference

    worst = min(parts, key=strength)
    verdict = CONTRADICTED if CONTRADICTED in verdicts else UNDECIDED if UNDECIDED in verdicts else SUPPORTED
    return Outcome(worst.label, worst.difference, worst.interval, worst.adjusted, done, planned, paper, verdict, tuple(parts))


class _Cells:
    """The cells of the specs at one scale, read once each."""

    def __init__(self, scale: Scale, runs: Path) -> None:
        self._scale, self._runs = scale, runs
        self._specs: dict[str, Spec] = {}
        self._tables: dict[str, dict[tuple[str, str], Cell]] = {}
        self._collected: dict[str, dict[tuple[str, str], Collected]] = {}

    def comparisons(self, test: Test) -> Iterator[Comparison]:
        """Yield what ``test`` compares."""
        spec = self._spec(test.spec)
        if test.kind == "over":
            pairs = [((row, column), (other, column)) for row in test.rows for other in test.over for column in test.columns]
            yield from (self._difference(spec, one, two) for one, two in pairs)
        elif test.kind == "over_columns":
            pairs = [((row, column), (row, other)) for row in test.rows for column in test.columns for other in test.over]
            yield from (self._difference(spec, one, two) for one, two in pairs)
        else:
            measures: dict[str, Callable[[Mapping[str, Mapping[int, float]]], float | None]] = {
                "change": lambda curves: _change(curves[test.metrics[0]]),
                "above": lambda curves: _last(curves[test.metrics[0]]),
                "correlation": lambda curves: _correlation(curves, *test.metrics),
            }
            for row in test.rows:
                for column in test.columns:
                    cell = self._measured(spec, (row, column), test.metrics, measures[test.kind])
                    label = f"{spec.name}: {', '.join(filter(None, (row, column)))}: {' with '.join(test.metrics)}"
                    yield Comparison(label, ((1.0, cell),), test.above)

    def _spec(self, name: str) -> Spec:
        if name not in self._specs:
            self._specs[name] = load_spec(name, self._scale)
        return self._specs[name]

    def _difference(self, spec: Spec, one: tuple[str, str], two: tuple[str, str]) -> Comparison:
        assert isinstance(spec, TableSpec)
        said = {(item.row, item.column): item.mean for item in spec.reported}
        published = said[one] - said[two] if one in said and two in said else None
        what = f"{one[0]} over {two[0]}, {one[1]}" if one[1] == two[1] else f"{one[1]} over {two[1]}, {one[0]}"
        return Comparison(f"{spec.name}: {what}", ((1.0, self._table_cell(spec, one)), (-1.0, self._table_cell(spec, two))), 0.0, published)

    def _table_cell(self, spec: TableSpec, place: tuple[str, str]) -> Cell:
        if spec.name not in self._tables:
            factor = 100.0 if spec.value.scale == "percent" else 1.0
            self._tables[spec.name] = {}
            for item in fill_table(spec, self._runs).filled if plan_path(spec, self._runs).exists() else ():
                names = [repeat.run.run_id for repeat in item.cell.repeats]
                values = [None if value is None else factor * value for value in item.values]
                self._tables[spec.name][item.place] = Cell(tuple(zip(names, values, strict=True)))
        return self._tables[spec.name].get(place, Cell(((f"{spec.name}, {place}", None),)))

    def _measured(
        self,
        spec: Spec,
        place: tuple[str, str],
        metrics: tuple[str, ...],
        measure: Callable[[Mapping[str, Mapping[int, float]]], float | None],
    ) -> Cell:
        if spec.name not in self._collected:
            found = collect(spec, self._runs) if plan_path(spec, self._runs).exists() else ()
            self._collected[spec.name] = {(item.row, item.column): item for item in found}
        cell = self._collected[spec.name].get(place)
        if cell is None:
            return Cell(((f"{spec.name}, {place}", None),))
        values: list[tuple[str, float | None]] = []
        for repeat in cell.repeats:
            value = measure(_Curves(repeat.run, metrics)) if repeat.run.done else None
            values.append((repeat.run.run_id, value))
        return Cell(tuple(values))


class _Curves(dict[str, Mapping[int, float]]):
    """The curves of a run: metric -> epoch -> value; of a series per class, those of every class, by its own name."""

    def __init__(self, run: object, metrics: Sequence[str]) -> None:
        from analysis.runs import Run, read_rows

        assert isinstance(run, Run)
        names: dict[str, None] = {}
        for metric in metrics:
            if metric.endswith("{k}"):
                first = next(iter(read_rows(run)), {})
                names.update(dict.fromkeys(name for name in first if name.startswith(metric.removesuffix("{k}"))))
            else:
                names[metric] = None
        super().__init__(read_curves(run, tuple(names)))


def _last(curve: Mapping[int, float]) -> float | None:
    return curve[max(curve)] if curve else None


def _change(curve: Mapping[int, float]) -> float | None:
    """Return the last value minus the first, in percent: these metrics are fractions."""
    return 100.0 * (curve[max(curve)] - curve[min(curve)]) if curve else None


def _correlation(curves: Mapping[str, Mapping[int, float]], one: str, other: str) -> float | None:
    from scipy.stats import rankdata

    def values(series: str) -> dict[str, float]:
        prefix = series.removesuffix("{k}")
        return {name.removeprefix(prefix): last for name in curves if name.startswith(prefix) and (last := _last(curves[name])) is not None}

    first, second = values(one), values(other)
    classes = sorted(first.keys() & second.keys())
    if len(classes) < 3:
        return None
    ranks = [rankdata([series[name] for name in classes]) for series in (first, second)]
    means = [math.fsum(rank) / len(classes) for rank in ranks]
    spread = [math.sqrt(math.fsum((value - mean) ** 2 for value in rank)) for rank, mean in zip(ranks, means, strict=True)]
    if 0.0 in spread:
        return 0.0
    return math.fsum((a - means[0]) * (b - means[1]) for a, b in zip(*ranks, strict=True)) / (spread[0] * spread[1])
