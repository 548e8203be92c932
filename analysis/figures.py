"""A figure: curves over epochs, as PNG, SVG and PDF, with the numbers that are plotted as CSV.

The same runs give the same bytes: no date, no program version and no random id goes into a file, and the user's own matplotlib
settings are not read.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.collect import Collected, collect, read_curves
from analysis.page import Files, csv_bytes, footer, heading, run_columns, spread_note
from analysis.stats import Summary, summarize
from repro.files import jsonable
from sweeps.spec import FigureSpec, Panel

#: Okabe and Ito's colours, which readers with any colour vision tell apart; the yellow one is too pale for a thin line.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
#: Lines differ in their dashes too: for print in gray, and where two curves coincide.
DASHES = ("-", (0, (5, 2)), (0, (1.2, 1.5)), (0, (6, 2, 1.2, 2)))

_STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so it is the same everywhere
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "svg.hashsalt": "soft-labels-repro",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
    "pdf.compression": 6,
}
_METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
_PANEL_INCHES = (3.6, 2.7)
_DPI = 200


@dataclass(frozen=True)
class Curve:
    """One line of one panel: by completed epochs, what the cell's runs say together.

    A point exists for every epoch that any of the runs has; where another one has no finite value there, its mean is NaN and
    the line has a gap.
    """

    cell: Collected
    panel: Panel
    points: dict[int, Summary]
    num_runs: int
    num_diverged: int

    @property
    def name(self) -> str:
        """The row's label, with ``(2/3)`` where runs are missing or have no such metric, and ``div (1/3)`` where one diverged."""
        filled = f" ({self.num_runs}/{len(self.cell.repeats)})" if self.num_runs < len(self.cell.repeats) else ""
        return self.cell.row + (f" div ({self.num_diverged}/{self.num_runs})" if self.num_diverged else "") + filled


def make_figure(spec: FigureSpec, runs: Path) -> Files:
    """Return the files of the figure from the run folders in ``runs``.

    Raises:
        UserError: there is no plan of this spec in ``runs``.
    """
    cells = collect(spec, runs)
    curves = [curve for cell in cells if cell.skip is None for curve in _curves(spec, cell)]
    images = _draw(spec, curves)
    page = [
        *heading(spec),
        f"![{spec.title}]({spec.name}.png)",
        "",
        *footer(spec, cells, notes=_notes(spec, cells, curves), command="figures"),
    ]
    return Files(
        spec,
        {
            **{f"{spec.name}.{kind}": content for kind, content in images.items()},
            f"{spec.name}.csv": csv_bytes(
                _rows(spec, curves), columns=("spec", "row", "column", "metric", "epoch", "mean", "sd", "n", "expected", "diverged")
            ),
            f"{spec.name}.provenance.json": _provenance(spec, cells),
            f"{spec.name}.md": ("\n".join(page) + "\n").encode(),
        },
    )


def _curves(spec: FigureSpec, cell: Collected) -> list[Curve]:
    metrics = tuple(panel.metric for panel in spec.panels)
    by_run = [read_curves(repeat.run, metrics) for repeat in cell.repeats if repeat.run.done]
    found = []
    for panel in spec.panels:
        series = [curves[panel.metric] for curves in by_run if curves[panel.metric]]
        epochs = sorted(set().union(*series))
        points = {epoch: summarize([one.get(epoch, math.nan) for one in series], expected=len(cell.repeats)) for epoch in epochs}
        last = points[epochs[-1]] if epochs else None
        found.append(Curve(cell, panel, points, len(series), last.diverged if last else 0))
    return found


def look(index: int) -> dict[str, Any]:
    """Return colour and dashes of the line number ``index``; the first 28 all differ."""
    return {"color": COLORS[index % len(COLORS)], "linestyle": DASHES[index % len(DASHES)]}


