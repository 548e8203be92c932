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
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from analysis.reading.evidence import open_source
from analysis.reading.reported import read_reported
from analysis.reading.results import Results, read_results
from analysis.reading.stats import contrast, factor, rounded, summarize
from analysis.tables.page import csv_bytes, disclaimer_lines, grid_lines
from sweeps.claims import Claim, Claims, Test, load_claims
from sweeps.spec import Scale, load_scale, load_spec

#: What a claim can come out as.
SUPPORTED, CONTRADICTED, UNDECIDED, NOT_RUN, WITHHELD = "supported", "contradicted", "undecided", "not run", "withheld"

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
    source = open_source(runs, scale)

    @functools.cache
    def read(name: str) -> Results | None:
        return read_results(load_spec(name), scale, source) if source.plan_path(name).exists() else None

    sanity = [("sanity", claim, _outcome(claim, read, 1.0 - claims.level)) for claim in claims.sanity]
    tested = [("claim", claim, _outcome(claim, read, 1.0 - claims.level / len(claims.claims))) for claim in claims.claims]
    if any(outcome.verdict == CONTRADICTED for _, _, outcome in sanity):
        decided = (SUPPORTED, CONTRADICTED)
        tested = [(kind, claim, replace(item, verdict=WITHHELD) if item.verdict in decided else item) for kind, claim, item in tested]
    return sanity + tested


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


def _compared(claim: Claim, comparison: Comparison, confidence: float) -> Outcome:
    # A run that stands in several cells varies once: its weights are added up.
    weights: dict[Values, float] = {}
    for weight, values in comparison.terms:
        weights[values] = weights.get(values, 0.0) + weight
    # Different runs, of which several cells may have one.
    runs = {run_id: value for values in weights for run_id, value in values}
    done = sum(value is not None for value in runs.values())
    if done < len(runs) or not all(weights):
        return Outcome(comparison.label, done, len(runs), comparison.published)
    terms = [(weight, summarize([value for _, value in of if value is not None], expected=len(of))) for of, weight in weights.items()]
    difference = math.fsum(weight * (summary.mean or 0.0) for weight, summary in terms) - comparison.constant
    half, adjusted = (contrast(terms, confidence=level) for level in (_CONFIDENCE, confidence))
    if half is None or adjusted is None:
        return Outcome(comparison.label, done, len(runs), comparison.published, UNDECIDED, difference)
    bounds = difference - half, difference + half, difference - adjusted, difference + adjusted
    return Outcome(comparison.label, done, len(runs), comparison.published, _verdict(claim, *bounds[2:]), difference, *bounds)


def _verdict(claim: Claim, low: float, high: float) -> str:
    above, below = low > claim.margin, high < claim.margin
    wanted, other = (above, below) if claim.direction == "higher" else (below, above)
    return SUPPORTED if wanted else CONTRADICTED if other else UNDECIDED


def _least(claim: Claim, whole: Outcome) -> Outcome:
    """Return the comparison that supports ``claim`` least, with the verdict on all."""
    sign = 1.0 if claim.direction == "higher" else -1.0
    published = min((part.published for part in whole.parts if part.published is not None), key=lambda value: sign * value, default=None)
    verdicts = {part.verdict for part in whole.parts}
    verdict = next(verdict for verdict in (NOT_RUN, CONTRADICTED, UNDECIDED, SUPPORTED) if verdict in verdicts)
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
            published = reported[one].mean - reported[two].mean if one in reported and two in reported else None
            yield Comparison(f"{label} over {', '.join(two)}", ((1.0, values), (-1.0, _values(test, read, *two))), 0.0, published)


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


#: The files, below the folder of the pages.
PAGE, TABLE = "claims.md", "claims.csv"

_HEAD = """\
# What the paper claims, and what these runs say

{count} claims, in our own words, and their tests are in `sweeps/claims.yaml`. The rule was fixed before the runs:

- The difference of a claim is the mean of all its comparisons, each a difference between the means of two cells, in points of test \
accuracy (%) unless the claim says otherwise. Published differences are computed from the published means in the same way.
- The intervals are Welch's, over the variation between runs on the same test images. The 95% interval is shown; the verdict uses the \
interval at {each:.2f}%, so that all {count} verdicts of a scale hold together at {together:g}%.
- *Supported*: the whole interval lies on the claimed side of the margin (0 unless given). *Contradicted*: on the other side. \
*Undecided*: the interval contains the margin, or a run diverged. *Not run*: runs are missing, or have settings that are not tuned yet. \
*Withheld*: a sanity check of the scale is contradicted.
- A claim that must hold in every comparison shows the comparison that supports it least; its verdict is over all comparisons.
- Scales are never pooled. [claims.csv](claims.csv) has every comparison behind each line.
"""


def claims_files(runs: Path, claims: Claims | None = None) -> dict[str, bytes]:
    """Return the page and the table of the claims from the run folders and plans in ``runs``: name -> content.

    Raises:
        UserError: the claims have a mistake; a plan does not fit its spec.
    """
    claims = claims or load_claims()
    count, level = len(claims.claims), claims.level
    page = [_HEAD.format(count=count, each=100 * (1 - level / count), together=100 * (1 - level))]
    rows = []
    for scale in map(load_scale, claims.scales):
        tested = examine(claims, scale, runs)
        page += [f"## Scale: {scale.name}", "", *disclaimer_lines(scale)]
        for kind, title in (("sanity", "Sanity:"), ("claim", "Claims:")):
            page += [title, "", *_grid([(claim, outcome) for of, claim, outcome in tested if of == kind]), ""]
        for kind, claim, whole in tested:
            for outcome in (whole, *(whole.parts if len(whole.parts) > 1 else ())):
                row = {"scale": scale.name, "kind": kind if outcome is whole else f"comparison of {kind}", "id": claim.id, **vars(outcome)}
                del row["parts"]
                rows.append(row | {"margin": claim.margin, "direction": claim.direction})
    page += ["---", "", "- To rebuild this page: `python -m analysis claims`.", ""]
    return {PAGE: "\n".join(page).encode(), TABLE: csv_bytes(rows)}


def short_table(scale: Scale, runs: Path) -> list[str]:
    """Return the lines of a Markdown table of the claims at one scale, for the README."""
    tested = [(claim, outcome) for kind, claim, outcome in examine(load_claims(), scale, runs) if kind == "claim"]
    body = [[claim.text, _published(claim, outcome), _difference(outcome), outcome.verdict] for claim, outcome in tested]
    return grid_lines(["claim", "paper", "here (95% interval)", "verdict"], body)


def _grid(outcomes: Sequence[tuple[Claim, Outcome]]) -> list[str]:
    body = []
    for claim, outcome in outcomes:
        numbers = [_published(claim, outcome), _difference(outcome), f"{outcome.runs} of {outcome.runs_planned}"]
        body.append([claim.text, claim.source, *numbers, outcome.verdict])
    return grid_lines(["claim", "where", "paper", "difference (95% interval)", "runs", "verdict"], body, left=2)


def _published(claim: Claim, outcome: Outcome) -> str:
    return claim.published or ("—" if outcome.published is None else f"{outcome.published:+.1f}")


def _difference(outcome: Outcome) -> str:
    if outcome.difference is None:
        return "—"
    if math.isnan(outcome.difference):
        return "diverged"
    digits = 1 if abs(outcome.difference) >= 1.0 else 2
    text = f"{outcome.difference:+.{digits}f}"
    if outcome.low_95 is None or outcome.high_95 is None:
        return text
    return f"{text} ({rounded(outcome.low_95, 1.0, digits)} to {rounded(outcome.high_95, 1.0, digits)})"
