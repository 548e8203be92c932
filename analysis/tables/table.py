"""A table: its page in Markdown, its numbers as CSV, and which runs stand behind each cell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
    """A cell with its numbers.

    Attributes:
        rule: the epoch at which its values are read.
        values: of each of its runs; ``None``: not done, or not measured.
        interval: the 95% t interval of the mean, of a fraction cut at 0 and 1.
        best: whether its mean is the best of its column.
        p_value: Holm-adjusted, of its difference from the first row.
        gap, verdict: to the published number (:func:`_compare`).
    """

    cell: Cell
    rule: str
    values: list[float | None]
    summary: Summary
    interval: tuple[float | None, float | None]
    text: str
    published: Reported | None
    gap: float | None
    verdict: str | None
    best: bool = False
    p_value: float | None = None


def fill_table(results: Results) -> list[Filled]:
    """Return the cells of a table, row by row.

    Raises:
        UserError: a published number is in another unit.
    """
    spec, reading, reported = results.spec, results.spec.value, read_reported(results.spec)
    spread = spec.cell.spread != "none"
    filled = []
    for cell in results.cells:
        rule = results.rule(cell)
        values = results.values(cell, reading.metric, rule)
        summary = summarize([value for value in values if value is not None], expected=len(values))
        bounds = interval(summary)
        if bounds and definition_of(reading.metric).unit == "fraction":
            bounds = max(bounds[0], 0.0), min(bounds[1], 1.0)
        text = render(summary, factor=factor(reading.scale), decimals=reading.decimals, spread=spread)
        published = reported.get(cell.place)
        compared = _compare(results, summary, published) if reported else (None, None)
        filled.append(Filled(cell, rule, values, summary, bounds or (None, None), text, published, *compared))
    if reading.better == "neither":
        return filled
    best, p_values = _best(reading, filled), _p_values(filled) if spread else {}
    return [replace(item, best=item.cell.place in best, p_value=p_values.get(item.cell.place)) for item in filled]


def make_table(results: Results) -> Files:
    """Return the files of a table; raises what :func:`fill_table` raises."""
    filled = fill_table(results)
    sources = dict.fromkeys(item.published.source for item in filled if item.published and not item.published.own_run)
    copied = {source: f"[{index}]" for index, source in enumerate(sources, start=1)}
    shown = [(item.text + " †" * (item.p_value is not None and item.p_value < SIGNIFICANT), item.best) for item in filled]
    read, doubt = _how_to_read(results, filled, copied), _what_to_doubt(filled)
    closing = notes(results, read=list(read), doubt=list(doubt), command="tables")
    files = table_files(results, shown, _beside(results.spec.value, filled, copied), closing, [_cell_row(results, item) for item in filled])
    more = {"runs.csv": csv_bytes(_run_rows(results, filled)), "provenance.json": provenance(results)}
    return Files(results, files.contents | {f"{files.name}.{kind}": content for kind, content in more.items()})


def _best(reading: Reading, filled: Sequence[Filled]) -> set[tuple[str, str]]:
    """Return the cells with the best mean of their column, as printed; none in a column whose cells are not all there, or of one cell."""
    best: set[tuple[str, str]] = set()
    for column in {item.cell.column for item in filled}:
        items = [item for item in filled if item.cell.column == column and item.cell.run_ids]
        if len(items) > 1 and all(item.summary.complete for item in items):
            means = [float(item.text.split()[0]) for item in items]
            top = max(means) if reading.better == "higher" else min(means)
            best |= {item.cell.place for item, mean in zip(items, means, strict=True) if mean == top}
    return best


def _p_values(filled: Sequence[Filled]) -> dict[tuple[str, str], float]:
    """Return the adjusted p value of each cell's difference from the first row in its column, where there can be one."""
    first = {item.cell.column: item for item in filled if item.cell.row == filled[0].cell.row}
    pairs = {item.cell.place: welch(item.summary, first[item.cell.column].summary) for item in filled if item not in first.values()}
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
        raise UserError(f"{results.spec.path}: {published.row} is published in {published.unit}, the table is in {reading.scale}.")
    if results.scale.name != PAPER:
        return None, "another scale"
    if summary.mean is None or not summary.complete:
        return None, "not run" if summary.n == 0 else "diverged" if summary.diverged else "incomplete"
    gap = summary.mean * factor(reading.scale) - published.mean
    return gap, "within" if abs(gap) <= published.tolerance + 1e-9 else "outside"


