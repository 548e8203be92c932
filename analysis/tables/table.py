"""A table: its page in Markdown, its numbers as CSV, and which runs stand behind each cell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from analysis.reading.cells import Collected, Repeat, collect
from analysis.reading.runs import value_at
from analysis.reading.stats import MIN_TESTED, Summary, factor, holm, interval, render, rounded, summarize, welch
from analysis.tables.formats import csv_bytes, grid_lines, latex_table
from analysis.tables.page import Files, epoch_rule, execution_note, footer, heading, spread_note
from repro.files import json_text
from repro.metric_names import definition_of
from sweeps.spec.load import PAPER, Epoch, Reported, TableSpec

#: Raised when the layout of provenance.json changes.
PROVENANCE_SCHEMA = 1

#: Below this adjusted p value a difference is marked.
SIGNIFICANT = 0.05

#: How many of 100 exact reproductions with three runs would be called within: P(abs(t_2) <= sqrt(3/2)), since the difference of two means
#: of three, divided by the published SD, is t_2 times sqrt(2/3).
WITHIN_BY_CHANCE = 65


@dataclass(frozen=True)
class Filled:
    """A cell with its numbers: the value of each of its runs (``None``: not done, or not measured), and what they say together.

    Attributes:
        epoch: where its values are read: as its row says, else as the table says.
        text: what the page shows of the numbers.
        published: what was published for it, with the ``gap`` to it and the ``verdict`` (:func:`compare`).
        best: whether its mean is the best of its column.
        p_value: Holm-adjusted, of its difference from the first row.
    """

    cell: Collected
    epoch: Epoch
    values: tuple[float | None, ...]
    summary: Summary
    text: str
    published: Reported | None
    gap: float | None
    verdict: str | None
    best: bool = False
    p_value: float | None = None

    @property
    def place(self) -> tuple[str, str]:
        """Row and column."""
        return self.cell.place

    @property
    def runs(self) -> list[tuple[Repeat, float | None]]:
        """Its runs with their values."""
        return list(zip(self.cell.repeats, self.values, strict=True))

    @property
    def shown(self) -> str:
        """What the page shows, without bold: ``†`` marks a difference from the first row, ``‡`` runs that were executed in several ways."""
        different = " †" if self.p_value is not None and self.p_value < SIGNIFICANT else ""
        return self.text + different + ("" if execution_note(self.cell) is None else " ‡")


def fill_table(spec: TableSpec, runs: Path) -> list[Filled]:
    """Return the cells of the table, row by row, from the run folders in ``runs``.

    Raises:
        UserError: there is no plan of this spec in ``runs``; a published number is in another unit.
    """
    filled = [_fill(spec, cell) for cell in collect(spec, runs)]
    best, p_values = _best(spec, filled), _p_values(spec, filled)
    return [replace(item, best=item.place in best, p_value=p_values.get(item.place)) for item in filled]


def make_table(spec: TableSpec, runs: Path) -> Files:
    """Return the files of the table from the run folders in ``runs``; raises what :func:`fill_table` raises."""
    filled = fill_table(spec, runs)
    cells = {item.place: item for item in filled}
    lines = [(row.label, [cells[row.label, column.label] for column in spec.columns]) for row in spec.rows]
    header = [column.label for column in spec.columns]
    tex = latex_table(spec, header, [(label, [(item.shown, item.best) for item in line]) for label, line in lines])
    body = [[label, *(f"**{item.shown}**" if item.best else item.shown for item in line)] for label, line in lines]
    page = [*heading(spec), *grid_lines(["", *header], body), ""]
    if spec.reported:
        page += ["## Comparison with the published numbers", "", *grid_lines(*_beside_grid(spec, filled), left=2), ""]
    page += footer(spec, [item.cell for item in filled], notes=_notes(spec, filled), command="tables")
    contents = {"md": ("\n".join(page) + "\n").encode(), "tex": tex.encode(), "runs.csv": csv_bytes(_run_rows(spec, filled))}
    contents |= {"cells.csv": csv_bytes([_cell_row(spec, item) for item in filled])}
    contents |= {"provenance.json": json_text(_provenance(spec, filled)).encode()}
    return Files(spec, {f"{spec.name}.{kind}": content for kind, content in contents.items()})


def _p_values(spec: TableSpec, filled: Sequence[Filled]) -> dict[tuple[str, str], float]:
    """Return the adjusted p value of each cell's difference from the first row in its column, where there can be one."""
    if spec.value.better == "neither" or spec.spread == "none":
        return {}
    first = {item.cell.column: item for item in filled if item.cell.row == spec.rows[0].label}
    pairs = [(item, first[item.cell.column]) for item in filled if item is not first[item.cell.column]]
    tested = {item.place: value for item, other in pairs if (value := welch(item.summary, other.summary)) is not None}
    return dict(zip(tested, holm(list(tested.values())), strict=True))


