"""A table: its page in Markdown, its numbers as CSV, and which runs stand behind each cell."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.collect import Collected, collect, value_at
from analysis.latex import latex_table
from analysis.page import Files, csv_bytes, epoch_rule, footer, grid_lines, heading, run_columns, spread_note
from analysis.published import WITHIN_BY_CHANCE, Beside, beside, copied_sources, published_text
from analysis.stats import MIN_TESTED, Summary, holm, interval, render, rounded, summarize, welch
from repro.files import jsonable
from sweeps.spec import Epoch, TableSpec

#: Raised when the layout of provenance.json changes.
PROVENANCE_SCHEMA = 1

#: Below this adjusted p value a difference is marked.
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Filled:
    """A cell with its numbers: the value of each of its runs (``None``: not done, or not measured), and what they say together.

    Attributes:
        epoch: where its values are read: as its row says, else as the table says.
    """

    cell: Collected
    epoch: Epoch
    values: tuple[float | None, ...]
    summary: Summary
    text: str

    @property
    def place(self) -> tuple[str, str]:
        """Row and column."""
        return self.cell.row, self.cell.column


@dataclass(frozen=True)
class Table:
    """A table with everything that its files show.

    Attributes:
        best: places of the best cells of their columns.
        p_values: place -> Holm-adjusted p value of its difference from the first row.
        beside: its cells beside published numbers; empty where nothing is published for this table.
    """

    spec: TableSpec
    filled: tuple[Filled, ...]
    best: frozenset[tuple[str, str]]
    p_values: dict[tuple[str, str], float]
    beside: tuple[Beside, ...]

    def text(self, item: Filled) -> str:
        """Return what the page shows in a cell, without bold: ``†`` marks a difference from the first row."""
        return item.text + (" †" if self.p_values.get(item.place, 1.0) < SIGNIFICANT else "")


def fill_table(spec: TableSpec, runs: Path) -> Table:
    """Return the table from the run folders in ``runs``.

    Raises:
        UserError: there is no plan of this spec in ``runs``; a published number is in another unit.
    """
    filled = tuple(_fill(spec, cell) for cell in collect(spec, runs))
    next_to = tuple(beside(spec, {item.place: item.summary for item in filled})) if spec.reported else ()
    return Table(spec, filled, frozenset(_best(spec, filled)), _p_values(spec, filled), next_to)


def make_table(spec: TableSpec, runs: Path) -> Files:
    """Return the files of the table from the run folders in ``runs``.

    Raises:
        UserError: as :func:`fill_table`.
    """
    table = fill_table(spec, runs)
    return Files(
        spec,
        {
            f"{spec.name}.md": _page(table).encode(),
            f"{spec.name}.tex": _latex(table).encode(),
            f"{spec.name}.runs.csv": csv_bytes(_run_rows(spec, table.filled)),
            f"{spec.name}.cells.csv": csv_bytes(_cell_rows(table)),
            f"{spec.name}.provenance.json": _provenance(table),
        },
    )


def _p_values(spec: TableSpec, filled: Sequence[Filled]) -> dict[tuple[str, str], float]:
    """Return the adjusted p value of each cell's difference from the first row in its column, where there can be one."""
    if spec.value.better == "neither" or spec.spread == "none":
        return {}
    first = {item.cell.column: item.summary for item in filled if item.cell.row == spec.rows[0].label}
    tested = {
        item.place: p_value
        for item in filled
        if item.cell.row != spec.rows[0].label and (p_value := welch(item.summary, first[item.cell.column])) is not None
    }
    return dict(zip(tested, holm(list(tested.values())), strict=True))


def _factor(spec: TableSpec) -> float:
    return 100.0 if spec.value.scale == "percent" else 1.0


def _fill(spec: TableSpec, cell: Collected) -> Filled:
    epoch = next((row.epoch for row in spec.rows if row.label == cell.row and row.epoch is not None), spec.value.epoch)
    values = tuple(value_at(item.run, spec.value.metric, epoch) if item.run.done else None for item in cell.repeats)
    summary = summarize([value for value in values if value is not None], expected=len(values))
    text = render(summary, factor=_factor(spec), decimals=spec.value.decimals, spread=spec.spread != "none")
    return Filled(cell, epoch, values, summary, text)


