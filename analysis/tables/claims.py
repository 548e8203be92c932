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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from analysis.reading.evidence import open_source
from analysis.reading.reported import read_reported
from analysis.reading.results import Results, read_results
from analysis.reading.stats import contrast, factor, summarize
from sweeps.claims import Claim, Claims, Test
from sweeps.spec import Scale, load_spec

#: What a claim can come out as.
SUPPORTED, CONTRADICTED, UNDECIDED, NOT_RUN, WITHHELD = "supported", "contradicted", "undecided", "not run", "withheld"

_CONFIDENCE = 0.95

#: The values of one cell's runs, each with its run_id; ``None``: not done, or not measured.
Values = tuple[tuple[str, float | None], ...]


@dataclass(frozen=True)
class Comparison:
    """A weighted sum of cells' means, minus a constant; ``published`` is what the paper's numbers make of it."""

    label: str
    terms: tuple[tuple[float, Values], ...]
    constant: float = 0.0
    published: float | None = None


@dataclass(frozen=True)
class Outcome:
    """A claim at one scale, or one of its comparisons, as ``claims.csv`` has it; ``runs`` of ``runs_planned`` are done.

    Attributes:
        difference: ``None`` where runs are missing, NaN where one diverged.
        low_95, high_95: the t interval at 95%.
        low_adjusted, high_adjusted: that at the confidence that the verdict is given at.
        parts: of a claim, its comparisons.
    """

    comparison: str
    runs: int
    runs_planned: int
    published: float | None
    verdict: str = NOT_RUN
    difference: float | None = None
    low_95: float | None = None
    high_95: float | None = None
    low_adjusted: float | None = None
    high_adjusted: float | None = None
    parts: tuple[Outcome, ...] = ()


def examine(claims: Claims, scale: Scale, runs: Path) -> list[tuple[str, Claim, Outcome]]:
    """Return what the runs at ``scale`` say of each claim, after the checks that it rests on: ``sanity`` or ``claim``, it, its outcome."""
    cells = _Cells(scale, runs)
    sanity = [("sanity", claim, _outcome(claim, cells, 1.0 - claims.level)) for claim in claims.sanity]
    tested = [("claim", claim, _outcome(claim, cells, 1.0 - claims.level / len(claims.claims))) for claim in claims.claims]
    if any(outcome.verdict == CONTRADICTED for _, _, outcome in sanity):
        decided = (SUPPORTED, CONTRADICTED)
        tested = [(kind, claim, replace(item, verdict=WITHHELD) if item.verdict in decided else item) for kind, claim, item in tested]
    return sanity + tested


def _outcome(claim: Claim, cells: _Cells, confidence: float) -> Outcome:
    comparisons = [comparison for test in claim.tests for comparison in cells.comparisons(test)]
    parts = tuple(_compared(claim, item, confidence) for item in comparisons)
    if claim.combine == "every":
        return _least(claim, parts, *_runs(values for item in comparisons for _, values in item.terms))
    share = 1.0 / len(comparisons)
    published = [item.published for item in comparisons if item.published is not None]
    whole = Comparison(
        "all" if len(comparisons) > 1 else comparisons[0].label,
        tuple((share * weight, values) for item in comparisons for weight, values in item.terms),
        share * math.fsum(item.constant for item in comparisons),
        share * math.fsum(published) if len(published) == len(comparisons) else None,
    )
    return replace(_compared(claim, whole, confidence), parts=parts)


def _compared(claim: Claim, comparison: Comparison, confidence: float) -> Outcome:
    # A run that stands in several cells varies once: its weights are added up.
    weights: dict[Values, float] = {}
    for weight, values in comparison.terms:
        weights[values] = weights.get(values, 0.0) + weight
    outcome = Outcome(comparison.label, *_runs(weights), comparison.published)
    if outcome.runs < outcome.runs_planned or not outcome.runs:
        return outcome
    terms = [(weight, summarize([value for _, value in of if value is not None], expected=len(of))) for of, weight in weights.items()]
    difference = math.fsum(weight * (summary.mean or 0.0) for weight, summary in terms) - comparison.constant
    half, adjusted = (contrast(terms, confidence=level) for level in (_CONFIDENCE, confidence))
    outcome = replace(outcome, difference=difference, verdict=UNDECIDED)
    if half is None or adjusted is None:
        return outcome
    outcome = replace(outcome, low_95=difference - half, high_95=difference + half)
    outcome = replace(outcome, low_adjusted=difference - adjusted, high_adjusted=difference + adjusted)
    return replace(outcome, verdict=_verdict(claim, difference - adjusted, difference + adjusted))


def _verdict(claim: Claim, low: float, high: float) -> str:
    above, below = low > claim.margin, high < claim.margin
    wanted, other = (above, below) if claim.direction == "higher" else (below, above)
    return SUPPORTED if wanted else CONTRADICTED if other else UNDECIDED


