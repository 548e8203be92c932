"""Curves over epochs: a line for each row, or for each chosen class of a row, and the published values beside them."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.figures.panels import COLORS, DASHES, GRAY, LEGEND, RULE, csv_row, drawn, legend_columns, look, marked
from analysis.reading.cells import Collected
from analysis.reading.images import TrainingSets
from analysis.reading.runs import read_curves
from analysis.reading.stats import Summary, factor, summarize
from repro.metric_names import definition_of
from sweeps.spec.load import PAPER, FigureSpec, Panel, Reported, Sample

#: Classes that a panel shows where its spec says nothing.
MOST_CLASSES = 10
#: Letters of a y axis' label that fit beside a panel; inches below one for the names of classes.
_LABEL_LETTERS = 32
LEGEND_INCHES = 3.5
_START = re.compile(r"(\d+(?:\.\d+)?) at the start")
#: The look of published numbers.
PUBLISHED: dict[str, Any] = {
    "marker": "o",
    "markersize": 5,
    "markerfacecolor": "none",
    "markeredgecolor": GRAY,
    "markeredgewidth": 1.2,
    "linestyle": "none",
}


@dataclass(frozen=True)
class Curve:
    """One line of one panel: by completed epochs, what the cell's runs say together.

    A point exists for every epoch that any of the runs has; where another one has no finite value there, its mean is NaN and
    the line has a gap.

    Attributes:
        metric: what is plotted; of a series per class, that of one class.
        number: which class; ``None`` where the metric is no series per class.
        class_name: its name.
    """

    cell: Collected
    panel: Panel
    metric: str
    number: int | None
    class_name: str | None
    points: dict[int, Summary]
    num_runs: int

    @property
    def num_diverged(self) -> int:
        """How many of its runs diverged before the end."""
        return self.points[max(self.points)].diverged if self.points else 0

    @property
    def name(self) -> str:
        """The row's label, and what its runs lack."""
        return marked(self.cell.row, n=self.num_runs, expected=len(self.cell.repeats), diverged=self.num_diverged)


def is_family(panel: Panel) -> bool:
    """Say whether the panel shows a series per class."""
    return "{k}" in panel.metric


def read_panels(spec: FigureSpec, cells: Sequence[Collected], sets: TrainingSets) -> tuple[list[Curve], dict[Panel, tuple[int, ...]]]:
    """Return all lines of all curve panels, and for each panel with a series per class the classes that it shows.

    These are those it lists; else drawn among the classes that all done runs have in all such panels, so that panels with the same
    ``{count, seed}`` show the same classes; else the first ten of these.

    Raises:
        UserError: a done run's metrics are damaged, or its dataset is.
    """
    panels = [panel for panel in spec.panels if panel.type == "curve"]
    if not panels:
        return [], {}
    metrics = tuple(panel.metric for panel in panels)
    read = {cell.place: [read_curves(run, metrics) for run in cell.done] for cell in cells if cell.skip is None}
    shown = [(cell, panel) for cell in cells if cell.skip is None for panel in panels if cell.row in panel.rows]
    found = [
        numbers
        for cell, panel in shown
        if is_family(panel)
        for run in read[cell.place]
        if (numbers := {int(name.rpartition("/")[2]) for name in run if name.startswith(panel.metric.removesuffix("{k}"))})
    ]
    candidates = sorted(set.intersection(*found)) if found else []
    classes = {panel: _chosen(panel, candidates) for panel in panels if is_family(panel)}
    curves = []
    for cell, panel in shown:
        for number in classes.get(panel, (None,)):
            metric = panel.metric if number is None else panel.metric.replace("{k}", f"{number:03d}")
            name = sets.class_name(cell.done[0], number) if number is not None and cell.done else None
            series = [run[metric] for run in read[cell.place] if run.get(metric)]
            epochs = sorted(set().union(*series))
            points = {epoch: summarize([one.get(epoch, math.nan) for one in series], expected=len(cell.repeats)) for epoch in epochs}
            curves.append(Curve(cell, panel, metric, number, name, points, len(series)))
    return curves, classes


