"""A figure: its page, the numbers that are plotted as CSV, and its picture as PNG, SVG and PDF.

The same points give the same bytes: no date, no program version and no random id goes into a file, the user's own matplotlib settings are
not read, and no part is placed by a solver.
"""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import matplotlib.style
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from analysis.figures.curves import COLUMNS, Point, curve_points
from analysis.figures.labels import ImagePanel, image_panels
from analysis.reading.results import Results
from analysis.reading.stats import factor
from analysis.tables.page import Files, csv_bytes, heading, notes, provenance, spread_note

_STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so it is the same everywhere
    "font.size": 9,
    "axes.titlesize": 9,
    "figure.titlesize": 9,
    "savefig.dpi": 200,
    "svg.hashsalt": "soft-labels-repro",
    "pdf.fonttype": 42,
}
#: In what every picture is drawn, and nothing else.
STYLES: list[str | dict[str, Any]] = ["default", "seaborn-v0_8-whitegrid", _STYLE]
_METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
#: Okabe and Ito's colours, which readers with any colour vision tell apart; the yellow one is too pale for a thin line.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
#: Lines differ in their dashes too: for print in gray, and where two curves coincide.
_DASHES = ("-", "--", ":", "-.")


def draw(results: Results, points: Sequence[Point], images: Sequence[ImagePanel]) -> dict[str, bytes]:
    """Return the picture by format: the legend, curve panels, then images with their charts; nothing where there are none."""
    frame = pd.DataFrame(points, columns=[*COLUMNS, "label"])
    looks: dict[Any, Any] = {
        label: {"color": _COLORS[index % 7], "linestyle": _DASHES[index % 4]} for index, label in enumerate(frame["label"].unique())
    }
    scales: dict[Any, float] = {panel.label: factor(panel.scale) for panel in results.spec.panels}
    curves = list(frame.groupby(["panel", "column"], sort=False))
    tiles = [(made["title"], tile) for made in images for tile in made["tiles"]]
    rows = (len(curves) + len(tiles) + 1) // 2
    if not rows:
        return {}
    with matplotlib.style.context(STYLES, after_reset=True):
        # In inches. The parts are of one size, two beside each other; the legend has what it needs above them.
        figure = Figure(figsize=(7.2, 1), layout="constrained")
        parts = iter(figure.subfigures(rows, 2, squeeze=False).flat)
        for (label, column), lines in curves:
            axes = next(parts).subplots()
            axes.set(title=column, xlabel="Epoch", ylabel=textwrap.fill(str(label), 26))
            _draw_curves(axes, lines, scales[label], looks)
        for title, tile in tiles:
            _draw_tile(next(parts), title, tile)
        handles = {label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        figure.set_figheight(2.2 * rows + 0.1 * len(handles))
        figure.legend(handles.values(), handles, loc="outside upper center", ncols=2)
        figure.supxlabel(textwrap.fill(results.scale.disclaimer, 120), fontsize=7)
        return saved(figure)


def saved(figure: Figure) -> dict[str, bytes]:
    """Return the bytes of ``figure`` by format."""
    return {kind: _save(figure, kind) for kind in _METADATA}


def _save(figure: Figure, kind: str) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format=kind, metadata=_METADATA[kind])
    return content.getvalue()


def _draw_curves(axes: Axes, lines: pd.DataFrame, scale: float, looks: Mapping[Any, dict[str, Any]]) -> None:
    for label, line in lines.groupby("label", sort=False):
        mean, sd = scale * line["mean"].astype(float), scale * line["sd"].astype(float)
        epochs = line["epoch"].astype(int)
        axes.plot(epochs, mean, label=label, **looks[label])
        axes.fill_between(epochs, mean - sd, mean + sd, color=looks[label]["color"], alpha=0.18, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def _draw_tile(part: SubFigure, title: str, tile: Mapping[str, Any]) -> None:
    """Draw an image and beside it the chart of its label: a group of bars for each class, a bar for each epoch."""
    part.suptitle(title)
    image, chart = part.subplots(1, 2, width_ratios=(2, 3))
    image.imshow(Image.open(io.BytesIO(base64.b64decode(tile["image"]))), cmap="gray", vmin=0, vmax=255)
    image.set(xticks=[], yticks=[], xlabel=f"image {tile['instance']}")
    bars = pd.DataFrame([bar | {"epoch": f"epoch {bar['epoch']}"} for bar in tile["bars"] if bar["label"]])
    table = bars.set_index(["label", "epoch"])[["mean", "sd"]].astype(float).unstack(sort=False)
    table["mean"].plot.barh(ax=chart, xerr=table["sd"], color=["#BBBBBB", _COLORS[0]], width=0.8, legend=False)
    chart.invert_yaxis()
    chart.set_title(tile["title"], loc="right")
    chart.set_ylabel("")
    chart.grid(visible=False, axis="y")
    chart.xaxis.set_major_locator(MaxNLocator(2))  # numbers such as 0.0025 are as long as the chart is wide


_CURVES = (
    "Lines: means over the runs after each completed epoch; 0 is the untrained model. Bands: mean ± spread.",
    "(2/3): two of three runs are done and have the metric. div (1/3): one diverged, where the line ends.",
)


def make_figure(results: Results) -> Files:
    """Return the files of a figure."""
    spec = results.spec
    curves, images = curve_points(results), image_panels(results)
    points = [*curves, *(bar for made in images for tile in made["tiles"] for bar in tile["bars"])]
    contents = draw(results, curves, images)
    read = [made["note"] for made in images if made["tiles"]]
    if curves:
        read = [*_CURVES, *read, spread_note(results)]
    doubt = [f"Not drawn: {made['panel']['label']}: {made['reason']}. {made['note']}".strip() for made in images if not made["tiles"]]
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