def _beside(reading: Reading, filled: Sequence[Filled], copied: Mapping[str, str]) -> list[str]:
    body = []
    for item in filled:
        if item.verdict is not None:
            bounds = [rounded(bound, factor(reading.scale), reading.decimals) for bound in item.interval if bound is not None]
            published = f"{item.published.text} {copied.get(item.published.source, '')}".rstrip() if item.published else "—"
            gap = "—" if item.gap is None else f"{item.gap:+.{reading.decimals}f}"
            body.append([*item.cell.place, item.text, " to ".join(bounds) or "—", published, gap, item.verdict])
    return grid_lines(["", "", "ours", "95% interval", "published", "gap", "verdict"], body, left=2) if body else []


def _how_to_read(results: Results, filled: Sequence[Filled], copied: Mapping[str, str]) -> Iterator[str]:
    reading = results.spec.value
    rules = {item.cell.row: _RULES.get(item.rule, f"after {item.rule}") for item in filled}
    common = max(rules.values(), key=list(rules.values()).count)
    yield f"Value: `{reading.metric}`{', in percent' * (reading.scale == 'percent')}, {common}."
    yield from (f"The row {row}: {rule}." for row, rule in rules.items() if rule != common)
    yield f"{spread_note(results)} (n/N): n of its N runs are done. div (d/n): d of n diverged, so there is no mean."
    if any(item.best for item in filled):
        yield "Bold: the best mean, as printed, of a column whose runs are all done; it does not mean a significant difference."
    if count := sum(item.p_value is not None for item in filled):
        yield (
            f"†: differs from {filled[0].cell.row} in the same column: Welch's t test, two-sided, p < {SIGNIFICANT} after Holm's "
            f"correction for the {count} comparisons of this page; cells with fewer than {MIN_TESTED} runs are not tested."
        )
    published = [item.published for item in filled if item.published]
    if published:
        yield (
            "95% interval: of our mean, over its runs. Gap: our mean minus the published one. Verdict: `within` when the gap is at most "
            "the published ± (at least half of the last digit), else `outside`."
        )
    yield from (f"{note}: not measured by the paper. {source}." for source, note in copied.items())
    yield from (f"Published: {source}." for source in dict.fromkeys(item.source for item in published if item.own_run))


def _what_to_doubt(filled: Sequence[Filled]) -> Iterator[str]:
    if any(item.p_value is not None and item.summary.n == MIN_TESTED for item in filled):
        yield (
            "What n = 3 can show: two cells of equal spread must differ by 2.3 standard deviations to be marked, before any correction; no "
            f"mark does not mean no difference. Of exact reproductions, {OUTSIDE_BY_CHANCE} in 100 would be outside by chance."
        )


def _cell_row(results: Results, item: Filled) -> dict[str, Any]:
    published = dict(item.published) if item.published else {}
    row = _place(results, item) | vars(item.summary) | dict(zip(("interval_low", "interval_high"), item.interval, strict=True))
    row |= {"text": item.text, "best": item.best, "p_from_first_row": item.p_value, "gap": item.gap, "verdict": item.verdict}
    row |= {f"published_{key}": published.get(key) for key in ("mean", "sd", "unit", "own_run", "source")}
    return row | {"left_out": item.cell.skip}


def _run_rows(results: Results, filled: Sequence[Filled]) -> list[dict[str, Any]]:
    facts: dict[Any, dict[Any, Any]] = results.runs[list(FACTS)].to_dict("index")
    return [
        _place(results, item) | repeat | {"value": value} | facts[run_id]
        for item in filled
        for run_id, repeat, value in zip(item.cell.run_ids, item.cell.repeats, item.values, strict=True)
    ]


def _place(results: Results, item: Filled) -> dict[str, Any]:
    place = {"spec": results.spec.name, "row": item.cell.row, "column": item.cell.column}
    return place | {"metric": results.spec.value.metric, "epoch_rule": item.rule}
