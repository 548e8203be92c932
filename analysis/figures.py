"""A figure: curves over epochs and panels of images, as PNG, SVG and PDF, with the numbers that are plotted as CSV.

The same runs give the same bytes: no date, no program version and no random id goes into a file, and the user's own matplotlib
settings are not read. Only panels with images look at anything else, the dataset: where its files are not on this machine, they show
gray placeholders, so their bytes differ from those made where the files are.
"""

from __future__ import annotations

import io
import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.style
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.transforms import Bbox

from analysis.collect import Collected, collect
from analysis.curves import (
    Curve,
    curve_notes,
    curve_rows,
    draw_curves,
    is_family,
    legend_lines,
    published,
    published_handle,
    read_panels,
)
from analysis.examples import examples
from analysis.images import TrainingSets
from analysis.page import Files, csv_bytes, footer, heading, run_columns, spread_note
from analysis.panels import COLUMNS, GRAY, Tiles, absent_note, bar_look, legend_columns, look
from analysis.panels_top import top_classes
from repro.files import jsonable
from sweeps.spec import FigureSpec, Panel

_STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so it is the same everywhere
    "font.size": 9,
    "axes.titlesize": 9,
    "figure.titlesize": 9,
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
#: Of a position in a figure: a hundredth of a pixel.
_DIGITS = 5
_PANEL_INCHES = (3.6, 2.7)
_PANELS_A_LINE = 2
_LEGEND_LINE_INCHES = 0.19
#: Of the stamp.
_SMALL_LETTER_INCHES, _SMALL = 0.055, 7
_DPI = 200


@dataclass(frozen=True)
class Drawing:
    """Everything that a figure shows.

    Attributes:
        curves: all lines of all curve panels.
        classes: which classes a panel of a series per class shows.
        tiles: the panels of images, one for each column of the figure.
    """

    curves: tuple[Curve, ...]
    classes: dict[Panel, tuple[int, ...]]
    tiles: tuple[Tiles, ...]

    def lines_of(self, panel: Panel, column: str) -> list[Curve]:
        """Return the lines of a curve panel in one column of the figure."""
        return [curve for curve in self.curves if curve.cell.column == column and curve.panel == panel]


@dataclass(frozen=True)
class Band:
    """One line of the figure: up to two curve panels with the title of their column, or one panel of images."""

    curves: tuple[tuple[str, Panel], ...]
    tiles: Tiles | None
    inches: float


def make_figure(spec: FigureSpec, runs: Path, *, data: Path | None = None) -> Files:
    """Return the files of the figure from the run folders in ``runs``; images come from the datasets in ``data``.

    ``data`` is by default ``$REPRO_DATA``, else ``data``.

    Raises:
        UserError: there is no plan of this spec in ``runs``; a done run is damaged; a panel says what its type cannot show.
    """
    cells = collect(spec, runs)
    sets = TrainingSets(data)
    drawing = _read(spec, cells, sets)
    images = _draw(spec, drawing)
    page = [
        *heading(spec),
        f"![{spec.title}]({spec.name}.png)",
        "",
        *footer(spec, cells, notes=_notes(spec, cells, drawing, sets), command="figures"),
    ]
    rows = [*curve_rows(spec, cells, drawing.curves), *(row for tiles in drawing.tiles for row in tiles.rows)]
    return Files(
        spec,
        {
            **{f"{spec.name}.{kind}": content for kind, content in images.items()},
            f"{spec.name}.csv": csv_bytes(rows, columns=COLUMNS),
            f"{spec.name}.provenance.json": _provenance(spec, cells, drawing, sets),
            f"{spec.name}.md": ("\n".join(page) + "\n").encode(),
        },
    )


def _read(spec: FigureSpec, cells: Sequence[Collected], sets: TrainingSets) -> Drawing:
    curves, classes = read_panels(spec, cells, sets)
    makers = {"top_classes": top_classes, "examples": examples}
    tiles = [
        makers[panel.type](spec, panel, column.label, cells, sets)
        for column in spec.columns
        for panel in spec.panels
        if panel.type in makers
    ]
    return Drawing(tuple(curves), classes, tuple(tiles))


def _bands(spec: FigureSpec, drawing: Drawing) -> list[Band]:
    """Return the lines of the figure, column by column: neighbouring curve panels side by side, a panel of images for itself."""
    bands = []
    for column in spec.columns:
        for is_curve, group in groupby(spec.panels, key=lambda panel: panel.type == "curve"):
            panels = list(group)
            if not is_curve:
                here = [next(item for item in drawing.tiles if (item.panel, item.column) == (panel, column.label)) for panel in panels]
                bands += [Band((), item, item.inches) for item in here]
                continue
            for start in range(0, len(panels), _PANELS_A_LINE):
                pair = panels[start : start + _PANELS_A_LINE]
                below = max(legend_lines(panel, drawing.lines_of(panel, column.label)) for panel in pair)
                inches = _PANEL_INCHES[1] + below * _LEGEND_LINE_INCHES
                bands.append(Band(tuple((column.label, panel) for panel in pair), None, inches))
    return bands


