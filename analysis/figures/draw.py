"""Draws a figure from its points, as PNG, SVG and PDF.

The same points give the same bytes: no date, no program version and no random id goes into a file, the user's own matplotlib settings are
not read, and no part is placed by a solver.
"""

from __future__ import annotations

import base64
import functools
import io
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from PIL import Image

from analysis.figures.labels import ImagePanel
from analysis.figures.points import COLUMNS, Point
from analysis.reading.results import Results
from analysis.reading.stats import factor
from repro.metric_names import definition_of
from sweeps.spec import Panel

_STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so it is the same everywhere
    "font.size": 9,
    "axes.titlesize": 9,
    "figure.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "savefig.dpi": 200,
    "savefig.bbox": "tight",
    "svg.hashsalt": "soft-labels-repro",
    "pdf.fonttype": 42,
}
_METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
#: Okabe and Ito's colours, which readers with any colour vision tell apart; the yellow one is too pale for a thin line.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
#: Lines differ in their dashes too: for print in gray, and where two curves coincide.
_DASHES = ("-", (0, (5, 2)), (0, (1.2, 1.5)), (0, (6, 2, 1.2, 2)))
_GRAY = "#555555"
_PUBLISHED: dict[str, Any] = {"marker": "o", "markersize": 5, "markerfacecolor": "none", "markeredgecolor": _GRAY, "linestyle": "none"}
#: The bars of the first and of the last epoch; where there is one, it is the last.
_BARS = ({"facecolor": "#E3E3E3", "edgecolor": _GRAY}, {"facecolor": _COLORS[0], "edgecolor": _COLORS[0]})

#: In inches the width of a panel, and by its kind what is free beside its axes and its height; then the gap below it in heights of its axes.
_WIDTH, _LAYOUT = 3.6, {"curves": (0.75, 2.7, 0.35), "images": (2.05, 1.5, 0.5)}
#: Letters of the label of an axis that fit beside a panel.
_LETTERS = 32


def draw(results: Results, points: Sequence[Point], images: Sequence[ImagePanel]) -> dict[str, bytes]:
    """Return the picture by format: the legend, curve panels in pairs, then panels of images; nothing where all are empty."""
    frame = pd.DataFrame(points, columns=[*COLUMNS, "label"])
    runs = frame[frame["source"] == "runs"]
    looks = {label: {"color": _COLORS[index % 7], "linestyle": _DASHES[index % 4]} for index, label in enumerate(runs["label"].unique())}
    spread = results.spec.cell.spread != "none"
    with matplotlib.style.context(["default", _STYLE], after_reset=True):
        curves = [
            functools.partial(_draw_curves, panel=panel, column=column, points=lines, looks=looks, spread=spread)
            for panel in results.spec.panels
            for column, lines in frame[frame["panel"] == panel.label].groupby("column", sort=False)
            if "runs" in set(lines["source"])
        ]
        parts = [("curves", "", curves)] if curves else []
        for made in images:
            if made.tiles:
                parts.append(
                    ("images", made.title, [functools.partial(_draw_tile, made=made, tile=tile, spread=spread) for tile in made.tiles])
                )
        if not parts:
            return {}
        figure = _figure(parts)
        handles = [Line2D([], [], label=label, **look) for label, look in looks.items()]
        handles += [Line2D([], [], label="published", **_PUBLISHED)] if len(frame) > len(runs) else []
        if any(made.panel["type"] == "examples" for made in images):
            handles += [Patch(label=label, **look) for label, look in zip(("first epoch", "last epoch"), _BARS, strict=True)]
        # These stand above and below the panels; the files are cut to what is drawn.
        columns = max(1, int(2 * _WIDTH / (0.6 + 0.068 * max(map(len, looks), default=0))))
        figure.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns)
        small_print = textwrap.fill(results.scale.disclaimer, 120)
        figure.text(0.5, 0.0, small_print, ha="center", va="top", fontsize=7, color=_GRAY)
        return {kind: _save(figure, kind) for kind in _METADATA}