def _chosen(panel: Panel, candidates: Sequence[int]) -> tuple[int, ...]:
    if isinstance(panel.classes, Sample):
        return drawn(candidates, panel.classes)
    return panel.classes if panel.classes is not None else tuple(candidates[:MOST_CLASSES])


def published(spec: FigureSpec, panel: Panel) -> list[tuple[Reported, float | None, float]]:
    """Return the published numbers of a panel as fractions: the entry, its value at the start, at the end.

    An entry holds one number, that at the end; one at the start is read from the words ``40 at the start`` of its source. At another scale
    than the paper's there are none: its curves are of other images and networks.
    """
    found = []
    for item in spec.reported if spec.scale == PAPER else ():
        if panel.type == "curve" and item.column == panel.label and item.row in panel.rows:
            unit = 0.01 if item.unit == "percent" else 1.0
            start = _START.search(item.source)
            found.append((item, float(start[1]) * unit if start else None, item.mean * unit))
    return found


def draw_curves(
    axes: Axes, spec: FigureSpec, panel: Panel, curves: Sequence[Curve], *, title: str, looks: dict[str, dict[str, Any]]
) -> None:
    """Draw one panel; ``curves`` are its lines, ``looks`` what the line of each row looks like."""
    scale = factor(panel.scale)
    is_fraction = definition_of(panel.metric.replace("{k}", "000")).unit == "fraction"
    for curve in curves:
        style = looks[curve.cell.row] if curve.number is None else _class_look(curve, curves)
        epochs = list(curve.points)
        pairs = [(point.mean, point.sd) for point in curve.points.values()]
        means, sds = scale * np.array(pairs, dtype=np.float64).reshape(-1, 2).T
        axes.plot(epochs, means, **style)
        if spec.spread != "none" and not np.isnan(sds).all():
            low, high = means - sds, means + sds
            if is_fraction:
                # No run could be there.
                low, high = np.clip(low, 0.0, scale), np.clip(high, 0.0, scale)
            axes.fill_between(epochs, low, high, color=style["color"], alpha=0.18, linewidth=0)
    for _, start, end in published(spec, panel):
        for place, value in ((0.0, start), (1.0, end)):
            if value is not None:
                # At the edges: the published runs have as many epochs as the paper's, whatever these have.
                axes.plot([place], [value * scale], transform=axes.get_yaxis_transform(), clip_on=False, zorder=5, **PUBLISHED)
    if is_fraction:
        # Not so far that a tick stands where no value can be.
        bottom, top = axes.get_ylim()
        beyond = 0.02 * min(scale, top - bottom)
        axes.set_ylim(max(bottom, -beyond), min(top, scale + beyond))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.set_xlabel("Epoch")
    axes.set_ylabel(_broken(panel.label))
    axes.margins(x=0.01)
    if title:
        axes.set_title(title)


def _broken(label: str) -> str:
    """Return the label of an axis in lines that fit beside a panel, broken after a comma where there is one."""
    parts = [label] if len(label) <= _LABEL_LETTERS else label.replace(", ", ",\n", 1).split("\n")
    return "\n".join(line for part in parts for line in textwrap.wrap(part, _LABEL_LETTERS))


def _class_look(curve: Curve, curves: Sequence[Curve]) -> dict[str, Any]:
    """Return the look of a class's line: with several rows, colours tell classes and dashes rows, as long as there are enough of both."""
    numbers = list(dict.fromkeys(other.number for other in curves))
    rows = list(dict.fromkeys(other.cell.row for other in curves))
    number, row = numbers.index(curve.number), rows.index(curve.cell.row)
    if len(rows) > 1 and len(numbers) <= len(COLORS) and len(rows) <= len(DASHES):
        return {"color": COLORS[number], "linestyle": DASHES[row]}
    return look(row * len(numbers) + number)


