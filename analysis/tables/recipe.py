"""A table of settings (``kind: recipe``): what the specs resolve to, beside what is published. It needs no run, only a plan."""

from __future__ import annotations

from analysis.reading.reported import read_reported
from analysis.reading.results import Results, command_name
from analysis.tables.formats import grid_lines
from analysis.tables.page import Files, table_files
from sweeps.spec import PAPER


def make_recipe(results: Results) -> Files:
    """Return the files of a table of settings."""
    published = read_reported(results.spec)
    rows = []
    for cell in results.cells:
        item, text = published.get(cell.place), _text(cell.value)
        verdict = None
        if item is not None:
            verdict = "another scale" if results.scale.name != PAPER else "same" if text == _text(item.mean) else "differs"
        row = {"spec": results.spec.name, "row": cell.row, "column": cell.column, "value": cell.value, "text": text}
        row |= {"published": item and _text(item.mean), "verdict": verdict, "source": item and item.source, "left_out": cell.skip}
        rows.append(row)
    beside = [[str(row[key]) for key in ("row", "column", "text", "published", "verdict")] for row in rows if row["verdict"]]
    name = command_name(results.spec, results.scale)
    closing = [
        "---",
        "",
        "- Ours: what `python -m repro` trains with when a spec says nothing else. What is not in the list is not published.",
    ]
    closing += [f"- Left out: {cell.label}: {cell.skip}" for cell in results.cells if cell.skip]
    closing += [f"- Published: {source}." for source in dict.fromkeys(item.source for item in published.values())]
    closing.append(f"- To rebuild this page: `python -m sweeps plan {name}`, then `python -m analysis tables {name}`.")
    grid = grid_lines(["", "", "ours", "published", "verdict"], beside, left=2) if beside else []
    return table_files(results, [(_text(cell.value), False) for cell in results.cells], grid, closing, rows)


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "none"
    return "—" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
