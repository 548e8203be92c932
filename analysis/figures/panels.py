"""What the panels of a figure have in common: how classes and images are drawn by lot, the rows of the CSV, and colours.

**What is drawn.** ``{count: 3, seed: 0}`` takes 3 of the candidates: numpy's PCG64 with that seed gives each candidate, in ascending
order, one raw 64-bit number, and those with the smallest are taken, without replacement. They are shown in ascending order. Where there
are fewer candidates, all are taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from analysis.reading.cells import Collected
from analysis.reading.stats import Summary
from sweeps.spec.load import FigureSpec, Panel, Sample

#: The rule above, in the words of a page.
RULE = (
    "numpy's PCG64 with the seed gives each candidate, in ascending order, one raw 64-bit number; those with the smallest are taken and "
    "shown in ascending order"
)

#: Okabe and Ito's colours, which readers with any colour vision tell apart; the yellow one is too pale for a thin line.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
#: Lines differ in their dashes too: for print in gray, and where two curves coincide.
DASHES = ("-", (0, (5, 2)), (0, (1.2, 1.5)), (0, (6, 2, 1.2, 2)))
#: Of what is no result of a run: published numbers, messages, placeholders.
GRAY = "#555555"
#: Inches of a letter of the figure's font, and of an entry of a legend without its name, for what is broken before it is drawn.
LETTER_INCHES, HANDLE_INCHES = 0.068, 0.6

#: The columns of a figure's CSV. Classes are numbers from 0; ``instance`` is a position in the published training set; ``source`` is
#: ``runs`` or ``published``.
COLUMNS = (
    *("spec", "panel", "row", "column", "metric", "class", "class_name", "instance", "annotated", "true", "repeat", "epoch"),
    *("mean", "sd", "n", "expected", "diverged", "source"),
)


def look(index: int) -> dict[str, Any]:
    """Return colour and dashes of the line number ``index``; the first 28 all differ."""
    return {"color": COLORS[index % len(COLORS)], "linestyle": DASHES[index % len(DASHES)]}


def drawn(candidates: Iterable[int], sample: Sample) -> tuple[int, ...]:
    """Return at most ``sample.count`` of ``candidates``, by the rule of this module."""
    ordered = sorted(set(candidates))
    numbers = np.random.PCG64(sample.seed).random_raw(len(ordered))
    return tuple(sorted(ordered[index] for index in np.argsort(numbers, kind="stable")[: sample.count]))


def legend_columns(names: Sequence[str], inches: float) -> int:
    """Return how many columns of a legend fit into that width: one row where all entries do."""
    for columns in range(len(names), 1, -1):
        # matplotlib fills column by column, each as wide as its longest name.
        widest = [max(map(len, part)) for part in np.array_split(np.array(names, dtype=object), columns)]
        if columns * HANDLE_INCHES + sum(widest) * LETTER_INCHES <= inches:
            return columns
    return 1


#: How the entries of a legend stand beside each other, for ``HANDLE_INCHES``.
LEGEND: dict[str, Any] = {"handlelength": 2.6, "columnspacing": 1.2}


def marked(row: str, *, n: int, expected: int, diverged: int) -> str:
    """Return a row's label, with ``(2/3)`` where runs are missing or have nothing to show, and ``div (1/3)`` where one diverged."""
    filled = f" ({n}/{expected})" if n < expected else ""
    return row + (f" div ({diverged}/{n})" if diverged else "") + filled


def csv_row(spec: FigureSpec, panel: Panel, cell: Collected, summary: Summary, **more: Any) -> dict[str, Any]:
    """Return one line of the CSV; ``more`` are its other columns."""
    numbers = {name: getattr(summary, name) for name in ("mean", "sd", "n", "expected", "diverged")}
    known = cell.columns(spec) | {"panel": panel.label, "source": "runs"} | numbers | more
    assert known.keys() <= set(COLUMNS)
    return {column: known.get(column) for column in COLUMNS}


def absent_note(datasets: Iterable[str]) -> list[str]:
    """Return the note on datasets whose files are not on this machine; nothing where there are none."""
    return [
        f"Image not on this machine: the files of {name} are not in the data folder ($REPRO_DATA, else data), so its images are gray "
        f"squares, its classes are numbers and its true classes are not known. Call: `python -m repro.data download {name}`."
        for name in sorted(datasets)
    ]


def cells_of(panel: Panel, column: str, cells: Sequence[Collected]) -> list[Collected]:
    """Return the cells that ``panel`` draws in one column of the figure, without those that are left out."""
    return [cell for cell in cells if cell.column == column and cell.row in panel.rows and cell.skip is None]
