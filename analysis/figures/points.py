"""What is plotted, as the lines of the figure's CSV, and how classes and images are drawn by lot.

**What is drawn.** ``{count: 3, seed: 0}`` takes 3 of the candidates: numpy's PCG64 with that seed gives each candidate, in ascending
order, one raw 64-bit number, and those with the smallest are taken, without replacement. They are shown in ascending order. Where there
are fewer candidates, all are taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from analysis.reading.results import Cell, Results
from analysis.reading.stats import Summary
from sweeps.spec import Panel, Sample

#: The columns of a figure's CSV. Classes are numbers from 0; ``instance`` is a position in the published training set.
COLUMNS = (
    *("spec", "panel", "row", "column", "metric", "class", "class_name", "instance", "annotated", "true", "repeat", "epoch"),
    *("mean", "sd", "n", "expected", "diverged"),
)

#: One plotted number: :data:`COLUMNS`, and ``label``, what its line or bar is called in the picture.
Point = dict[str, Any]


def make_point(results: Results, panel: Panel, cell: Cell, summary: Summary | None, **more: Any) -> Point:
    """Return the point of ``summary``, if there is one; ``more`` are its other columns."""
    place = {"spec": results.spec.name, "panel": panel.label, "row": cell.row, "column": cell.column}
    return dict.fromkeys(COLUMNS) | place | (vars(summary) if summary else {}) | more


def cells_of(results: Results, panel: Panel) -> list[Cell]:
    """Return the cells that ``panel`` draws."""
    return [cell for cell in results.cells if cell.run_ids and (not panel.rows or cell.row in panel.rows)]


def chosen(wanted: Sample | Sequence[int], candidates: Iterable[int]) -> list[int]:
    """Return the listed ones of ``candidates``, or those drawn by the rule of this module."""
    ordered = sorted(set(candidates))
    if not isinstance(wanted, Sample):
        return [number for number in wanted if number in ordered]
    numbers = np.random.PCG64(wanted.seed).random_raw(len(ordered))
    return sorted(ordered[index] for index in np.argsort(numbers, kind="stable")[: wanted.count])


def marked(label: str, *, n: int, expected: int, diverged: int) -> str:
    """Return ``label``, with ``(2/3)`` where runs are missing or have nothing to show, and ``div (1/3)`` where one diverged."""
    return label + (f" div ({diverged}/{n})" if diverged else "") + (f" ({n}/{expected})" if n < expected else "")


def kept_of(results: Results, run_id: str) -> dict[str, Any]:
    """Return what evidence keeps of the labels of a run for this figure; nothing where runs are read from their folders."""
    kept: dict[str, Any] = results.source.record(run_id).get("drawn", {}).get(results.spec.name, {})
    return kept
