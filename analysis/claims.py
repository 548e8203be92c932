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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.collect import Collected, collect, plan_path, read_curves
from analysis.page import csv_bytes, grid_lines
from analysis.stats import Summary, contrast, rounded, summarize
from analysis.tables import fill_table
from sweeps.claims import Claim, Claims, Test, load_claims
from sweeps.spec import Scale, Spec, TableSpec, load_scale, load_spec

#: The files, below the folder of the pages.
PAGE, TABLE = "claims.md", "claims.csv"

#: What a claim can come out as.
SUPPORTED, CONTRADICTED, UNDECIDED, NOT_RUN, WITHHELD = "supported", "contradicted", "undecided", "not run", "withheld"

_CONFIDENCE = 0.95
_Bounds = tuple[float, float] | None
_COLUMNS = (
    *("scale", "kind", "id", "comparison", "difference", "low_95", "high_95", "low_adjusted", "high_adjusted", "margin", "direction"),
    *("runs", "runs_planned", "published", "verdict"),
)


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
    interval: _Bounds
    adjusted: _Bounds
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


def claims_files(runs: Path, claims: Claims | None = None) -> dict[str, bytes]:
    """Return the page and the table of the claims from the run folders and plans in ``runs``: name -> content.

    Raises:
        UserError: the claims have a mistake; a plan does not fit its spec.
    """
    claims = load_claims() if claims is None else claims
    tested = [test_claims(claims, load_scale(name), runs) for name in claims.scales]
    return {PAGE: _page(claims, tested).encode(), TABLE: csv_bytes(_rows(tested), columns=_COLUMNS)}


def test_claims(claims: Claims, scale: Scale, runs: Path) -> Tested:
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
        return _every(claim, parts)
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
    runs = {name: value for cell in merged for name, value in cell.values}
    done = sum(value is not None for value in runs.values())

    def outcome(difference: float | None, verdict: str, interval: _Bounds = None, adjusted: _Bounds = None) -> Outcome:
        return Outcome(comparison.label, difference, interval, adjusted, done, len(runs), comparison.published, verdict)

    if done < len(runs) or not runs:
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


def _every(claim: Claim, parts: Sequence[Outcome]) -> Outcome:
    """Return the comparison that supports ``claim`` least, with the verdict on all."""
    verdicts = {part.verdict for part in parts}
    planned, done = sum(part.planned for part in parts), sum(part.runs for part in parts)
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


def _page(claims: Claims, tested: Sequence[Tested]) -> str:
    count = len(claims.claims)
    lines = [
        "# What the paper claims, and what these runs say",
        "",
        f"{count} claims, each in our own words and each with its test, stand in `sweeps/claims.yaml`. The rule was fixed before the runs:",
        "",
        "- The difference of a claim is the mean of all its comparisons, each a difference between the means of two cells, in points of "
        "test accuracy (%) unless the claim says otherwise. Published differences are made of the published means in the same way.",
        "- The intervals are Welch's, over the variation between runs on the same test images. The 95% interval is shown; the verdict is "
        f"given by the interval at {100 * (1 - claims.level / count):.2f}%, so that all {count} verdicts of a scale hold together at "
        f"{100 * (1 - claims.level):g}%.",
        "- *Supported*: the whole interval lies on the claimed side of the margin (0 unless given). *Contradicted*: on the other side. "
        "*Undecided*: it holds the margin, or a run diverged. *Not run*: runs are missing. *Withheld*: a sanity check of the scale is "
        "contradicted.",
        "- A claim that must hold in every comparison shows the one that supports it least; its verdict is that of all.",
        "- Scales are never pooled. What stands behind each line, comparison by comparison, is in [claims.csv](claims.csv).",
        "",
    ]
    for item in tested:
        lines += [f"## Scale: {item.scale.title}", ""]
        lines += [f"> **{' '.join(item.scale.stamp.split())}**", ""] if item.scale.stamp is not None else []
        lines += ["Sanity:", "", *_grid(item.sanity), "", "Claims:", "", *_grid(item.claims), ""]
    lines += ["---", "", "- To make this page again: `python -m analysis claims`."]
    return "\n".join(lines) + "\n"


def short_table(scale: Scale, runs: Path) -> list[str]:
    """Return the lines of a Markdown table of the claims at one scale, for the README."""
    tested = test_claims(load_claims(), scale, runs)
    body = [[claim.text, _published(claim, outcome), _difference(outcome), outcome.verdict] for claim, outcome in tested.claims]
    return grid_lines(["claim", "paper", "here (95% interval)", "verdict"], body)


def _grid(outcomes: Sequence[tuple[Claim, Outcome]]) -> list[str]:
    body = [
        [
            claim.text,
            claim.source,
            _published(claim, outcome),
            _difference(outcome),
            f"{outcome.runs} of {outcome.planned}",
            outcome.verdict,
        ]
        for claim, outcome in outcomes
    ]
    return grid_lines(["claim", "where", "paper", "difference (95% interval)", "runs", "verdict"], body, left=2)


def _published(claim: Claim, outcome: Outcome) -> str:
    return claim.published or ("—" if outcome.published is None else f"{outcome.published:+.1f}")


def _difference(outcome: Outcome) -> str:
    if outcome.difference is None:
        return "—"
    if math.isnan(outcome.difference):
        return "diverged"
    digits = 1 if abs(outcome.difference) >= 1.0 else 2
    if outcome.interval is None:
        return f"{outcome.difference:+.{digits}f}"
    return f"{outcome.difference:+.{digits}f} ({' to '.join(rounded(bound, 1.0, digits) for bound in outcome.interval)})"


def _rows(tested: Sequence[Tested]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for item in tested:
        for kind, outcomes in (("sanity", item.sanity), ("claim", item.claims)):
            for claim, whole in outcomes:
                lines = [whole, *(whole.parts if len(whole.parts) > 1 else ())]
                for place, outcome in enumerate(lines):
                    low, high = outcome.interval or (None, None)
                    adjusted_low, adjusted_high = outcome.adjusted or (None, None)
                    rows.append(
                        {
                            "scale": item.scale.title,
                            "kind": kind if place == 0 else f"comparison of {kind}",
                            "id": claim.id,
                            "comparison": outcome.label,
                            "difference": outcome.difference,
                            "low_95": low,
                            "high_95": high,
                            "low_adjusted": adjusted_low,
                            "high_adjusted": adjusted_high,
                            "margin": claim.margin,
                            "direction": claim.direction,
                            "runs": outcome.runs,
                            "runs_planned": outcome.planned,
                            "published": outcome.published,
                            "verdict": outcome.verdict,
                        }
                    )
    return rows
