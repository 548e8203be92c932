"""What every generated page begins and ends with: what it shows, how to read it, what to doubt, and how to make it again.

Nothing here looks at a clock, a path or a locale: the same runs give the same bytes, wherever and whenever the page is made.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.reading.results import Cell, Results, command_name
from analysis.tables.formats import csv_bytes, grid_lines, latex_table
from repro.errors import UserError
from repro.files import json_text, write_bytes
from sweeps.spec import PAPER, Scale, Spec


@dataclass(frozen=True)
class Files:
    """The files of one table or figure, made from ``results``: name -> content; the page itself is ``<spec>.md``."""

    results: Results
    contents: dict[str, bytes]

    @property
    def name(self) -> str:
        """The name of the spec."""
        return self.results.spec.name

    @property
    def page(self) -> str:
        """The Markdown page."""
        return self.contents[f"{self.name}.md"].decode()

    @property
    def folder(self) -> Path:
        """Where the files lie below all pages: each scale but the paper's has a folder, and so has what is not in the paper."""
        scale = "" if self.results.scale.name == PAPER else self.results.scale.name
        return Path(scale) / ("" if re.fullmatch(r"(table|figure)\d+", self.name) else self.name)


def write_files(folder: Path, contents: Mapping[str, bytes]) -> list[Path]:
    """Write files, path below ``folder`` -> content, and return their paths.

    Raises:
        UserError: one cannot be written.
    """
    try:
        for name, content in contents.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_bytes(folder / name, content)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}. Set --out to a place you can write to.") from error
    return [folder / name for name in contents]


def heading(spec: Spec, scale: Scale) -> list[str]:
    """Return the lines of the title, the disclaimer of the scale and the caption."""
    return [f"# {spec.title}", "", *disclaimer_lines(scale), *([one_line(spec.caption), ""] if spec.caption else [])]


def disclaimer_lines(scale: Scale) -> list[str]:
    """Return the lines that say that a page is not at the paper's scale; none where it is."""
    return [f"> **{one_line(scale.disclaimer)}**", ""] if scale.disclaimer else []


def one_line(text: str) -> str:
    """Return ``text`` with each run of spaces and line breaks as one space."""
    return " ".join(text.split())


