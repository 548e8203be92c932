"""A figure: its page, the numbers that are plotted as CSV, and its picture as PNG, SVG and PDF.

The same points give the same bytes: no date, no program version and no random id goes into a file, the user's own matplotlib settings are
not read, and no part is placed by a solver.
"""

from __future__ import annotations

import base64
import functools
import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from analysis.figures.curves import COLUMNS, Point, curve_points
from analysis.figures.labels import ImagePanel, image_panels
from analysis.reading.results import Results
from analysis.reading.stats import factor
from analysis.tables.page import Files, csv_bytes, heading, notes, provenance, spread_note
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
#: The bars of the first and of the last epoch; where there is one, it is the last.
_BARS: tuple[dict[str, Any], ...] = ({"facecolor": "#E3E3E3", "edgecolor": _GRAY}, {"facecolor": _COLORS[0], "edgecolor": _COLORS[0]})

#: Letters of the label of an axis that fit beside a panel.
_LETTERS = 32


def draw(results: Results, points: Sequence[Point], images: Sequence[ImagePanel]) -> dict[str, bytes]:
    """Return the picture by format: the legend, curve panels in pairs, then images with their charts; nothing where there are none."""
    frame = pd.DataFrame(points, columns=[*COLUMNS, "label"])
    looks: dict[str, Any] = {
        label: {"color": _COLORS[index % 7], "linestyle": _DASHES[index % 4]} for index, label in enumerate(frame["label"].unique())
    }
    drawings: list[Callable[[Axes], None]] = [
        functools.partial(_draw_curves, panel=panel, column=str(column), points=lines, looks=looks)
        for panel in results.spec.panels
        for column, lines in frame[frame["panel"] == panel.label].groupby("column", sort=False)
    ]
    # Two beside each other; what belongs together begins on the left.
    drawings += [Axes.remove] * (len(drawings) % 2)
    inches = [2.7] * (len(drawings) // 2)
    for made in images:
        drawings += [
            functools.partial(_draw_tile, tile=tile, heading="" if index else made["title"]) for index, tile in enumerate(made["tiles"])
        ]
        drawings += [Axes.remove] * (len(drawings) % 2)
    if not drawings:
        return {}
    inches += [1.65] * (len(drawings) // 2 - len(inches))
    with matplotlib.style.context(["default", _STYLE], after_reset=True):
        figure = Figure(figsize=(7.2, sum(inches)))
        layout = {"left": 0.1, "right": 0.98, "wspace": 0.35, "hspace": 0.75 if images else 0.4}
        layout |= {"bottom": 0.5 / sum(inches), "top": 1 - 0.4 / sum(inches)}
        grid = figure.subplots(len(inches), 2, squeeze=False, height_ratios=inches, gridspec_kw=layout)
        for axes, draw_axes in zip(grid.flat, drawings, strict=True):
            draw_axes(axes)
        # The legend stands above the panels and the disclaimer below them; the files are cut to what is drawn.
        parts: list[Any] = [part for axes in figure.axes for part in (axes, *axes.child_axes)]
        handles = {label: handle for part in parts for handle, label in zip(*part.get_legend_handles_labels(), strict=True)}
        columns = int(7.2 / (0.6 + 0.068 * max(map(len, handles), default=0)))
        figure.legend(handles.values(), handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=max(1, columns))
        figure.text(0.5, 0.0, textwrap.fill(results.scale.disclaimer, 120), ha="center", va="top", fontsize=7, color=_GRAY)
        return {kind: _save(figure, kind) for kind in _METADATA}


def _save(figure: Figure, kind: str) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format=kind, metadata=_METADATA[kind])
    return content.getvalue()


def _draw_curves(axes: Axes, *, panel: Panel, column: str, points: pd.DataFrame, looks: Mapping[str, dict[str, Any]]) -> None:
    """Draw one panel: its lines, each as ``looks`` has it."""
    scale = factor(panel.scale)
    for label, line in points.groupby("label", sort=False):
        mean, sd = scale * line["mean"].astype(float), scale * line["sd"].astype(float)
        epochs = line["epoch"].astype(int)
        axes.plot(epochs, mean, label=label, **looks[str(label)])
        axes.fill_between(epochs, mean - sd, mean + sd, color=looks[str(label)]["color"], alpha=0.18, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.margins(x=0.01)
    axes.set(title=column, xlabel="Epoch", ylabel=textwrap.fill(panel.label, _LETTERS))


def _draw_tile(axes: Axes, *, tile: Mapping[str, Any], heading: str) -> None:
    """Draw an image and beside it the chart of its label, as two parts of ``axes``."""
    axes.set_axis_off()
    axes.set_title(heading, loc="left", pad=18)
    image, chart = axes.inset_axes((-0.2, 0.0, 0.36, 1.0)), axes.inset_axes((0.52, 0.0, 0.48, 1.0))
    image.imshow(np.asarray(Image.open(io.BytesIO(base64.b64decode(tile["image"])))), cmap="gray", vmin=0, vmax=255)
    image.set(xticks=[], yticks=[], xlabel=f"image {tile['instance']}")
    image.spines[:].set_visible(False)
    bars = pd.DataFrame([bar for bar in tile["bars"] if bar["label"]])
    groups = list(bars.groupby("epoch", sort=False))
    height = 0.8 / len(groups)
    for index, (epoch, group) in enumerate(groups):
        places = np.arange(len(group)) + (index - (len(groups) - 1) / 2) * height
        whiskers = group["sd"].astype(float)
        look = {"linewidth": 0.6, "label": f"epoch {epoch}" if len(groups) > 1 else None} | _BARS[index - len(groups)]
        chart.barh(places, group["mean"], height, xerr=whiskers, error_kw={"elinewidth": 0.8, "capsize": 2}, **look)
    chart.set_yticks(range(len(group)), group["label"])
    chart.invert_yaxis()
    chart.set_title(tile["title"], loc="right")
    chart.grid(visible=False, axis="y")
    chart.xaxis.set_major_locator(MaxNLocator(2))  # numbers such as 0.0025 are as long as the chart is wide
    if len(groups) > 1:
        chart.set_xlim(0.0, 1.0)


_CURVES = (
    "Lines: means over the runs after each completed epoch; epoch 0 is the untrained model. Bands: mean ± spread.",
    "(2/3): of the three runs of a line two are done and have the metric. div (1/3): one diverged, where the line ends.",
)


def make_figure(results: Results) -> Files:
    """Return the files of a figure."""
    spec = results.spec
    curves, images = curve_points(results), image_panels(results)
    points = [*curves, *(bar for made in images for tile in made["tiles"] for bar in tile["bars"])]
    contents = draw(results, curves, images)
    read = [made["note"] for made in images if made["tiles"]]
    if any(panel.type == "curve" for panel in spec.panels):
        read = [*_CURVES, *read, spread_note(results)]
    doubt = [f"Not drawn: {made['panel']['label']}: {made['reason']}. {made['note']}" for made in images if not made["tiles"]]
    shown = {point["panel"] for point in curves}
    doubt += [f"Not drawn: {one.label}: no run has it." for one in spec.panels if one.type == "curve" and one.label not in shown]
    picture = f"![{spec.title}]({spec.name}.png)" if contents else "No picture."
    page = [*heading(spec, results.scale), picture, "", *notes(results, read=read, doubt=doubt, command="figures")]
    contents |= {
        "csv": csv_bytes([{name: point[name] for name in COLUMNS} for point in points], columns=COLUMNS),
        "md": ("\n".join(page) + "\n").encode(),
        "provenance.json": provenance(results),
    }
    return Files(results, {f"{spec.name}.{kind}": content for kind, content in contents.items()})
