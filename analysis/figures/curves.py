"""What curve panels show, as the lines of the figure's CSV: mean and spread over the runs, of a line for each row or each of its classes.

**What is drawn.** ``{count: 3, seed: 0}`` takes 3 of the candidates: numpy's PCG64 with that seed gives each candidate, in ascending
order, one raw 64-bit number, and those with the smallest are taken, without replacement. They are shown in ascending order. Where there
are fewer candidates, all are taken.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from analysis.reading.images import dataset_of, readable_names
from analysis.reading.results import Cell, Results
from analysis.reading.stats import Summary, summarize
from repro.errors import UserError
from sweeps.spec import Panel, Sample

#: The columns of a figure's CSV. Classes are numbers from 0; ``instance`` is a position in the published training set.
COLUMNS = (
    *("spec", "panel", "row", "column", "metric", "class", "class_name", "instance", "annotated", "true", "repeat", "epoch"),
    *("mean", "sd", "n", "expected", "diverged"),
)

#: One plotted number: :data:`COLUMNS`, and ``label``, what its line or bar is called in the picture.
Point = dict[str, Any]


def make_point(results: Results, panel: Panel, cell: Cell, summary: Summary, **more: Any) -> Point:
    """Return the point of ``summary``; ``more`` are its other columns."""
    place = {"spec": results.spec.name, "panel": panel.label, "row": cell.row, "column": cell.column}
    return dict.fromkeys(COLUMNS) | place | vars(summary) | more


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


def marked(label: str, runs: Summary) -> str:
    """Return ``label``, with ``(2/3)`` where runs are missing or have nothing to show, and ``div (1/3)`` where one diverged."""
    diverged = f" div ({runs.diverged}/{runs.n})" if runs.diverged else ""
    return label + diverged + (f" ({runs.n}/{runs.expected})" if runs.n < runs.expected else "")


def repeat_of(cell: Cell, run_id: str) -> str:
    """Return in words what a run of ``cell`` repeats: ``seed=0``."""
    return ", ".join(f"{key}={value}" for key, value in cell.repeats[cell.run_ids.index(run_id)].items())


def kept_of(results: Results, run_id: str) -> dict[str, Any]:
    """Return what evidence keeps of the labels of a run for this figure; nothing where runs are read from their folders."""
    kept: dict[str, Any] = results.source.record(run_id).get("drawn", {}).get(results.spec.name, {})
    return kept


def curve_points(results: Results) -> list[Point]:
    """Return every point of every line: a line has one for each epoch that any of its runs has, NaN where another has no value there."""
    points = []
    for panel in (panel for panel in results.spec.panels if panel.type == "curve"):
        for cell in cells_of(results, panel):
            if "{k}" not in panel.metric:
                points += _line(results, panel, cell, panel.metric)
                continue
            for number, name in _classes(results, panel, cell).items():
                metric = panel.metric.replace("{k}", f"{number:03d}")
                points += _line(results, panel, cell, metric, **{"class": number, "class_name": name})
    return points


def _line(results: Results, panel: Panel, cell: Cell, metric: str, **of_class: Any) -> list[Point]:
    curves = results.curves[(results.curves["metric"] == metric) & results.curves["run_id"].isin(cell.run_ids)]
    wide = curves.pivot(index="epoch", columns="run_id", values="value")
    summaries = [summarize(values, expected=len(cell.run_ids)) for values in wide.to_numpy().tolist()]
    label = ": ".join(filter(None, (cell.row, of_class.get("class_name"))))
    return [
        # What the runs lack is said once, as it is in the end.
        make_point(results, panel, cell, summary, metric=metric, epoch=epoch, label=marked(label, summaries[-1]), **of_class)
        for epoch, summary in zip(wide.index, summaries, strict=True)
    ]


def _classes(results: Results, panel: Panel, cell: Cell) -> dict[int, str]:
    """Return the classes that a panel shows, with their names as evidence keeps them, else as the dataset has them where it is here.

    Panels with the same ``{count, seed}`` show the same classes.
    """
    family = panel.metric.removesuffix("{k}")
    candidates = [int(metric.removeprefix(family)) for metric in results.curves["metric"].unique() if metric.startswith(family)]
    numbers = chosen(panel.classes or range(10), candidates)
    for run_id in results.done(cell)[:1]:
        if kept := kept_of(results, run_id).get("class_names"):
            return {number: kept[str(number)] for number in numbers}
        with contextlib.suppress(UserError):
            names = readable_names(dataset_of(results.source.record(run_id)))
            return {number: names[number] for number in numbers}
    return {number: f"class {number}" for number in numbers}
