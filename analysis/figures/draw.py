"""Draws a figure from its points, as PNG, SVG and PDF.

The same points give the same bytes: no date, no program version and no random id goes into a file, the user's own matplotlib settings are
not read, and every part has its fixed place in inches.
"""

from __future__ import annotations

import base64
import io
import math
import textwrap
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from PIL import Image

from analysis.figures.labels import ImagePanel
from analysis.figures.points import COLUMNS, Point, cells_of, marked
from analysis.reading.results import Results
from analysis.reading.stats import factor
from repro.metric_names import definition_of
from sweeps.spec import Panel

_STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so it is the same everywhere
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "savefig.dpi": 200,
    "savefig.bbox": "tight",
    "savefig.pad_inches": 0.05,
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

#: In inches: half of the width, the height of a curve panel and of an image with its chart, and of a line of text.
_HALF, _CURVES, _TILE, _LINE = 3.6, 2.75, 1.45, 0.19
#: Letters of the label of an axis beside a panel, and of small print in an inch.
_LABEL_LETTERS, _SMALL_LETTERS = 32, 18


class _Sheet:
    """A tall figure that is filled from top to bottom; what stays empty is cut off when it is saved."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height, self.top = width, height, 0.0
        self.figure = Figure(figsize=(width, height))

    def axes(self, left: float, down: float, width: float, height: float) -> Axes:
        """Return new axes, ``down`` from what is filled."""
        bottom = self.height - self.top - down - height
        return self.figure.add_axes((left / self.width, bottom / self.height, width / self.width, height / self.height))

    def text(self, text: str, **style: Any) -> None:
        """Add a text in the middle, and go on below it."""
        self.figure.text(0.5, 1 - self.top / self.height, text, ha="center", va="top", **style)
        self.top += _LINE * (1 + text.count("\n"))

    def legend(self, handles: Sequence[Artist]) -> None:
        """Add a legend in the middle, in as many columns as fit, and go on below it."""
        longest = max(len(str(handle.get_label())) for handle in handles)
        columns = min(len(handles), max(1, int(self.width / (0.6 + 0.068 * longest))))
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, 1 - self.top / self.height), "borderaxespad": 0.0}
        self.figure.legend(handles=handles, ncols=columns, handlelength=2.6, **place)
        self.top += _LINE * -(-len(handles) // columns) + 0.15


def draw(results: Results, points: Sequence[Point], images: Sequence[ImagePanel]) -> dict[str, bytes]:
    """Return the picture by format: curve panels in pairs, with their legend, then panels of images; nothing where all are empty."""
    runs = pd.DataFrame([point for point in points if point["source"] == "runs"], columns=[*COLUMNS, "label"])
    panels = list(runs.groupby(["panel", "column"], sort=False))
    images = [made for made in images if made.tiles]
    if not panels and not images:
        return {}
    spread = results.spec.cell.spread != "none"
    with matplotlib.style.context(["default", _STYLE], after_reset=True):
        sheet = _Sheet(_HALF * min(2, len(panels) + 2 * len(images)), 9 + _CURVES * len(panels) + _TILE * sum(len(made.tiles) for made in images))
        entries = _legend(results, runs)
        looks = {
            label: {"color": _COLORS[index % len(_COLORS)], "linestyle": _DASHES[index % len(_DASHES)]} for index, label in enumerate(entries)
        }
        for index, ((label, column), lines) in enumerate(panels):
            axes = sheet.axes(_HALF * (index % 2) + 0.75, _CURVES * (index // 2) + 0.25, 2.75, 2.0)
            published = [point for point in points if point["source"] == "published" and (point["panel"], point["column"]) == (label, column)]
            panel = next(panel for panel in results.spec.panels if panel.label == label)
            draw_curves(axes, panel, lines, published, looks, spread=spread)
            axes.set_title(column)
        sheet.top += _CURVES * -(-len(panels) // 2)
        if panels:
            handles = [Line2D([], [], label=name, **looks[label]) for label, name in entries.items()]
            sheet.legend(handles + [Line2D([], [], label="published", **_PUBLISHED)] * (len(points) > len(runs)))
        for made in images:
            _draw_images(sheet, made, spread=spread)
        if any(made.panel["type"] == "examples" for made in images):
            sheet.legend([Patch(label=label, **bars) for label, bars in zip(("first epoch", "last epoch"), _BARS, strict=True)])
        if results.scale.disclaimer:
            sheet.text(textwrap.fill(results.scale.disclaimer, int(_SMALL_LETTERS * sheet.width)), fontsize=7, color=_GRAY)
        return {kind: _save(sheet.figure, kind) for kind in _METADATA}


def _save(figure: Figure, kind: str) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format=kind, metadata=_METADATA[kind])
    return content.getvalue()


def _legend(results: Results, runs: pd.DataFrame) -> dict[str, str]:
    """Return the label of each line with its entry in the legend, which says what its runs lack; a row without a line is there too."""
    entries: defaultdict[str, dict[str, None]] = defaultdict(dict)
    plain = [panel for panel in results.spec.panels if panel.type == "curve" and "{k}" not in panel.metric]
    rows = {cell.row for panel in plain for cell in cells_of(results, panel)}
    for label in [*(line.label for line in results.spec.row_lines if line.label in rows), *runs["label"]]:
        entries[label] = {}
    for point in runs.groupby(["panel", "column", "label"], sort=False).tail(1).to_dict("records"):
        entries[point["label"]][marked(point["label"], n=point["n"], expected=point["expected"], diverged=point["diverged"])] = None
    return {label: " / ".join(texts) or f"{label} (no run)" for label, texts in entries.items()}


def draw_curves(
    axes: Axes, panel: Panel, lines: pd.DataFrame, published: Sequence[Point], looks: Mapping[str, dict[str, Any]], *, spread: bool
) -> None:
    """Draw one panel: its ``lines``, each as ``looks`` has it, and hollow markers at the edges for ``published`` numbers."""
    scale = factor(panel.scale)
    is_fraction = definition_of(panel.metric.replace("{k}", "000")).unit == "fraction"
    # No run could be beyond.
    limits = (0.0, scale) if is_fraction else (-math.inf, math.inf)
    for label, line in lines.groupby("label", sort=False):
        mean, sd = scale * line["mean"].astype(float), scale * line["sd"].astype(float)
        axes.plot(line["epoch"], mean, **looks[str(label)])
        if spread:
            low, high = (mean - sd).clip(*limits), (mean + sd).clip(*limits)
            axes.fill_between(line["epoch"], low, high, color=looks[str(label)]["color"], alpha=0.18, linewidth=0)
    for point in published:
        # The published runs have as many epochs as the paper's, whatever these have.
        edge = 0.0 if point["epoch"] == "start" else 1.0
        axes.plot([edge], [scale * point["mean"]], transform=axes.get_yaxis_transform(), clip_on=False, zorder=5, **_PUBLISHED)
    if is_fraction:
        # Not so far that a tick stands where no value can be.
        low, high = axes.get_ylim()
        beyond = 0.02 * min(scale, high - low)
        axes.set_ylim(max(low, -beyond), min(high, scale + beyond))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.margins(x=0.01)
    axes.set_xlabel("Epoch")
    axes.set_ylabel(panel.label if len(panel.label) <= _LABEL_LETTERS else panel.label.replace(", ", ",\n", 1))


def _draw_images(sheet: _Sheet, made: ImagePanel, *, spread: bool) -> None:
    """Draw the images of a panel, two beside each other, each with a chart of its label."""
    sheet.text(made.title)
    scale = factor(made.panel["scale"])
    for index, tile in enumerate(made.tiles):
        left, down = _HALF * (index % 2), 0.2 + _TILE * (index // 2)
        image, chart = sheet.axes(left + 0.05, down, 1.0, 1.0), sheet.axes(left + 2.0, down, 1.45, 1.0)
        image.imshow(np.asarray(Image.open(io.BytesIO(base64.b64decode(tile["image"])))), cmap="gray", vmin=0, vmax=255)
        image.set(xticks=[], yticks=[], xlabel=f"image {tile['instance']}")
        image.spines[:].set_visible(False)
        chart.set_title(tile["title"], loc="right")
        chart.grid(visible=False, axis="y")
        if tile["reason"]:
            chart.set(xticks=[], yticks=[])
            chart.text(0.5, 0.5, tile["reason"], transform=chart.transAxes, ha="center", va="center", color=_GRAY)
            continue
        bars = pd.DataFrame([one for one in made.points if one["label"] and (one["row"], one["instance"]) == (tile["row"], tile["instance"])])
        groups = list(bars.groupby("epoch", sort=False))
        for number, (_, group) in enumerate(groups):
            height = 0.8 / len(groups)
            places = np.arange(len(group)) + (number - (len(groups) - 1) / 2) * height
            error = {"xerr": scale * group["sd"].astype(float), "error_kw": {"elinewidth": 0.8, "capsize": 2}} if spread else {}
            chart.barh(places, scale * group["mean"], height, linewidth=0.6, **_BARS[number - len(groups)], **error)
        chart.set_yticks(range(len(group)), group["label"])
        chart.invert_yaxis()
        chart.tick_params(length=2)
        chart.xaxis.set_major_locator(MaxNLocator(2))  # numbers such as 0.0025 are as long as the chart is wide
        if len(groups) > 1:
            chart.set_xlim(0.0, scale)
        if index + 2 >= len(made.tiles):
            chart.set_xlabel("Probability" + (" (%)" if scale > 1.0 else ""))
    sheet.top += 0.4 + _TILE * -(-len(made.tiles) // 2)
