"""A table: its page in Markdown, its numbers as CSV, and which runs stand behind each cell."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.collect import Collected, collect, value_at
from analysis.page import Files, csv_bytes, epoch_rule, footer, heading, run_columns, spread_note
from analysis.stats import Summary, render, rounded, summarize
from repro.files import jsonable
from sweeps.spec import Epoch, TableSpec

#: Raised when the layout of provenance.json changes.
PROVENANCE_SCHEMA = 1


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


def make_table(spec: TableSpec, runs: Path) -> Files:
    """Return the files of the table from the run folders in ``runs``.

    Raises:
        UserError: there is no plan of this spec in ``runs``.
    """
    cells = collect(spec, runs)
    filled = [_fill(spec, cell) for cell in cells]
    best = _best(spec, filled)
    return Files(
        spec,
        {
            f"{spec.name}.md": _page(spec, cells, filled, best).encode(),
            f"{spec.name}.runs.csv": csv_bytes(_run_rows(spec, filled)),
            f"{spec.name}.cells.csv": csv_bytes([_cell_row(spec, item, best=item.place in best) for item in filled]),
            f"{spec.name}.provenance.json": _provenance(spec, filled),
        },
    )


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


def _page(spec: TableSpec, cells: Sequence[Collected], filled: Sequence[Filled], best: set[tuple[str, str]]) -> str:
    texts = {item.place: f"**{item.text}**" if item.place in best else item.text for item in filled}
    header = ["", *(column.label for column in spec.columns)]
    body = [[row.label, *(texts[row.label, column.label] for column in spec.columns)] for row in spec.rows]
    escaped = [[text.replace("|", "\\|") for text in line] for line in (header, *body)]
    widths = [max(3, *(len(line[index]) for line in escaped)) for index in range(len(header))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    padded = [
        [line[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True))] for line in escaped
    ]
    grid = [f"| {' | '.join(line)} |" for line in (padded[0], rule, *padded[1:])]
    return "\n".join([*heading(spec), *grid, "", *footer(spec, cells, notes=_notes(spec, cells, filled, best), command="tables")]) + "\n"


def _notes(spec: TableSpec, cells: Sequence[Collected], filled: Sequence[Filled], best: set[tuple[str, str]]) -> list[str]:
    unit = ", in percent" if spec.value.scale == "percent" else ""
    notes = [f"Value: `{spec.value.metric}`{unit}, {epoch_rule(spec.value.epoch)}.", spread_note(spec, cells)]
    notes[1:1] = [f"The row {row.label}: {epoch_rule(row.epoch)}." for row in spec.rows if row.epoch not in (None, spec.value.epoch)]
    if any(item.summary.n < item.summary.expected for item in filled):
        notes.append("(n/N): only n of the cell's N runs are done; nothing stands in for the others. —: none is.")
    if any(item.summary.diverged for item in filled):
        notes.append("div (d/n): d of the cell's n finished runs diverged, so the cell has no mean.")
    if best:
        notes.append(
            "Bold: the best mean of the column, as printed, among cells whose runs are all done; it says nothing about significance."
        )
    for item in filled:
        silent = [repeat.label for repeat, value in zip(item.cell.repeats, item.values, strict=True) if repeat.run.done and value is None]
        if silent:
            notes.append(f"Not measured: {item.cell.label}: {'; '.join(silent)} ran without `{spec.value.metric}` there.")
    return notes


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


def _cell_row(spec: TableSpec, item: Filled, *, best: bool) -> dict[str, Any]:
    return {
        "spec": spec.name,
        "row": item.cell.row,
        "column": item.cell.column,
        "metric": spec.value.metric,
        "epoch_rule": str(item.epoch),
        "mean": item.summary.mean,
        "sd": item.summary.sd,
        "n": item.summary.n,
        "expected": item.summary.expected,
        "diverged": item.summary.diverged,
        "best": best,
        "text": item.text,
        "left_out": item.cell.skip,
    }


def _provenance(spec: TableSpec, filled: Sequence[Filled]) -> bytes:
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
            for item in filled
        ],
    }
    return (json.dumps(jsonable(document), sort_keys=True, indent=2, allow_nan=False) + "\n").encode()