def _draw(spec: FigureSpec, drawing: Drawing) -> dict[str, bytes]:
    with matplotlib.style.context(["default", _STYLE], after_reset=True):
        bands = _bands(spec, drawing)
        sides = _PANELS_A_LINE if any(band.tiles for band in bands) else max(len(band.curves) for band in bands)
        width = _PANEL_INCHES[0] * sides
        looks = {row.label: look(index) for index, row in enumerate(spec.rows)}
        handles = _handles(spec, drawing, looks)
        ncols = legend_columns([str(handle.get_label()) for handle in handles], width)
        stamp = textwrap.wrap(spec.scale.stamp or "", int(width / _SMALL_LETTER_INCHES))
        stamp_inches = 0.11 * len(stamp) + (0.1 if stamp else 0.0)
        legend_inches = _LEGEND_LINE_INCHES * -(-len(handles) // ncols) + 0.14 if handles else 0.0
        height = sum(band.inches for band in bands) + stamp_inches + legend_inches
        # What stands below the panels has its own strip, which the layout of the panels leaves alone.
        strip = (stamp_inches + legend_inches) / height
        engine = ConstrainedLayoutEngine(rect=(0.0, strip, 1.0, 1.0 - strip))
        figure = Figure(figsize=(width, height), layout=engine)
        _draw_bands(figure, spec, drawing, bands, looks, sides)
        if handles:
            corner = (0.5, stamp_inches / height)
            figure.legend(handles=handles, loc="lower center", bbox_to_anchor=corner, borderaxespad=0.2, ncols=ncols, handlelength=3.2)
        if stamp:
            figure.text(0.5, 0.05 / height, "\n".join(stamp), ha="center", va="bottom", fontsize=_SMALL, color=GRAY, linespacing=1.1)
        # The first layout gives the panels their size, and with it other ticks, whose labels the next one makes room for.
        figure.draw_without_rendering()
        figure.draw_without_rendering()
        _freeze(figure)
        images = {}
        for kind, metadata in _METADATA.items():
            content = io.BytesIO()
            figure.savefig(content, format=kind, dpi=_DPI, metadata=metadata)
            images[kind] = content.getvalue()
    return images


def _freeze(figure: Figure) -> None:
    """Keep the layout as it is, rounded: the last bits of what its solver finds differ from one process to the next."""
    figure.set_layout_engine("none")
    for part in figure.subfigs:
        assert isinstance(part, SubFigure)
        part.bbox_relative.set_points(part.bbox_relative.get_points().round(_DIGITS))
    for axes in figure.axes:
        axes.set_position(Bbox(axes.get_position(original=True).get_points().round(_DIGITS)))


def _draw_bands(
    figure: Figure, spec: FigureSpec, drawing: Drawing, bands: Sequence[Band], looks: dict[str, dict[str, Any]], sides: int
) -> None:
    """Draw the bands from top to bottom; curve panels below each other share one grid, so that their axes stand in line."""
    groups = [list(group) for _, group in groupby(bands, key=lambda band: band.tiles is None or id(band))]
    parts = figure.subfigures(len(groups), 1, height_ratios=[sum(band.inches for band in group) for group in groups], squeeze=False)
    for group, part in zip(groups, parts[:, 0], strict=True):
        assert isinstance(part, SubFigure)
        if group[0].tiles is not None:
            group[0].tiles.draw(part, spread=spec.spread != "none")
            continue
        grid = part.subplots(len(group), sides, squeeze=False)
        for line, band in zip(grid, group, strict=True):
            for axes in line[len(band.curves) :]:
                axes.set_axis_off()
            for axes, (column, panel) in zip(line, band.curves, strict=False):
                draw_curves(axes, spec, panel, drawing.lines_of(panel, column), title=column, looks=looks)


def _handles(spec: FigureSpec, drawing: Drawing, looks: dict[str, dict[str, Any]]) -> list[Line2D | Patch]:
    """Return the entries of the figure's legend: the rows with a line of their own, published numbers, the bars of two epochs."""
    plain = {row for panel in spec.panels if panel.type == "curve" and not is_family(panel) for row in panel.rows}
    handles: list[Line2D | Patch] = [
        Line2D([], [], label=_legend_name(row.label, drawing.curves), **looks[row.label]) for row in spec.rows if row.label in plain
    ]
    if any(published(spec, panel) for panel in spec.panels):
        handles.append(published_handle())
    for series in dict.fromkeys(tiles.series for tiles in drawing.tiles if tiles.tiles and len(tiles.series) > 1):
        handles += [Patch(label=name, **bar_look(number, len(series))) for number, name in enumerate(series)]
    return handles


def _legend_name(row: str, curves: Sequence[Curve]) -> str:
    """Return the name of a line; where its panels differ in what is missing, each is said."""
    names = dict.fromkeys(curve.name for curve in curves if curve.cell.row == row and curve.number is None)
    return " / ".join(names) or f"{row} (left out)"


def _notes(spec: FigureSpec, cells: Sequence[Collected], drawing: Drawing, sets: TrainingSets) -> list[str]:
    notes = curve_notes(spec, drawing.curves, drawing.classes)
    # One run's labels have no spread.
    if any(panel.type != "examples" for panel in spec.panels):
        shown = "Bands: mean ± spread. " if spec.spread != "none" and any(panel.type == "curve" for panel in spec.panels) else ""
        notes.insert(min(1, len(notes)), shown + spread_note(spec, cells))
    return [*notes, *dict.fromkeys(note for tiles in drawing.tiles for note in tiles.notes), *absent_note(sets.absent)]


def _provenance(spec: FigureSpec, cells: Sequence[Collected], drawing: Drawing, sets: TrainingSets) -> bytes:
    panels: list[dict[str, Any]] = [
        {"panel": panel.label, "type": panel.type, "classes": list(numbers)} for panel, numbers in drawing.classes.items()
    ]
    panels += [
        {
            "panel": tiles.panel.label,
            "type": tiles.panel.type,
            "column": tiles.column,
            "instances": list(tiles.chosen),
            "runs": list(tiles.run_ids),
        }
        for tiles in drawing.tiles
    ]
    document = {
        "schema": 1,
        "spec": spec.name,
        "spec_sha256": spec.sha256,
        "scale": spec.scale.title,
        "drawn": panels,
        "datasets_not_on_this_machine": sorted(sets.absent),
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