def _best(spec: TableSpec, filled: Sequence[Filled]) -> set[tuple[str, str]]:
    """Return the cells with the best mean of their column, as printed, among those that are complete; none where only one is."""
    if spec.value.better == "neither":
        return set()
    best: set[tuple[str, str]] = set()
    for column in spec.columns:
        printed = {
            item.place: float(rounded(item.summary.mean, _factor(spec), spec.value.decimals))
            for item in filled
            if item.cell.column == column.label and item.summary.complete and item.summary.mean is not None
        }
        if len(printed) > 1:
            top = max(printed.values()) if spec.value.better == "higher" else min(printed.values())
            best.update(place for place, mean in printed.items() if mean == top)
    return best


def _page(table: Table) -> str:
    spec = table.spec
    cells = [item.cell for item in table.filled]
    texts = {item.place: f"**{table.text(item)}**" if item.place in table.best else table.text(item) for item in table.filled}
    header = ["", *(column.label for column in spec.columns)]
    body = [[row.label, *(texts[row.label, column.label] for column in spec.columns)] for row in spec.rows]
    lines = [*heading(spec), *grid_lines(header, body), ""]
    if table.beside:
        lines += ["## Beside the published numbers", "", *grid_lines(*_beside_grid(table), left=2), ""]
    return "\n".join([*lines, *footer(spec, cells, notes=_notes(table), command="tables")]) + "\n"


def _beside_grid(table: Table) -> tuple[list[str], list[list[str]]]:
    filled = {item.place: item for item in table.filled}
    sources = copied_sources(table.beside)
    decimals = table.spec.value.decimals
    body = []
    for item in table.beside:
        ours = filled[item.row, item.column]
        bounds = interval(ours.summary)
        body.append(
            [
                item.row,
                item.column,
                ours.text,
                "—" if bounds is None else " to ".join(rounded(bound, _factor(table.spec), decimals) for bound in bounds),
                "—" if item.published is None else published_text(item.published, sources.get(item.published.source)),
                "—" if item.gap is None else f"{item.gap:+.{decimals}f}",
                item.verdict,
            ]
        )
    return ["", "", "ours", "95% interval", "published", "gap", "verdict"], body


def _notes(table: Table) -> list[str]:
    spec, filled = table.spec, table.filled
    unit = ", in percent" if spec.value.scale == "percent" else ""
    notes = [
        f"Value: `{spec.value.metric}`{unit}, {epoch_rule(spec.value.epoch)}.",
        *(f"The row {row.label}: {epoch_rule(row.epoch)}." for row in spec.rows if row.epoch not in (None, spec.value.epoch)),
        spread_note(spec, [item.cell for item in filled]),
    ]
    if any(item.summary.n < item.summary.expected for item in filled):
        notes.append("(n/N): only n of the cell's N runs are done; nothing stands in for the others. —: none is.")
    if any(item.summary.diverged for item in filled):
        notes.append("div (d/n): d of the cell's n finished runs diverged, so the cell has no mean.")
    if table.best:
        notes.append(
            "Bold: the best mean of the column, as printed, among cells whose runs are all done; it says nothing about significance."
        )
    notes += _test_notes(table)
    notes += _beside_notes(table)
    for item in filled:
        silent = [repeat.label for repeat, value in zip(item.cell.repeats, item.values, strict=True) if repeat.run.done and value is None]
        if silent:
            notes.append(f"Not measured: {item.cell.label}: {'; '.join(silent)} ran without `{spec.value.metric}` there.")
    return notes


def _test_notes(table: Table) -> list[str]:
    if not table.p_values:
        return []
    count = len(table.p_values)
    first = table.spec.rows[0].label
    notes = [
        f"†: differs from {first} in the same column: Welch's t test, two-sided, p < {SIGNIFICANT} after Holm's correction for the {count} "
        f"comparison{'s' if count > 1 else ''} of this page. Cells with fewer than {MIN_TESTED} runs are not tested."
    ]
    if any(item.summary.n == MIN_TESTED for item in table.filled):
        notes.append(
            "What n = 3 can show: two cells of equal spread must differ by 2.3 standard deviations to be marked, before any correction; "
            "no mark does not mean no difference."
        )
    return notes