def _fill(spec: TableSpec, cell: Collected) -> Filled:
    epoch = next((row.epoch for row in spec.rows if row.label == cell.row and row.epoch is not None), spec.value.epoch)
    values = tuple(value_at(item.run, spec.value.metric, epoch) if item.run.done else None for item in cell.repeats)
    summary = summarize([value for value in values if value is not None], expected=len(values))
    text = render(summary, factor=factor(spec.value.scale), decimals=spec.value.decimals, spread=spec.spread != "none")
    published = next((item for item in spec.reported if (item.row, item.column) == (cell.row, cell.column)), None)
    return Filled(cell, epoch, values, summary, text, published, *compare(spec, summary, published))


def _best(spec: TableSpec, filled: Sequence[Filled]) -> set[tuple[str, str]]:
    """Return the cells with the best mean of their column, as printed, among those that are complete; none where only one is."""
    if spec.value.better == "neither":
        return set()
    best: set[tuple[str, str]] = set()
    for column in spec.columns:
        printed = {
            item.place: float(rounded(item.summary.mean, factor(spec.value.scale), spec.value.decimals))
            for item in filled
            if item.cell.column == column.label and item.summary.complete and item.summary.mean is not None
        }
        if len(printed) > 1:
            top = max(printed.values()) if spec.value.better == "higher" else min(printed.values())
            best.update(place for place, mean in printed.items() if mean == top)
    return best


def _beside_grid(spec: TableSpec, filled: Sequence[Filled]) -> tuple[list[str], list[list[str]]]:
    sources = copied_sources(item.published for item in filled if item.published is not None)
    decimals = spec.value.decimals
    body = []
    for item in filled:
        if item.verdict is not None:
            bounds = [rounded(bound, factor(spec.value.scale), decimals) for bound in _interval(spec, item.summary) or ()]
            published = "—" if item.published is None else published_text(item.published, sources.get(item.published.source))
            gap = "—" if item.gap is None else f"{item.gap:+.{decimals}f}"
            body.append([*item.place, item.text, " to ".join(bounds) or "—", published, gap, item.verdict])
    return ["", "", "ours", "95% interval", "published", "gap", "verdict"], body


def _notes(spec: TableSpec, filled: Sequence[Filled]) -> list[str]:
    unit = ", in percent" if spec.value.scale == "percent" else ""
    notes = [
        f"Value: `{spec.value.metric}`{unit}, {epoch_rule(spec.value.epoch)}.",
        *(f"The row {row.label}: {epoch_rule(row.epoch)}." for row in spec.rows if row.epoch not in (None, spec.value.epoch)),
        spread_note(spec, [item.cell for item in filled]),
    ]
    if any(item.summary.n < item.summary.expected for item in filled):
        notes.append("(n/N): only n of the cell's N runs are done; the others are left out, not imputed. —: none is done.")
    if any(item.summary.diverged for item in filled):
        notes.append("div (d/n): d of the cell's n finished runs diverged, so the cell has no mean.")
    if any(item.best for item in filled):
        notes.append(
            "Bold: the best mean of the column, as printed, among cells whose runs are all done; it does not mean a significant difference."
        )
    if count := sum(item.p_value is not None for item in filled):
        notes.append(
            f"†: differs from {spec.rows[0].label} in the same column: Welch's t test, two-sided, p < {SIGNIFICANT} after Holm's "
            f"correction for the {count} comparison{'s' if count > 1 else ''} of this page. "
            f"Cells with fewer than {MIN_TESTED} runs are not tested."
        )
        if any(item.summary.n == MIN_TESTED for item in filled):
            notes.append(
                "What n = 3 can show: two cells of equal spread must differ by 2.3 standard deviations to be marked, before any "
                "correction; no mark does not mean no difference."
            )
    notes += filter(None, (execution_note(item.cell) for item in filled))
    if spec.reported:
        notes += _notes_beside([item.published for item in filled if item.published is not None])
    for item in filled:
        if silent := [repeat.label for repeat, value in item.runs if repeat.run.done and value is None]:
            notes.append(f"Not measured: {item.cell.label}: {'; '.join(silent)} finished without `{spec.value.metric}` at that epoch.")
    return notes


def _interval(spec: TableSpec, summary: Summary) -> tuple[float, float] | None:
    """Return the 95% interval of a mean, of a fraction cut at 0 and 1."""
    bounds = interval(summary)
    if bounds is None or definition_of(spec.value.metric).unit != "fraction":
        return bounds
    return max(bounds[0], 0.0), min(bounds[1], 1.0)