def table_files(
    results: Results, shown: Sequence[tuple[str, bool]], beside: Sequence[str], closing: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> Files:
    """Return the page of a table, as Markdown and LaTeX, and its ``rows`` as CSV.

    ``shown`` are the cells, row by row: a text and whether it is bold; ``beside`` are the lines of the comparison with what is published.
    """
    spec, scale = results.spec, results.scale
    columns = [line.label for line in spec.column_lines]
    body = [(line.label, shown[index * len(columns) :][: len(columns)]) for index, line in enumerate(spec.row_lines)]
    grid = grid_lines(["", *columns], [[label, *(f"**{text}**" if bold else text for text, bold in cells)] for label, cells in body])
    page = [*heading(spec, scale), *grid, "", *(["## Comparison with what is published", "", *beside, ""] if beside else []), *closing]
    tex = latex_table(spec.name, one_line(f"{spec.title}. {scale.disclaimer} {spec.caption}"), columns, body)
    contents = {"md": ("\n".join(page) + "\n").encode(), "tex": tex.encode(), "cells.csv": csv_bytes(rows)}
    return Files(results, {f"{spec.name}.{kind}": content for kind, content in contents.items()})


def provenance(results: Results, **more: Any) -> bytes:
    """Return the JSON of what a page was made from: the runs of each cell, what they were made with, and ``more``."""
    document = {"schema": 2, "spec": results.spec.name, "scale": results.scale.name, "spec_sha256": results.spec_sha256}
    runs = [{"row": cell.row, "column": cell.column, "runs": cell.run_ids} for cell in results.cells]
    done = results.runs[results.runs["state"] == "done"]
    return json_text(document | {"cells": runs, "made_with": made_with(done), **more}).encode()


def spread_note(results: Results) -> str:
    """Return what ± is, over what, and how many runs a cell has."""
    over = " and ".join(dict.fromkeys(key for cell in results.cells for repeat in cell.repeats for key in repeat))
    sizes = sorted({len(cell.run_ids) for cell in results.cells if cell.run_ids})
    count = f"n = {' or '.join(map(str, sizes))} runs a cell" if sizes else "no cell has runs"
    if results.spec.cell.spread == "none":
        return f"Means over {over}; {count}; no spread is given."
    return f"± is the sample standard deviation over {over} (n - 1 in the denominator), not a confidence interval; {count}; no ± at n = 1."


def notes(results: Results, *, read: Sequence[str], doubt: Sequence[str], command: str) -> list[str]:
    """Return the last lines of a page: how to read it, what to doubt, how to rebuild it; ``read`` and ``doubt`` are notes of its own."""
    cells, done = results.cells, results.runs[results.runs["state"] == "done"]
    read = [*read, *(f"Left out: {cell.label}: {cell.skip}" for cell in cells if cell.skip)]
    doubt = [*doubt, *_missing(results)]
    untuned = _labels((name, cell) for cell in cells for name in cell.untuned)
    doubt += [f"**Not tuned yet**: {name}; the values that the spec declares until it is: {labels}." for name, labels in untuned]
    at_end = _labels((name, cell) for cell in cells for name in cell.at_end)
    doubt += [f"At the end of its grid, so that a better value may lie beyond: {name}: {labels}." for name, labels in at_end]
    same = _labels((" ".join(cell.run_ids), cell) for cell in cells)
    doubt += [
        f"**The same runs**, so that nothing is compared between them: {labels}." for run_ids, labels in same if run_ids and ";" in labels
    ]
    made_by = made_with(done)
    several = [f"{len(counts)} {what}" for what, counts in made_by.items() if len(counts) > 1]
    if several:
        doubt.append(f"The runs come from {', '.join(several)} (`{results.spec.name}.provenance.json` counts them).")
    if moved := int(done["resumed_elsewhere"].sum()):
        doubt.append(
            f"{moved} runs began on another machine or with another version of the code, and resumed with the one that is counted."
        )
    name = command_name(results.spec, results.scale)
    rebuild = [
        f"`python -m sweeps run {name}`, then `python -m analysis {command} {name}`.",
        f"{len(done)} of {len(results.runs)} runs are done.",
    ]
    if len(done):
        one = "; ".join(f"{what}: {text}" for what, counts in made_by.items() if len(counts) == 1 for text in counts)
        hours, gpu_hours = (sum(done[key].fillna(0.0)) for key in ("wall_s", "gpu_hours"))
        rebuild.append(f"Newest run: {max(done['ended'])}; {hours / 3600:.2f} hours, {gpu_hours:.2f} GPU-hours over all attempts. {one}")
    groups = (("How to read it", read), ("What to doubt", doubt), ("How to rebuild it", rebuild))
    return ["---", *(line for title, lines in groups if lines for line in ("", f"**{title}**", "", *(f"- {text}" for text in lines)))]


def made_with(done: pd.DataFrame) -> dict[str, Counter[str]]:
    """Return what runs that are done were made with, and how many with each."""
    code = (
        f"{str(sha)[:12]}{f' with changes {dirty[:12]}' if dirty else ''}"
        for sha, dirty in zip(done["git_sha"], done["dirty_sha256"], strict=True)
    )
    return {"versions of the code": Counter(code), "versions of PyTorch": Counter(done["torch"]), "machines": Counter(done["machine"])}


def _labels(noted: Iterable[tuple[str, Cell]]) -> list[tuple[str, str]]:
    """Return each note once, with the labels of the cells that have it."""
    labels: defaultdict[str, list[str]] = defaultdict(list)
    for note, cell in noted:
        labels[note].append(cell.label)
    return [(note, "; ".join(of_note)) for note, of_note in labels.items()]


def _missing(results: Results) -> Iterator[str]:
    """Yield what is missing, a line a cell; a row of which nothing is done is one line, and so is a page."""
    started = {cell.row for cell in results.cells if results.done(cell)}
    groups: defaultdict[str, set[str]] = defaultdict(set)
    for cell in results.cells:
        label = cell.label if cell.row in started else f"{cell.row}, every column" if started else "every cell"
        groups[label].update(cell.run_ids)
    lines = []
    for label, run_ids in groups.items():
        states = Counter(results.runs.at[run_id, "state"] for run_id in sorted(run_ids))
        if set(states) - {"done"}:
            lines.append(f"  - {label}: {', '.join(f'{count} {state}' for state, count in sorted(states.items()))}")
    if lines:
        yield "\n".join(["**Not all runs are done**:", *lines])