def _beside_notes(table: Table) -> list[str]:
    if not table.beside:
        return []
    notes = [
        "95% interval: t interval of our mean over its runs.",
        "Gap: our mean minus the published one. Verdict: `within` when it is at most the published ± (at least half of the last digit), "
        f"else `outside`; of exact reproductions with three runs, {100 - WITHIN_BY_CHANCE} in 100 would be outside by chance.",
    ]
    notes += [f"[{index}]: not measured by the paper. {source}." for source, index in copied_sources(table.beside).items()]
    remarks = dict.fromkeys(item.published.source for item in table.beside if item.published is not None and item.published.own_run)
    return [*notes, *(f"Published: {source}." for source in remarks)]


def _latex(table: Table) -> str:
    spec = table.spec
    texts = {item.place: (table.text(item), item.place in table.best) for item in table.filled}
    body = [(row.label, [texts[row.label, column.label] for column in spec.columns]) for row in spec.rows]
    return latex_table(spec, [column.label for column in spec.columns], body)


def _run_rows(spec: TableSpec, filled: Sequence[Filled]) -> list[dict[str, Any]]:
    return [
        {
            "spec": spec.name,
            "row": item.cell.row,
            "column": item.cell.column,
            **repeat.repeat,
            "metric": spec.value.metric,
            "epoch_rule": str(item.epoch),
            "value": value,
            **run_columns(repeat.run),
        }
        for item in filled
        for repeat, value in zip(item.cell.repeats, item.values, strict=True)
    ]


def _cell_rows(table: Table) -> list[dict[str, Any]]:
    next_to = {(item.row, item.column): item for item in table.beside}
    return [_cell_row(table, item, next_to.get(item.place)) for item in table.filled]


def _cell_row(table: Table, item: Filled, next_to: Beside | None) -> dict[str, Any]:
    low, high = interval(item.summary) or (None, None)
    published = None if next_to is None else next_to.published
    row = {
        "spec": table.spec.name,
        "row": item.cell.row,
        "column": item.cell.column,
        "metric": table.spec.value.metric,
        "epoch_rule": str(item.epoch),
        "mean": item.summary.mean,
        "sd": item.summary.sd,
        "interval_low": low,
        "interval_high": high,
        "n": item.summary.n,
        "expected": item.summary.expected,
        "diverged": item.summary.diverged,
        "best": item.place in table.best,
        "p_from_first_row": table.p_values.get(item.place),
        "text": item.text,
        "left_out": item.cell.skip,
    }
    if table.beside:
        row |= {
            "published_mean": None if published is None else published.mean,
            "published_sd": None if published is None else published.sd,
            "published_unit": None if published is None else published.unit,
            "gap": None if next_to is None else next_to.gap,
            "verdict": None if next_to is None else next_to.verdict,
            "copied_by_the_paper": None if published is None else not published.own_run,
            "source": None if published is None else published.source,
        }
    return row


def _provenance(table: Table) -> bytes:
    spec = table.spec
    verdicts = {(item.row, item.column): item.verdict for item in table.beside}
    document = {
        "schema": PROVENANCE_SCHEMA,
        "spec": spec.name,
        "spec_sha256": spec.sha256,
        "metric": spec.value.metric,
        "epoch_rule": str(spec.value.epoch),
        "cells": [
            {
                "row": item.cell.row,
                "column": item.cell.column,
                **({} if item.epoch == spec.value.epoch else {"epoch_rule": str(item.epoch)}),
                **({"verdict": verdicts[item.place]} if item.place in verdicts else {}),
                "text": item.text,
                "mean": item.summary.mean,
                "sd": item.summary.sd,
                "runs": [
                    {
                        "run_id": repeat.run.run_id,
                        "repeat": repeat.repeat,
                        "state": repeat.run.state,
                        "value": value,
                        "git": repeat.run.provenance.get("git"),
                    }
                    for repeat, value in zip(item.cell.repeats, item.values, strict=True)
                ],
            }
            for item in table.filled
        ],
    }
    return (json.dumps(jsonable(document), sort_keys=True, indent=2, allow_nan=False) + "\n").encode()