def _runs(cells: Iterable[Values]) -> tuple[int, int]:
    """Return how many different runs stand in ``cells`` and are done, and how many in all."""
    runs = {run_id: value for values in cells for run_id, value in values}
    return sum(value is not None for value in runs.values()), len(runs)


def _least(claim: Claim, parts: tuple[Outcome, ...], runs: int, planned: int) -> Outcome:
    """Return the comparison that supports ``claim`` least, with the verdict on all."""
    sign = 1.0 if claim.direction == "higher" else -1.0
    published = min((part.published for part in parts if part.published is not None), key=lambda value: sign * value, default=None)
    verdict = next(verdict for verdict in (NOT_RUN, CONTRADICTED, UNDECIDED, SUPPORTED) if verdict in {part.verdict for part in parts})
    if verdict == NOT_RUN:
        return Outcome("the least of all", runs, planned, published, parts=parts)
    # One that diverged has no difference, and supports nothing.
    least = min(parts, key=lambda part: -math.inf if math.isnan(part.difference or 0.0) else sign * (part.difference or 0.0))
    return replace(least, runs=runs, runs_planned=planned, published=published, verdict=verdict, parts=parts)


class _Cells:
    """The cells of all tables and figures at one scale; each spec is read once."""

    def __init__(self, scale: Scale, runs: Path) -> None:
        self._scale = scale
        self._source = open_source(runs, scale)
        self._results = functools.cache(self._read)

    def comparisons(self, test: Test) -> Iterator[Comparison]:
        if test.metrics:
            for row, column in itertools.product(test.rows, test.columns):
                label = f"{test.spec}: {', '.join(filter(None, (row, column)))}: {' with '.join(test.metrics)}"
                yield Comparison(label, ((1.0, self._values(test, (row, column))),), test.above)
        for row, other, column in itertools.product(test.rows, test.over, test.columns):
            yield self._difference(test, (row, column), (other, column), f"{row} over {other}, {column}")
        for row, column, other in itertools.product(test.rows, test.columns, test.over_columns):
            yield self._difference(test, (row, column), (row, other), f"{column} over {other}, {row}")

    def _difference(self, test: Test, one: tuple[str, str], two: tuple[str, str], label: str) -> Comparison:
        reported = read_reported(load_spec(test.spec))
        published = reported[one].mean - reported[two].mean if one in reported and two in reported else None
        return Comparison(f"{test.spec}: {label}", ((1.0, self._values(test, one)), (-1.0, self._values(test, two))), 0.0, published)

    def _read(self, name: str) -> Results | None:
        return read_results(load_spec(name), self._scale, self._source) if self._source.plan_path(name).exists() else None

    def _values(self, test: Test, place: tuple[str, str]) -> Values:
        results = self._results(test.spec)
        if results is None:
            # As many runs as the spec repeats, none of which is done.
            repeats = self._scale.repeats.get(test.spec, load_spec(test.spec).repeats)
            return tuple((f"{test.spec}, {place}, {number}", None) for number in range(math.prod(map(len, repeats.values()))))
        cell = next(cell for cell in results.cells if cell.place == place)
        if test.metrics:
            values = [_measure(test, results.curves[results.curves["run_id"] == run_id]) for run_id in cell.run_ids]
        else:
            unit = factor(results.spec.value.scale)
            read = results.values(cell, results.spec.value.metric, results.rule(cell))
            values = [None if value is None else unit * value for value in read]
        return tuple((run_id, None if cell.untuned else value) for run_id, value in zip(cell.run_ids, values, strict=True))


def _measure(test: Test, curves: pd.DataFrame) -> float | None:
    """Return what ``test`` reads off the curves of a run; ``None`` where it has none."""
    curves = curves.sort_values("epoch")
    if test.kind == "correlation":
        return _correlation(curves, *test.metrics)
    values = list(curves["value"][curves["metric"] == test.metrics[0]])
    if not values:
        return None
    # A change is in percent: these metrics are fractions.
    return float(values[-1]) if test.kind == "above" else 100.0 * (values[-1] - values[0])


def _correlation(curves: pd.DataFrame, one: str, other: str) -> float | None:
    """Return Spearman's correlation of the last values of two series over the classes; 0 where one is constant."""
    last = curves.drop_duplicates("metric", keep="last").set_index("metric")["value"]
    series = [last.filter(like=family.removesuffix("{k}")).rename(lambda name: name.rpartition("/")[2]) for family in (one, other)]
    first, second = series[0].align(series[1], join="inner")
    if len(first) < 3:
        return None
    if first.nunique() == 1 or second.nunique() == 1:
        return 0.0
    return float(first.corr(second, method="spearman"))