def _figure(parts: Sequence[tuple[str, str, Sequence[Callable[[Axes], None]]]]) -> Figure:
    """Return a figure of parts below each other, each with its kind, its title, and what draws on each of its axes, in pairs."""
    lines = [math.ceil(len(drawings) / 2) for _, _, drawings in parts]
    heights = [0.3 + count * _LAYOUT[kind][1] for count, (kind, _, _) in zip(lines, parts, strict=True)]
    figure = Figure(figsize=(2 * _WIDTH, sum(heights)))
    subfigures = figure.subfigures(len(parts), 1, height_ratios=heights, squeeze=False)[:, 0]
    for subfigure, height, count, (kind, title, drawings) in zip(subfigures, heights, lines, parts, strict=True):
        subfigure.suptitle(title)
        beside, _, gap = _LAYOUT[kind]
        edge = 0.1
        sides = {"left": beside / (2 * _WIDTH), "right": 1 - edge / (2 * _WIDTH), "wspace": (beside + edge) / (_WIDTH - beside - edge)}
        above = {"bottom": 0.5 / height, "top": 1 - (0.55 if title else 0.25) / height, "hspace": gap}
        grid = subfigure.subplots(count, 2, squeeze=False, gridspec_kw=sides | above)
        for axes, draw_axes in zip(grid.flat, drawings, strict=False):
            draw_axes(axes)
        for axes in grid.flat[len(drawings) :]:
            axes.remove()
    return figure


def _save(figure: Figure, kind: str) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format=kind, metadata=_METADATA[kind])
    return content.getvalue()


def _draw_curves(axes: Axes, *, panel: Panel, column: str, points: pd.DataFrame, looks: Mapping[str, dict[str, Any]], spread: bool) -> None:
    """Draw one panel: its lines, each as ``looks`` has it, and hollow markers at the edges for published numbers."""
    scale = factor(panel.scale)
    # No run could be beyond.
    is_fraction = definition_of(panel.metric.replace("{k}", "000")).unit == "fraction"
    limits = (0.0, scale) if is_fraction else (-math.inf, math.inf)
    for label, line in points.groupby("label", sort=False):
        epochs, mean, sd = line["epoch"].tolist(), scale * line["mean"].astype(float), scale * line["sd"].astype(float)
        if label == "published":
            # At the edges: the published runs have as many epochs as the paper's, whatever these have.
            edges = [0.0 if epoch == "start" else 1.0 for epoch in epochs]
            axes.plot(edges, mean, transform=axes.get_yaxis_transform(), clip_on=False, zorder=5, **_PUBLISHED)
            continue
        axes.plot(epochs, mean, **looks[str(label)])
        if spread:
            low, high = (mean - sd).clip(*limits), (mean + sd).clip(*limits)
            axes.fill_between(epochs, low, high, color=looks[str(label)]["color"], alpha=0.18, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.margins(x=0.01)
    label = panel.label if len(panel.label) <= _LETTERS else panel.label.replace(", ", ",\n", 1)
    axes.set(title=column, xlabel="Epoch", ylabel=label)


def _draw_tile(chart: Axes, *, made: ImagePanel, tile: Mapping[str, Any], spread: bool) -> None:
    """Draw the chart of an image's label, and the image beside it."""
    image = chart.inset_axes((-1.3, 0.0, 0.7, 1.0))
    image.imshow(np.asarray(Image.open(io.BytesIO(base64.b64decode(tile["image"])))), cmap="gray", vmin=0, vmax=255)
    image.set(xticks=[], yticks=[], xlabel=f"image {tile['instance']}")
    image.spines[:].set_visible(False)
    bars = pd.DataFrame([one for one in made.points if one["label"] and (one["row"], one["instance"]) == (tile["row"], tile["instance"])])
    scale, groups = factor(made.panel["scale"]), list(bars.groupby("epoch", sort=False))
    height = 0.8 / len(groups)
    for index, (_, group) in enumerate(groups):
        places = np.arange(len(group)) + (index - (len(groups) - 1) / 2) * height
        error = {"xerr": scale * group["sd"].astype(float), "error_kw": {"elinewidth": 0.8, "capsize": 2}} if spread else {}
        chart.barh(places, scale * group["mean"], height, linewidth=0.6, **_BARS[index - len(groups)], **error)
    chart.set_yticks(range(len(group)), group["label"])
    chart.invert_yaxis()
    chart.set_title(tile["title"], loc="right")
    chart.grid(visible=False, axis="y")
    chart.xaxis.set_major_locator(MaxNLocator(2))  # numbers such as 0.0025 are as long as the chart is wide
    if len(groups) > 1:
        chart.set_xlim(0.0, scale)
