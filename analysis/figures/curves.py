"""What the curve panels show: mean and spread over the runs, epoch by epoch, of a line for each row or for each class of a row."""

from __future__ import annotations

import contextlib
from typing import Any

from analysis.figures.points import Point, cells_of, chosen, kept_of, make_point, marked
from analysis.reading.images import training_set_of
from analysis.reading.results import Cell, Results
from analysis.reading.stats import summarize
from repro.errors import UserError
from sweeps.spec import Panel

#: Classes that a panel shows where its spec says nothing.
MOST_CLASSES = 10


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
    points = []
    for epoch, values in wide.iterrows():
        summary = summarize(values.tolist(), expected=len(cell.run_ids))
        points.append(make_point(results, panel, cell, summary, metric=metric, epoch=epoch, **of_class))
    # What the runs lack is said once, as it is in the end.
    names = ": ".join(filter(None, (cell.row, of_class.get("class_name"))))
    label = marked(names, n=summary.n, expected=summary.expected, diverged=summary.diverged) if points else names
    return [point | {"label": label} for point in points]


def _classes(results: Results, panel: Panel, cell: Cell) -> dict[int, str]:
    """Return the classes that a panel shows, with their names as evidence keeps them, else as the dataset has them where it is here.

    Panels with the same ``{count, seed}`` show the same classes.
    """
    family = panel.metric.removesuffix("{k}")
    candidates = [int(metric.removeprefix(family)) for metric in results.curves["metric"].unique() if metric.startswith(family)]
    numbers = chosen(panel.classes or range(MOST_CLASSES), candidates)
    for run_id in results.done(cell)[:1]:
        if kept := kept_of(results, run_id).get("class_names"):
            return {number: kept[str(number)] for number in numbers}
        with contextlib.suppress(UserError):
            names = training_set_of(results.source.record(run_id)).class_names
            return {number: names[number] for number in numbers}
    return {number: f"class {number}" for number in numbers}