def _notes_beside(published: Sequence[Reported]) -> list[str]:
    remarks = dict.fromkeys(item.source for item in published if item.own_run)
    return [
        "95% interval: t interval of our mean over its runs, cut at what is possible.",
        "Gap: our mean minus the published one. Verdict: `within` when it is at most the published ± (at least half of the last digit), "
        f"else `outside`; of exact reproductions with three runs, {100 - WITHIN_BY_CHANCE} in 100 would be outside by chance.",
        *(f"[{index}]: not measured by the paper. {source}." for source, index in copied_sources(published).items()),
        *(f"Published: {source}." for source in remarks),
    ]


def _run_rows(spec: TableSpec, filled: Sequence[Filled]) -> list[dict[str, Any]]:
    rows = []
    for item in filled:
        read = {"metric": spec.value.metric, "epoch_rule": str(item.epoch)}
        rows += [item.cell.columns(spec) | run.repeat | read | {"value": value} | run.run.columns() for run, value in item.runs]
    return rows


def _cell_row(spec: TableSpec, item: Filled) -> dict[str, Any]:
    low, high = _interval(spec, item.summary) or (None, None)
    summary, published = item.summary, item.published
    row = item.cell.columns(spec) | {"metric": spec.value.metric, "epoch_rule": str(item.epoch)}
    row |= {"mean": summary.mean, "sd": summary.sd, "interval_low": low, "interval_high": high}
    row |= {"n": summary.n, "expected": summary.expected, "diverged": summary.diverged}
    row |= {"best": item.best, "p_from_first_row": item.p_value, "text": item.text, "left_out": item.cell.skip}
    if spec.reported:
        row |= {f"published_{name}": getattr(published, name, None) for name in ("mean", "sd", "unit")}
        row |= {"gap": item.gap, "verdict": item.verdict}
        row |= {"copied_by_the_paper": None if published is None else not published.own_run, "source": getattr(published, "source", None)}
    return row


def _provenance(spec: TableSpec, filled: Sequence[Filled]) -> dict[str, Any]:
    return {
        "schema": PROVENANCE_SCHEMA,
        "spec": spec.name,
        "spec_sha256": spec.sha256,
        "metric": spec.value.metric,
        "epoch_rule": str(spec.value.epoch),
        "cells": [
            {"row": item.cell.row, "column": item.cell.column, "text": item.text, "mean": item.summary.mean, "sd": item.summary.sd}
            | ({} if item.epoch == spec.value.epoch else {"epoch_rule": str(item.epoch)})
            | ({} if item.verdict is None else {"verdict": item.verdict})
            | {"runs": [_run(repeat, value) for repeat, value in item.runs]}
            for item in filled
        ],
    }


def _run(repeat: Repeat, value: float | None) -> dict[str, Any]:
    run = repeat.run
    return {"run_id": run.run_id, "repeat": repeat.repeat, "state": run.state, "value": value, "git": run.provenance.get("git")}


def compare(spec: TableSpec, summary: Summary, published: Reported | None) -> tuple[float | None, str | None]:
    """Return what to say of a cell of ``spec`` beside its published number: the gap, and the verdict.

    The gap is our mean minus the published one, in the published unit; ``None`` unless all our runs are done and finite, and of the
    paper's scale. There is no verdict where the table has no published number, or the cell neither runs nor a number.

    Raises:
        SpecError: the published number is in another unit than the table.
    """
    if not spec.reported or (published is None and summary.expected == 0):
        return None, None
    if published is not None and published.unit != spec.value.scale:
        raise published.place.error(f"unit {published.unit}: {spec.name} is in {spec.value.scale}.")
    if published is not None and spec.scale != PAPER:
        return None, "another scale"
    if summary.mean is None:
        return None, "not run"
    if not summary.complete:
        return None, "diverged" if summary.diverged else "incomplete"
    if published is None:
        return None, "no published number"
    gap = summary.mean * factor(spec.value.scale) - published.mean
    # Half of the last printed digit is what rounding alone can do.
    tolerance = max(published.sd or 0.0, 0.5 * 10.0 ** -_digits(published.mean, published))
    return gap, "within" if abs(gap) <= tolerance + 1e-9 else "outside"


def _digits(value: float, published: Reported) -> int:
    """Return the digits after the point that ``value`` was given with; at least one in percent, where 60.0 is read as 60."""
    return max(1 if published.unit == "percent" else 0, len(f"{value:.9f}".rstrip("0").partition(".")[2]))


def published_text(published: Reported, note: int | None) -> str:
    """Return a published number as a page prints it; ``note`` is the number of the note that says where it was copied from."""
    text = rounded(published.mean, 1.0, _digits(published.mean, published))
    if published.sd is not None:
        text += f" ± {rounded(published.sd, 1.0, _digits(published.sd, published))}"
    return text if note is None else f"{text} [{note}]"


def copied_sources(published: Iterable[Reported]) -> dict[str, int]:
    """Return source -> number of its note, of the published numbers that their paper copied from elsewhere."""
    sources = dict.fromkeys(item.source for item in published if not item.own_run)
    return {source: index for index, source in enumerate(sources, start=1)}
