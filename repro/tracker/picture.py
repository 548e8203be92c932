"""A picture of the dashboards: the panels of the workspace's own definition, drawn from run folders, without W&B.

It shows what a panel plots, not how W&B lays it out: colours, fonts and smoothing are its own.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from repro.errors import UserError
from repro.tracker.contents import Contents
from repro.tracker.dashboards import ORDERED_BY, sections
from repro.tracker.pictures import heatmap

#: Panels side by side; inches of each; dots per inch.
_COLUMNS, _PANEL, _DPI = 4, (3.2, 2.0), 100
_COLOURS = ("#4C72B0", "#DD8452", "#55A868", "#C44E52", "#8172B3", "#937860", "#DA8BC3", "#8C8C8C", "#CCB974", "#64B5CD")
_TITLE_LETTERS = 46
_NO_DATA = "no data in these runs"

#: A run: its method, its configuration and summary as W&B has them, its rows.
Run = tuple[str, Contents, Mapping[str, Any], Sequence[Mapping[str, Any]]]


def picture(folders: Sequence[Path], path: Path) -> None:
    """Draw the panels of all sections from the runs in ``folders``, and write them as an image to ``path``, such as ``panels.png``.

    Raises:
        UserError: no run has a row; ``wandb-workspaces`` is not installed; the file cannot be written.
    """
    read = [Contents(folder) for folder in folders]
    runs = [(str(run.config["method"]["name"]), run, run.summary(), rows) for run in read if (rows := run.rows())]
    if not runs:
        raise UserError("none of these runs has a row yet. Wait for the first epoch of a run, or name other run folders.")
    # The order of the workspace, whose first run is the one that panels of one run show.
    runs.sort(key=lambda run: -float(run[2].get(ORDERED_BY, -math.inf)))
    parts = sections()
    lines = [-(-len(part.panels) // _COLUMNS) for part in parts]
    figure = Figure(figsize=(_COLUMNS * _PANEL[0], sum(lines) * _PANEL[1] + 0.4 * len(parts)), layout="constrained")
    subfigures = figure.subfigures(len(parts), 1, height_ratios=[count * _PANEL[1] + 0.4 for count in lines], squeeze=False)[:, 0]
    for part, count, place in zip(parts, lines, subfigures, strict=True):
        assert isinstance(place, SubFigure)
        place.suptitle(part.name, x=0.01, ha="left", fontweight="bold")
        grid = list(place.subplots(count, _COLUMNS, squeeze=False).flat)
        for axes in grid:
            axes.set_axis_off()
        panels: Sequence[Any] = part.panels
        for axes, panel in zip(grid, panels, strict=False):
            axes.set_axis_on()
            axes.set_title(textwrap.fill(panel.title, _TITLE_LETTERS), fontsize=8)
            axes.tick_params(labelsize=7)
            if not _DRAWN[type(panel).__name__](axes, panel, runs):
                axes.set(xticks=[], yticks=[])
                axes.text(0.5, 0.5, _NO_DATA, transform=axes.transAxes, ha="center", va="center", color="grey", fontsize=8)
    try:
        figure.savefig(path, dpi=_DPI)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be written: {error}. Name a file that you can write, such as panels.png.") from error


def _lines(axes: Axes, panel: Any, runs: Sequence[Run]) -> bool:
    """Draw a line plot: means with a band of one standard deviation by method, or single runs."""
    if panel.metric_regex:
        *_, rows = runs[0]
        names = sorted(name for name in rows[-1] if re.match(panel.metric_regex, name))
        series = [(name.rpartition("/")[2], [rows], name) for name in names]
    else:
        groups: dict[str, list[Any]] = {}
        for method, run, _, rows in runs:
            groups.setdefault(method if panel.aggregate else run.title, []).append(rows)
        suffix = len(panel.y) > 1
        series = [(f"{label} {name}" if suffix else label, group, name) for label, group in groups.items() for name in panel.y]
    drawn = False
    for (label, group, name), colour in zip(series, cycle(_COLOURS), strict=False):
        curves = [{row["epoch"]: float(row[name]) for row in rows if name in row} for rows in group]
        epochs = sorted(set().union(*curves))
        if not epochs:
            continue
        values = np.array([[curve.get(epoch, math.nan) for epoch in epochs] for curve in curves])
        mean, sd = np.nanmean(values, axis=0), np.nanstd(values, axis=0)
        axes.plot(epochs, mean, color=colour, linewidth=1, label=label)
        if panel.aggregate:
            axes.fill_between(epochs, mean - sd, mean + sd, color=colour, alpha=0.2, linewidth=0)
        drawn = True
    if drawn and len(series) <= len(_COLOURS):
        axes.legend(fontsize=5, frameon=False)
    return drawn


def _bars(axes: Axes, panel: Any, runs: Sequence[Run]) -> bool:
    """Draw a bar for each method: the mean over its runs."""
    groups: dict[str, list[float]] = {}
    for (method, *_), value in zip(runs, _values(panel.metrics[0], runs), strict=True):
        if value is not None:
            groups.setdefault(method, []).append(float(value))
    axes.barh(list(groups), [float(np.mean(group)) for group in groups.values()], color=_COLOURS[: len(groups)])
    return bool(groups)


def _points(axes: Axes, panel: Any, runs: Sequence[Run]) -> bool:
    """Draw a point for each run."""
    found = [(method, x, y) for (method, *_), x, y in zip(runs, _values(panel.x, runs), _values(panel.y, runs), strict=True)]
    found = [point for point in found if None not in point]
    for method, colour in zip(dict.fromkeys(method for method, *_ in found), cycle(_COLOURS), strict=False):
        xs, ys = zip(*((x, y) for other, x, y in found if other == method), strict=True)
        axes.scatter(xs, ys, s=12, color=colour, label=method)
    if found:
        axes.legend(fontsize=5, frameon=False)
    return bool(found)


def _parallel(axes: Axes, panel: Any, runs: Sequence[Run]) -> bool:
    """Draw a line for each run through all columns, each from its lowest to its highest value."""
    columns = [[math.nan if value is None else float(value) for value in _values(column.metric, runs)] for column in panel.columns]
    table = np.array(columns)
    low, high = np.nanmin(table, axis=1, keepdims=True), np.nanmax(table, axis=1, keepdims=True)
    scaled = np.where(high > low, (table - low) / np.where(high > low, high - low, 1.0), 0.5)
    methods = list(dict.fromkeys(method for method, *_ in runs))
    for line, (method, *_) in zip(scaled.T, runs, strict=True):
        axes.plot(line, color=_COLOURS[methods.index(method) % len(_COLOURS)], linewidth=0.8)
    axes.set_xticks(range(len(columns)), [column.metric.name.replace("_", " ") for column in panel.columns], fontsize=5)
    axes.set_yticks([])
    return True


def _heat_map(axes: Axes, panel: Any, runs: Sequence[Run]) -> bool:
    """Draw the heat map of the first run."""
    _, run, _, rows = runs[0]
    image = heatmap([dict(row) for row in rows], epochs=run.epochs)
    axes.set_axis_off()
    if image is not None:
        axes.imshow(image, aspect="auto")
    return image is not None


def _values(metric: Any, runs: Sequence[Run]) -> Iterator[Any]:
    """Yield what each run has of a summary metric or a setting, ``None`` where it has none."""
    for _, run, summary, _ in runs:
        value: Any = run.config
        for part in metric.name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        yield summary.get(metric.name, value)


_DRAWN = {
    "LinePlot": _lines,
    "BarPlot": _bars,
    "ScatterPlot": _points,
    "ParallelCoordinatesPlot": _parallel,
    "MediaBrowser": _heat_map,
}
