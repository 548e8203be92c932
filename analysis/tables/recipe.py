"""A table of settings (``kind: recipe``): what the specs resolve to, beside what is published. It needs no run, only a plan."""

from __future__ import annotations

from analysis.reading.reported import read_reported
from analysis.reading.results import Results
from analysis.tables.formats import grid_lines
from analysis.tables.page import Files, notes, table_files
from sweeps.spec import PAPER


def make_recipe(results: Results) -> Files:
    """Return the files of a table of settings."""
    published, rows = read_reported(results.spec), []
    for cell in results.cells:
        item, text = published.get(cell.place), _text(cell.value)
        row = {"spec": results.spec.name, "row": cell.row, "column": cell.column, "value": cell.value, "text": text}
        row |= dict.fromkeys(("published", "verdict", "source")) | {"left_out": cell.skip}
        if item is not None:
            verdict = "another scale" if results.scale.name != PAPER else "same" if text == _text(item.mean) else "differs"
            row |= {"published": _text(item.mean), "verdict": verdict, "source": item.source}
        rows.append(row)
    body = [[str(row[key]) for key in ("row", "column", "text", "published", "verdict")] for row in rows if row["verdict"]]
    beside = grid_lines(["", "", "ours", "published", "verdict"], body, left=2) if body else []
    read = ["Ours: what `python -m repro` trains with when a spec says nothing else. What is not in the list is not published."]
    read += [f"Published: {source}." for source in dict.fromkeys(item.source for item in published.values())]
    closing = notes(results, read=read, doubt=[], command="tables")
    return table_files(results, [(str(row["text"]), False) for row in rows], beside, closing, rows)


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "none"
    return "—" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
