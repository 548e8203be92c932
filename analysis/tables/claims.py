"""The claims of the paper, tested one by one: what ``sweeps/claims.yaml`` asks, answered from finished runs.

The difference of a claim is the mean of all its comparisons, each a difference of two cells' means. Runs vary independently, so its
variance is the sum of those of the cells' means, weighted as they enter (of runs that stand in both, of their differences), and its degrees
of freedom are Welch's and Satterthwaite's. The verdicts of a scale hold together at one level. A claim is *supported*, or *contradicted*,
where its p value against its threshold is below the level after Holm's correction over all claims, and the difference lies on the claimed
side, or on the other. Otherwise it is *equivalent* where the whole interval at confidence 1 - level / number of claims (Bonferroni) lies
within its margin around 0, and *undecided* where it does not. Freed levels go to no equivalence: with them a family errs three times as
often (``tests/unit/analysis/test_claims.py`` simulates both). A claim that must hold in every comparison is supported where each of them
is, at the claim's level, and contradicted where one of them is, at that level divided by their number. A claim without all its runs has no
verdict; runs whose settings should have been tuned and were not count as missing. Scales are never pooled.

What is measured beside the claims is judged by its 95% interval, each comparison by itself: *differs*, *equivalent* or *undecided*.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from analysis.reading.evidence import open_source
from analysis.reading.reported import read_reported
from analysis.reading.results import Results, read_results
from analysis.reading.stats import contrast, factor, holm, summarize
from sweeps.claims import Claim, Claims, Measure, Test
from sweeps.scales import Scale
from sweeps.spec import load_spec

#: What a claim can come out as, and what is measured.
SUPPORTED, CONTRADICTED, EQUIVALENT, UNDECIDED, NOT_RUN, WITHHELD = (
    "supported",
    "contradicted",
    "equivalent",
    "undecided",
    "not run",
    "withheld",
)
DIFFERS = "differs"

_CONFIDENCE = 0.95

#: The values of one cell's runs, each with its run_id; ``None``: not done, or not measured. Nothing where there is no plan.
Values = tuple[tuple[str, float | None], ...]

#: Returns the cells of a spec; ``None`` where there is no plan.
Read = Callable[[str], Results | None]


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
        low_adjusted, high_adjusted: that at Bonferroni's confidence.
        p_value: of the threshold; of a claim after Holm's correction.
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
    p_value: float | None = None
    parts: tuple[Outcome, ...] = ()


#: A claim with its outcome, and what it is: ``sanity``, ``claim``, ``equal tuning`` or ``measured``.
Tested = tuple[str, Measure, Outcome]


def examine(claims: Claims, scale: Scale, runs: Path, seeds: Collection[int] | None = None) -> list[Tested]:
    """Return what the runs at ``scale``, or those with the ``seeds``, say of each claim, after the checks that it rests on."""
    source = open_source(runs, scale)

    @functools.cache
    def read(name: str) -> Results | None:
        if not source.plan_path(name).exists():
            return None
        results = read_results(load_spec(name), scale, source)
        return results if seeds is None else results.only("seed", seeds)

    tested: list[Tested] = []
    families = [("sanity", [claim]) for claim in claims.sanity] + [("claim", claims.claims), ("equal tuning", claims.equal_tuning)]
    for kind, members in families:
        outcomes = [_outcome(claim, read, 1.0 - claims.level / len(members)) for claim in members]
        tested += zip(itertools.repeat(kind), members, decided(members, outcomes, claims.level), strict=False)
    if any(kind == "sanity" and outcome.verdict == CONTRADICTED for kind, _, outcome in tested):
        tested = [
            (kind, claim, replace(item, verdict=WITHHELD) if kind != "sanity" and item.verdict not in (UNDECIDED, NOT_RUN) else item)
            for kind, claim, item in tested
        ]
    for measure in claims.measured:
        for comparison in (comparison for test in measure.tests for comparison in _comparisons(test, read)):
            tested.append(("measured", measure, _compared(measure, comparison, _CONFIDENCE)))
    return tested


def _outcome(claim: Claim, read: Read, confidence: float) -> Outcome:
    comparisons = [comparison for test in claim.tests for comparison in _comparisons(test, read)]
    share = 1.0 / len(comparisons)
    published = [item.published for item in comparisons if item.published is not None]
    whole = Comparison(
        "all" if len(comparisons) > 1 else comparisons[0].label,
        tuple((share * weight, values) for item in comparisons for weight, values in item.terms),
        share * math.fsum(item.constant for item in comparisons),
        share * math.fsum(published) if len(published) == len(comparisons) else None,
    )
    parts = tuple(_compared(claim, item, confidence) for item in comparisons)
    outcome = replace(_compared(claim, whole, confidence), parts=parts)
    return _least(claim, outcome) if claim.combine == "every" else outcome


def _compared(claim: Measure, comparison: Comparison, confidence: float) -> Outcome:
    # A run that stands in several cells, or that is read at several epochs, varies once: what it enters with is added up.
    entries: dict[tuple[str, ...], list[list[float | None]]] = {}
    for weight, values in comparison.terms:
        weighted = [None if value is None else weight * value for _, value in values]
        entries.setdefault(tuple(run_id for run_id, _ in values), []).append(weighted)
    # Different runs, of which several cells may have one.
    missing = {run_id for _, values in comparison.terms for run_id, value in values if value is None}
    planned = len({run_id for ids in entries for run_id in ids})
    if missing or not all(entries):
        return Outcome(comparison.label, planned - len(missing), planned, comparison.published)
    sums = [[math.fsum(filter(None, of_run)) for of_run in zip(*cells, strict=True)] for cells in entries.values()]
    terms = [(1.0, summarize(values, expected=len(values))) for values in sums]
    difference = math.fsum(summary.mean or 0.0 for _, summary in terms) - comparison.constant
    spread = contrast(terms)
    if spread is None:
        return Outcome(comparison.label, planned, planned, comparison.published, UNDECIDED, difference)
    half, adjusted = spread.half(_CONFIDENCE), spread.half(confidence)
    bounds = difference - half, difference + half, difference - adjusted, difference + adjusted
    verdict, p_value = verdict_of(claim, *bounds[2:]), spread.p_value(difference - claim.threshold)
    return Outcome(comparison.label, planned, planned, comparison.published, verdict, difference, *bounds, p_value)


def verdict_of(claim: Measure, low: float, high: float) -> str:
    """Return what the interval from ``low`` to ``high`` says by itself."""
    above, below = low > claim.threshold, high < claim.threshold
    if above or below:
        return _side(claim, above=above)
    return EQUIVALENT if -claim.margin < low and high < claim.margin else UNDECIDED


def _side(claim: Measure, *, above: bool) -> str:
    if claim.direction == "either":
        return DIFFERS
    return SUPPORTED if above == (claim.direction == "higher") else CONTRADICTED


def decided(claims: Sequence[Claim], outcomes: Sequence[Outcome], level: float) -> list[Outcome]:
    """Return the ``outcomes`` with the verdicts that hold together at ``level``; on ``claims`` that are judged as one family."""
    sides = [_p_values(claim, outcome) for claim, outcome in zip(claims, outcomes, strict=True)]
    made = []
    for outcome, of_side, p_value in zip(outcomes, sides, holm([min(of_side.values()) for of_side in sides]), strict=True):
        if outcome.verdict == NOT_RUN:
            made.append(outcome)
            continue
        verdict = EQUIVALENT if outcome.verdict == EQUIVALENT else UNDECIDED
        if p_value <= level:
            verdict = min(of_side, key=of_side.__getitem__)
        made.append(replace(outcome, verdict=verdict, p_value=p_value))
    return made


def _p_values(claim: Claim, outcome: Outcome) -> dict[str, float]:
    """Return the p value of each verdict that says which side a difference is on."""
    parts = outcome.parts if claim.combine == "every" else (outcome,)
    found: dict[str, list[float]] = {SUPPORTED: [], CONTRADICTED: []}
    for part in parts:
        if part.p_value is not None and part.difference is not None:
            found[_side(claim, above=part.difference > claim.threshold)].append(part.p_value)
    # Each comparison must support a claim; one of them is enough against it, so it counts as many times as there are.
    supported = max(found[SUPPORTED]) if len(found[SUPPORTED]) == len(parts) else 1.0
    return {SUPPORTED: supported, CONTRADICTED: min(1.0, len(parts) * min(found[CONTRADICTED], default=1.0))}


def _least(claim: Claim, whole: Outcome) -> Outcome:
    """Return the comparison that supports ``claim`` least, with the verdict on all."""
    sign = 1.0 if claim.direction == "higher" else -1.0
    published = min((part.published for part in whole.parts if part.published is not None), key=lambda value: sign * value, default=None)
    verdicts = {part.verdict for part in whole.parts}
    verdict = next(verdict for verdict in (NOT_RUN, CONTRADICTED, UNDECIDED, EQUIVALENT, SUPPORTED) if verdict in verdicts)
    if verdict == NOT_RUN:
        return replace(whole, comparison="the least of all", published=published)
    # One that diverged has no difference, and supports nothing.
    differences = [math.nan if part.difference is None else part.difference for part in whole.parts]
    supports = [-math.inf if math.isnan(difference) else sign * difference for difference in differences]
    least = whole.parts[supports.index(min(supports))]
    return replace(least, runs=whole.runs, runs_planned=whole.runs_planned, published=published, verdict=verdict, parts=whole.parts)


def _comparisons(test: Test, read: Read) -> Iterator[Comparison]:
    reported = read_reported(load_spec(test.spec))
    for row, column in itertools.product(test.rows, test.columns):
        one, values = (row, column), _values(test, read, row, column)
        label = f"{test.spec}: {', '.join(filter(None, one))}"
        if test.metrics:
            yield Comparison(f"{label}: {' with '.join(test.metrics)}", ((1.0, values),), test.above)
        for two in [(other, column) for other in test.over] + [(row, other) for other in test.over_columns]:
            pair = f"{row} over {two[0]}, {column}" if test.over else f"{row}, {column} over {two[1]}"
            published = reported[one].mean - reported[two].mean if one in reported and two in reported else None
            yield Comparison(f"{test.spec}: {pair}", ((1.0, values), (-1.0, _values(test, read, *two))), 0.0, published)


def _values(test: Test, read: Read, row: str, column: str) -> Values:
    results = read(test.spec)
    if results is None:
        return ()
    cell = next(cell for cell in results.cells if cell.place == (row, column))
    if cell.untuned:
        values: Iterable[float | None] = [None] * len(cell.run_ids)
    elif test.metrics:
        values = [_measure(test, results.curves[results.curves["run_id"] == run_id]) for run_id in cell.run_ids]
    else:
        unit = factor(results.spec.value.scale)
        read_values = results.values(cell, results.spec.value.metric, results.rule(cell))
        values = [None if value is None else unit * value for value in read_values]
    return tuple(zip(cell.run_ids, values, strict=True))


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