def class_legend(curves: Sequence[Curve], inches: float) -> dict[str, Any]:
    """Return the legend that names the classes of a panel, under the name of their row and what its runs lack."""
    labels = _class_labels(curves)
    handles = [Line2D([], [], label=label, **_class_look(curve, curves)) for label, curve in zip(labels, curves, strict=True)]
    title = " / ".join(dict.fromkeys(curve.name for curve in curves))
    return {"handles": handles, "title": title, "ncols": legend_columns(labels, inches), **LEGEND}


def _class_labels(curves: Sequence[Curve]) -> list[str]:
    several = len({curve.cell.row for curve in curves}) > 1
    return [f"{curve.class_name}, {curve.cell.row}" if several else str(curve.class_name) for curve in curves]


def legend_lines(curves: Sequence[Curve], inches: float = LEGEND_INCHES) -> int:
    """Return how many lines of text name the classes of a panel whose lines are ``curves``, in that width below it."""
    return 1 + -(-len(curves) // legend_columns(_class_labels(curves), inches))


def same_classes(curves: Sequence[Sequence[Curve]]) -> bool:
    """Say whether panels with these lines name the same classes of the same rows."""
    first, *others = ([(curve.name, curve.class_name) for curve in lines] for lines in curves)
    return all(names == first for names in others)


def curve_rows(spec: FigureSpec, cells: Sequence[Collected], curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """Return what is plotted, for the CSV: every point of every line, then the published numbers, which have no epoch but the last."""
    rows = [
        csv_row(spec, curve.panel, curve.cell, point, metric=curve.metric, epoch=epoch)
        | {"class": curve.number, "class_name": curve.class_name}
        for curve in curves
        for epoch, point in curve.points.items()
    ]
    for panel in spec.panels:
        for item, start, end in published(spec, panel):
            cell = next(cell for cell in cells if cell.row == item.row)
            for epoch, value in (("start", start), ("end", end)):
                if value is not None:
                    number = Summary(0, 0, 0, value, None)
                    line = csv_row(spec, panel, cell, number, metric=panel.metric, epoch=epoch, source="published")
                    rows.append(line | {"n": None, "expected": None, "diverged": None})
    return rows


def curve_notes(spec: FigureSpec, curves: Sequence[Curve], classes: dict[Panel, tuple[int, ...]]) -> list[str]:
    """Return how to read the curves, for the page."""
    panels = [panel for panel in spec.panels if panel.type == "curve"]
    if not panels:
        return []
    metrics = ", ".join(f"`{panel.metric}`" for panel in panels)
    notes = [f"Lines: mean of {metrics} over the runs, after each completed epoch; epoch 0 is the untrained model."]
    for panel, numbers in classes.items():
        names = {curve.number: curve.class_name for curve in curves if curve.panel == panel}
        named = {number: name for number, name in names.items() if name not in (None, f"class {number}")}
        listed = [f"{named[number]} ({number})" if number in named else f"class {number}" for number in numbers]
        how = "as the figure lists them" if panel.classes is not None else f"the first {MOST_CLASSES} that all done runs have"
        if isinstance(panel.classes, Sample):
            how = f"{panel.classes.count} drawn with seed {panel.classes.seed} among the classes that all done runs have: {RULE}"
        notes.append(f"Classes of {panel.label}: {', '.join(listed) or 'none yet'}; {how}.")
    if any(curve.num_runs < len(curve.cell.repeats) for curve in curves):
        notes.append("(n/N): only n of the line's N runs are done and have the metric; the others are left out, not imputed.")
    if any(curve.num_diverged for curve in curves):
        notes.append("div (d/n): d of the line's n runs diverged; the line ends where the first of them did.")
    for panel in panels:
        for item, start, end in published(spec, panel):
            scale = factor(panel.scale)
            values = ("" if start is None else f"{start * scale:g} at the start, ") + f"{end * scale:g} at the end"
            notes.append(f"Published (hollow markers at the edges): {panel.label}, {item.row}: {values} ({item.source}).")
    return notes
