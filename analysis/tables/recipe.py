"""A table of settings (``kind: recipe``): what the specs resolve to, beside what is published. It needs no run, only a plan."""

from __future__ import annotations

import json
from pathlib import Path

from analysis.reading.cells import Collected, collect, command_name
from analysis.tables.formats import csv_bytes, grid_lines, latex_table
from analysis.tables.page import Files, heading
from repro.files import json_text, jsonable
from sweeps.spec.load import PAPER, RecipeSpec, Reported


def make_recipe(spec: RecipeSpec, runs: Path) -> Files:
    """Return the files of the table from the plan in ``runs``.

    Raises:
        UserError: there is no plan of this spec in ``runs``.
    """
    cells = collect(spec, runs)
    reported = {(item.row, item.column): item for item in spec.reported}
    texts = {cell.place: _text(cell.value) for cell in cells}
    header = ["", *(column.label for column in spec.columns)]
    body = [[row.label, *(texts[row.label, column.label] for column in spec.columns)] for row in spec.rows]
    lines = [*heading(spec), *grid_lines(header, body), ""]
    if reported:
        lines += ["## Comparison with the published settings", ""]
        rows = [
            [row, column, texts[row, column], f"{item.mean:g}", _verdict(spec, texts[row, column], item)]
            for (row, column), item in reported.items()
        ]
        lines += [*grid_lines(["", "", "ours", "published", "verdict"], rows, left=2), ""]
    ours = "- Ours: what `python -m repro` trains with when a spec says nothing else. What is not in the list above is not published."
    lines += ["---", "", ours]
    lines += [f"- Left out: {cell.label}: {cell.skip}" for cell in cells if cell.skip is not None]
    lines += [f"- Published: {source}." for source in dict.fromkeys(item.source for item in spec.reported)]
    name = command_name(spec)
    lines.append(f"- To rebuild this page: `python -m sweeps plan {name}`, then `python -m analysis tables {name}`.")
    values = [{"row": cell.row, "column": cell.column, "value": cell.value} for cell in cells]
    provenance = {"schema": 1, "spec": spec.name, "spec_sha256": spec.sha256, "cells": values}
    tex = latex_table(spec, header[1:], [(label, [(text, False) for text in line]) for label, *line in body])
    contents = {"md": ("\n".join(lines) + "\n").encode(), "tex": tex.encode(), "provenance.json": json_text(provenance).encode()}
    contents |= {"cells.csv": csv_bytes([_row(spec, cell, reported.get(cell.place)) for cell in cells])}
    return Files(spec, {f"{spec.name}.{kind}": content for kind, content in contents.items()})


def _text(value: object) -> str:
    if value is None:
        return "—"
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _verdict(spec: RecipeSpec, text: str, published: Reported) -> str:
    if spec.scale != PAPER:
        return "another scale"
    return "same" if text == f"{published.mean:g}" else "differs"


def _row(spec: RecipeSpec, cell: Collected, published: Reported | None) -> dict[str, object]:
    said: dict[str, object] = {"published": None, "verdict": None, "source": None}
    if published is not None:
        said = {"published": published.mean, "verdict": _verdict(spec, _text(cell.value), published), "source": published.source}
    value = json.dumps(jsonable(cell.value)) if isinstance(cell.value, list) else cell.value
    return cell.columns(spec) | {"value": value} | said | {"left_out": cell.skip}
