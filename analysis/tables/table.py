"""A table: its page in Markdown, its numbers as CSV, and which runs stand behind each cell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.reading.reported import Reported, read_reported
from analysis.reading.results import Cell, Results
from analysis.reading.runs import FACTS
from analysis.reading.stats import MIN_TESTED, Summary, factor, holm, interval, render, rounded, summarize, welch
from analysis.tables.formats import csv_bytes, grid_lines
from analysis.tables.page import Files, notes, provenance, spread_note, table_files
from repro.errors import UserError
from repro.metric_names import definition_of
from sweeps.spec import PAPER, Reading

#: Below this adjusted p value a difference is marked.
SIGNIFICANT = 0.05

#: How many of 100 exact reproductions with three runs would be called outside: P(abs(t_2) > sqrt(3/2)), since the difference of two means
#: of three, divided by the published SD, is t_2 times sqrt(2/3).
OUTSIDE_BY_CHANCE = 35

_RULES = {
    "last": "after the last epoch (`last`)",
    "best_val": "at the epoch of the best validation accuracy (`best_val`)",
    "best_test": "at the epoch of the best test accuracy (`best_test`; this looks at the test set and flatters every method)",
}


@dataclass(frozen=True)
class Filled:
    """A cell with its numbers, as ``cells.csv`` has them.

    Attributes:
        mean, sd, n, expected, diverged: what its runs say together (:class:`analysis.reading.stats.Summary`).
        interval_low, interval_high: the 95% t interval of the mean, of a fraction cut at 0 and 1.
        text: what the page shows of the numbers.
        best: whether its mean is the best of its column.
        p_from_first_row: Holm-adjusted, of its difference from the first row.
        gap, verdict: to the published number (:func:`_compare`).
        executions: in how many ways its runs were executed, which changes numbers.
    """

    spec: str
    row: str
    column: str
    metric: str
    epoch_rule: str
    mean: float | None
    sd: float | None
    interval_low: float | None
    interval_high: float | None
    n: int
    expected: int
    diverged: int
    text: str
    best: bool
    p_from_first_row: float | None
    published: str
    gap: float | None
    verdict: str | None
    source: str | None
    copied_by_the_paper: bool | None
    executions: int
    left_out: str | None

    @property
    def shown(self) -> tuple[str, bool]:
        """What the page shows, and whether in bold: ``†`` marks a difference from the first row, ``‡`` several ways of execution."""
        differs = self.p_from_first_row is not None and self.p_from_first_row < SIGNIFICANT
        return self.text + " †" * differs + " ‡" * (self.executions > 1), self.best


def fill_table(results: Results) -> list[Filled]:
    """Return the cells of a table, row by row.

    Raises:
        UserError: a published number is in another unit.
    """
    spec, reading, reported = results.spec, results.spec.value, read_reported(results.spec)
    unit, spread = factor(reading.scale), spec.cell.spread != "none"
    summaries = {
        cell.place: summarize([v for v in cell_values(results, cell) if v is not None], expected=len(cell.run_ids))
        for cell in results.cells
    }
    best = _best(reading, summaries)
    p_values = _p_values(summaries) if spread and reading.better != "neither" else {}
    filled = []
    for cell in results.cells:
        summary, published, bounds = summaries[cell.place], reported.get(cell.place), interval(summaries[cell.place]) or (None, None)
        if bounds[0] is not None and definition_of(reading.metric).unit == "fraction":
            bounds = max(bounds[0], 0.0), min(bounds[1], 1.0)
        gap, verdict = _compare(results, summary, published) if reported else (None, None)
        ways = results.runs.loc[results.done(cell), ["execution", "gpu"]].drop_duplicates()
        filled.append(
            Filled(
                spec=spec.name,
                row=cell.row,
                column=cell.column,
                metric=reading.metric,
                epoch_rule=results.rule(cell),
                mean=summary.mean,
                sd=summary.sd,
                interval_low=bounds[0],
                interval_high=bounds[1],
                n=summary.n,
                expected=summary.expected,
                diverged=summary.diverged,
                text=render(summary, factor=unit, decimals=reading.decimals, spread=spread),
                best=cell.place in best,
                p_from_first_row=p_values.get(cell.place),
                published=published.text if published else "",
                gap=gap,
                verdict=verdict,
                source=published.source if published else None,
                copied_by_the_paper=not published.own_run if published else None,
                executions=len(ways),
                left_out=cell.skip,
            )
        )
    return filled


def make_table(results: Results) -> Files:
    """Return the files of a table; raises what :func:`fill_table` raises."""
    filled = fill_table(results)
    copied = {
        source: f" [{index}]"
        for index, source in enumerate(dict.fromkeys(item.source for item in filled if item.copied_by_the_paper), start=1)
    }
    beside = _beside(results.spec.value, filled, copied)
    closing = notes(
        results, read=list(_how_to_read(results, filled, copied)), doubt=list(_what_to_doubt(results, filled)), command="tables"
    )
    files = table_files(results, [item.shown for item in filled], beside, closing, [vars(item) for item in filled])
    more = {"runs.csv": csv_bytes(_run_rows(results)), "provenance.json": provenance(results)}
    return Files(results, files.contents | {f"{files.name}.{kind}": content for kind, content in more.items()})


def cell_values(results: Results, cell: Cell) -> list[float | None]:
    """Return what a table reads of each run of ``cell``: ``None`` where it is not done, or not measured."""
    return results.values(cell, results.spec.value.metric, results.rule(cell))


def _best(reading: Reading, summaries: dict[tuple[str, str], Summary]) -> set[tuple[str, str]]:
    """Return the cells with the best mean of their column, as printed; none in a column whose cells are not all there, or of one cell."""
    best: set[tuple[str, str]] = set()
    for column in {column for _, column in summaries} if reading.better != "neither" else ():
        items = {place: summary for place, summary in summaries.items() if place[1] == column and summary.expected}
        if len(items) > 1 and all(summary.complete for summary in items.values()):
            means = {
                place: float(rounded(summary.mean or 0.0, factor(reading.scale), reading.decimals)) for place, summary in items.items()
            }
            top = max(means.values()) if reading.better == "higher" else min(means.values())
            best |= {place for place, mean in means.items() if mean == top}
    return best


def _p_values(summaries: dict[tuple[str, str], Summary]) -> dict[tuple[str, str], float]:
    """Return the adjusted p value of each cell's difference from the first row in its column, where there can be one."""
    first = next(iter(summaries))[0]
    pairs = {place: welch(summary, summaries[first, place[1]]) for place, summary in summaries.items() if place[0] != first}
    tested = {place: p_value for place, p_value in pairs.items() if p_value is not None}
    return dict(zip(tested, holm(list(tested.values())), strict=True))