def _draw(spec: FigureSpec, curves: Sequence[Curve]) -> dict[str, bytes]:
    with matplotlib.style.context(["default", _STYLE], after_reset=True):
        width, height = _PANEL_INCHES
        figure = Figure(figsize=(width * len(spec.panels), height * len(spec.columns) + 0.35), layout="constrained")
        grid = figure.subplots(len(spec.columns), len(spec.panels), squeeze=False)
        looks = {row.label: look(index) for index, row in enumerate(spec.rows)}
        for line, column in enumerate(spec.columns):
            for index, panel in enumerate(spec.panels):
                here = [curve for curve in curves if curve.cell.column == column.label and curve.panel == panel]
                _draw_panel(grid[line][index], here, panel, title=column.label, looks=looks, spread=spec.spread != "none")
        handles = [Line2D([], [], label=_legend_name(row.label, curves), **looks[row.label]) for row in spec.rows]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), max(2, 2 * len(spec.panels))), handlelength=3.2)
        images = {}
        for kind, metadata in _METADATA.items():
            content = io.BytesIO()
            figure.savefig(content, format=kind, dpi=_DPI, metadata=metadata)
            images[kind] = content.getvalue()
    return images


def _draw_panel(axes: Axes, curves: Sequence[Curve], panel: Panel, *, title: str, looks: dict[str, dict[str, Any]], spread: bool) -> None:
    factor = 100.0 if panel.scale == "percent" else 1.0
    for curve in curves:
        style = looks[curve.cell.row]
        epochs = list(curve.points)
        means = [math.nan if point.mean is None else point.mean * factor for point in curve.points.values()]
        axes.plot(epochs, means, **style)
        sds = [math.nan if point.sd is None else point.sd * factor for point in curve.points.values()]
        if spread and any(not math.isnan(sd) for sd in sds):
            lower = [mean - sd for mean, sd in zip(means, sds, strict=True)]
            upper = [mean + sd for mean, sd in zip(means, sds, strict=True)]
            axes.fill_between(epochs, lower, upper, color=style["color"], alpha=0.18, linewidth=0)
    if not any(curve.points for curve in curves):
        axes.text(0.5, 0.5, "no run is done", transform=axes.transAxes, ha="center", va="center", color="#555555")
    axes.set_xlabel("Epoch")
    axes.set_ylabel(panel.label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.01)
    if title:
        axes.set_title(title, fontsize=9)


def _legend_name(row: str, curves: Sequence[Curve]) -> str:
    """Return the name of a line; where its panels differ in what is missing, each is said."""
    names = dict.fromkeys(curve.name for curve in curves if curve.cell.row == row)
    return " / ".join(names) or f"{row} (left out)"


def _notes(spec: FigureSpec, cells: Sequence[Collected], curves: Sequence[Curve]) -> list[str]:
    metrics = ", ".join(f"`{panel.metric}`" for panel in spec.panels)
    notes = [
        f"Lines: mean of {metrics} over the runs, after each completed epoch; epoch 0 is the untrained model.",
        ("Bands: mean ± spread. " if spec.spread != "none" else "") + spread_note(spec, cells),
    ]
    if any(curve.num_runs < len(curve.cell.repeats) for curve in curves):
        notes.append("(n/N): only n of the line's N runs are done and have the metric; nothing stands in for the others.")
    if any(curve.num_diverged for curve in curves):
        notes.append("div (d/n): d of the line's n runs diverged; the line ends where the first of them did.")
    return notes


def _rows(spec: FigureSpec, curves: Sequence[Curve]) -> list[dict[str, Any]]:
    return [
        {
            "spec": spec.name,
            "row": curve.cell.row,
            "column": curve.cell.column,
            "metric": curve.panel.metric,
            "epoch": epoch,
            "mean": point.mean,
            "sd": point.sd,
            "n": point.n,
            "expected": point.expected,
            "diverged": point.diverged,
        }
        for curve in curves
        for epoch, point in curve.points.items()
    ]


def _provenance(spec: FigureSpec, cells: Sequence[Collected]) -> bytes:
    document = {
        "schema": 1,
        "spec": spec.name,
        "spec_sha256": spec.sha256,
        "lines": [
            {
                "row": cell.row,
                "column": cell.column,
                "runs": [{"repeat": repeat.repeat, **run_columns(repeat.run)} for repeat in cell.repeats],
            }
            for cell in cells
        ],
    }
    return (json.dumps(jsonable(document), sort_keys=True, indent=2, allow_nan=False) + "\n").encode()