def _compare(results: Results, summary: Summary, published: Reported | None) -> tuple[float | None, str | None]:
    """Return the gap to a published number, our mean minus it in its unit, and the verdict; no gap unless all our runs are done and finite.

    Raises:
        UserError: the published number is in another unit than the table.
    """
    reading = results.spec.value
    if published is None:
        return None, "no published number" if summary.complete else None
    if published.unit != reading.scale:
        raise UserError(
            f"{results.spec.path}: {published.row}, {published.column} is published in {published.unit}, the table in {reading.scale}."
        )
    if results.scale.name != PAPER:
        return None, "another scale"
    if summary.mean is None or not summary.complete:
        return None, "not run" if summary.n == 0 else "diverged" if summary.diverged else "incomplete"
    gap = summary.mean * factor(reading.scale) - published.mean
    return gap, "within" if abs(gap) <= published.tolerance + 1e-9 else "outside"


def _beside(reading: Reading, filled: Sequence[Filled], copied: dict[str | None, str]) -> list[str]:
    body = []
    for item in filled if any(item.published for item in filled) else ():
        if item.verdict is not None:
            bounds = [
                rounded(bound, factor(reading.scale), reading.decimals)
                for bound in (item.interval_low, item.interval_high)
                if bound is not None
            ]
            published = item.published + copied.get(item.source, "") or "—"
            gap = "—" if item.gap is None else f"{item.gap:+.{reading.decimals}f}"
            body.append([item.row, item.column, item.text, " to ".join(bounds) or "—", published, gap, item.verdict])
    return grid_lines(["", "", "ours", "95% interval", "published", "gap", "verdict"], body, left=2) if body else []


def _how_to_read(results: Results, filled: Sequence[Filled], copied: dict[str | None, str]) -> Iterator[str]:
    reading = results.spec.value
    rules = {item.row: _RULES.get(item.epoch_rule, f"after {item.epoch_rule}") for item in filled}
    common = max(rules.values(), key=list(rules.values()).count)
    yield f"Value: `{reading.metric}`{', in percent' * (reading.scale == 'percent')}, {common}."
    yield from (f"The row {row}: {rule}." for row, rule in rules.items() if rule != common)
    yield f"{spread_note(results)} (n/N): n of its N runs are done. div (d/n): d of n diverged, so there is no mean."
    if any(item.best for item in filled):
        yield "Bold: the best mean, as printed, of a column whose runs are all done; it does not mean a significant difference."
    if count := sum(item.p_from_first_row is not None for item in filled):
        yield (
            f"†: differs from {filled[0].row} in the same column: Welch's t test, two-sided, p < {SIGNIFICANT} after Holm's correction for "
            f"the {count} comparisons of this page; cells with fewer than {MIN_TESTED} runs are not tested."
        )
    if any(item.published for item in filled):
        yield (
            "95% interval: of our mean, over its runs. Gap: our mean minus the published one. Verdict: `within` when the gap is at most the "
            "published ± (at least half of the last digit), else `outside`."
        )
    yield from (f"{note.strip()}: not measured by the paper. {source}." for source, note in copied.items())
    yield from (f"Published: {source}." for source in dict.fromkeys(item.source for item in filled if item.source not in copied) if source)


def _what_to_doubt(results: Results, filled: Sequence[Filled]) -> Iterator[str]:
    if any(item.p_from_first_row is not None and item.n == MIN_TESTED for item in filled):
        yield (
            "What n = 3 can show: two cells of equal spread must differ by 2.3 standard deviations to be marked, before any correction; no "
            f"mark does not mean no difference. Of exact reproductions, {OUTSIDE_BY_CHANCE} in 100 would be outside by chance."
        )
    for cell, item in zip(results.cells, filled, strict=True):
        runs = results.runs.loc[results.done(cell)]
        if item.executions > 1:
            ways = sorted({", ".join(filter(None, way)) or "float32" for way in zip(runs["execution"], runs["gpu"], strict=True)})
            yield f"‡ {cell.label}: its runs were executed in different ways, which changes numbers: {'; '.join(ways)}."
        if silent := len(runs) - item.n:
            yield f"Not measured: {cell.label}: {silent} runs finished without `{item.metric}` at that epoch."


def _run_rows(results: Results) -> list[dict[str, Any]]:
    return [
        {"spec": results.spec.name, "row": cell.row, "column": cell.column, **repeat}
        | {"metric": results.spec.value.metric, "epoch_rule": results.rule(cell), "value": value}
        | results.runs.loc[run_id, list(FACTS)].to_dict()
        for cell in results.cells
        for run_id, repeat, value in zip(cell.run_ids, cell.repeats, cell_values(results, cell), strict=True)
    ]
