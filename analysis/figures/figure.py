"""A figure: curves over epochs and panels of images, as PNG, SVG and PDF, with the numbers that are plotted as CSV.

The same runs give the same bytes: no date, no program version and no random id goes into a file, and the user's own matplotlib
settings are not read. Only panels with images look at anything else, the dataset: where its files are not on this machine, they show
gray placeholders, so their bytes differ from those made where the files are.
"""

from __future__ import annotations

import io
import itertools
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.style
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.transforms import Bbox

from analysis.figures.curves import (
    LEGEND_INCHES,
    PUBLISHED,
    Curve,
    class_legend,
    curve_notes,
    curve_rows,
    draw_curves,
    is_family,
    legend_lines,
    published,
    read_panels,
    same_classes,
)
from analysis.figures.panels import COLUMNS, GRAY, LEGEND, absent_note, legend_columns, look
from analysis.figures.panels_labels import tiles_of
from analysis.figures.tiles import Tiles, bar_look
from analysis.reading.cells import collect
from analysis.reading.images import TrainingSets
from analysis.tables.formats import csv_bytes
from analysis.tables.page import Files, footer, heading, spread_note
from repro.files import json_text
from sweeps.spec.load import FigureSpec, Panel

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
class Band:
    """One line of the figure: up to two curve panels, or one panel of images, of one column; ``legend``: lines that all its panels name."""

    column: str
    panels: tuple[Panel, ...]
    tiles: Tiles | None
    inches: float
    legend: Sequence[Curve] = ()


def make_figure(spec: FigureSpec, runs: Path, *, published: bool = True) -> Files:
    """Return the files of the figure from the run folders in ``runs``, with names and images of ``published`` datasets that are here.

    Raises:
        UserError: there is no plan of this spec in ``runs``; a done run is damaged; a panel says what its type cannot show.
    """
    cells = collect(spec, runs)
    sets = TrainingSets(published=published)
    curves, classes = read_panels(spec, cells, sets)
    tiles = tiles_of(spec, cells, sets)
    bands, empty = _bands(spec, curves, tiles), _not_drawn(spec, curves, tiles)
    picture = f"![{spec.title}]({spec.name}.png)" if bands else f"No picture: {'; '.join(dict.fromkeys(empty.values()))}."
    notes = curve_notes(spec, curves, classes)
    # One run's labels have no spread.
    if any(panel.type != "examples" for panel in spec.panels):
        shown = "Bands: mean ± spread. " if spec.spread != "none" and any(panel.type == "curve" for panel in spec.panels) else ""
        notes.insert(min(1, len(notes)), shown + spread_note(spec, cells))
    notes += [*dict.fromkeys(note for item in tiles for note in item.notes), *absent_note(sets.absent)]
    notes += [f"Not drawn: {place}: {reason}." for place, reason in empty.items() if bands]
    page = [*heading(spec), picture, "", *footer(spec, cells, notes=notes, command="figures")]
    drawn: list[dict[str, Any]] = [
        {"panel": panel.label, "type": panel.type, "classes": list(numbers)} for panel, numbers in classes.items()
    ]
    drawn += [
        {"column": item.column, "instances": sorted(item.chosen), "runs": list(item.excerpts)}
        | {"panel": item.panel.label, "type": item.panel.type}
        for item in tiles
    ]
    lines = [
        {"row": cell.row, "column": cell.column, "runs": [{"repeat": item.repeat, **item.run.columns()} for item in cell.repeats]}
        for cell in cells
    ]
    provenance = {"schema": 1, "spec": spec.name, "spec_sha256": spec.sha256, "scale": spec.scale.title}
    provenance |= {"drawn": drawn, "datasets_not_on_this_machine": sorted(sets.absent), "lines": lines}
    rows = [*curve_rows(spec, cells, curves), *(row for item in tiles for row in item.rows)]
    contents = _draw(spec, curves, tiles, bands) | {"csv": csv_bytes(rows, columns=COLUMNS)}
    contents |= {"provenance.json": json_text(provenance).encode(), "md": ("\n".join(page) + "\n").encode()}
    return Files(spec, {f"{spec.name}.{kind}": content for kind, content in contents.items()})


def _bands(spec: FigureSpec, curves: Sequence[Curve], tiles: Iterable[Tiles]) -> list[Band]:
    """Return the lines of the figure, column by column: neighbouring curve panels side by side, a panel of images for itself.

    A panel that has nothing to show is left out.
    """
    bands = []
    images = iter(tiles)
    for column in (column.label for column in spec.columns):
        for is_curve, group in itertools.groupby(spec.panels, key=lambda panel: panel.type == "curve"):
            panels = tuple(group)
            if not is_curve:
                bands += [Band(column, (), item, item.inches) for item in itertools.islice(images, len(panels)) if item.tiles]
                continue
            panels = tuple(panel for panel in panels if _lines_of(curves, panel, column))
            for start in range(0, len(panels), _PANELS_A_LINE):
                pair = panels[start : start + _PANELS_A_LINE]
                families = [_lines_of(curves, panel, column) for panel in pair if is_family(panel)]
                shared = families[0] if len(families) > 1 and len(families) == len(pair) and same_classes(families) else ()
                below = legend_lines(shared, _PANEL_INCHES[0] * len(pair)) if shared else max(map(legend_lines, families), default=0)
                bands.append(Band(column, pair, None, _PANEL_INCHES[1] + below * _LEGEND_LINE_INCHES, shared))
    return bands


def _not_drawn(spec: FigureSpec, curves: Sequence[Curve], tiles: Iterable[Tiles]) -> dict[str, str]:
    found = {}
    for column in (column.label for column in spec.columns):
        for panel in spec.panels:
            if panel.type == "curve" and not _lines_of(curves, panel, column):
                done = any(curve.cell.done for curve in curves if curve.cell.column == column and curve.panel == panel)
                found[", ".join(filter(None, (column, panel.label)))] = "no done run has this metric" if done else "no run is done"
    return found | {", ".join(filter(None, (item.column, item.panel.label))): item.message for item in tiles if not item.tiles}


def _lines_of(curves: Sequence[Curve], panel: Panel, column: str) -> list[Curve]:
    lines = [curve for curve in curves if curve.cell.column == column and curve.panel == panel]
    return lines if any(curve.points for curve in lines) else []


def _draw(spec: FigureSpec, curves: Sequence[Curve], tiles: Sequence[Tiles], bands: Sequence[Band]) -> dict[str, bytes]:
    if not bands:
        return {}
    with matplotlib.style.context(["default", _STYLE], after_reset=True):
        sides = _PANELS_A_LINE if any(band.tiles for band in bands) else max(len(band.panels) for band in bands)
        width = _PANEL_INCHES[0] * sides
        looks = {row.label: look(index) for index, row in enumerate(spec.rows)}
        handles = _handles(spec, curves, tiles, looks)
        ncols = legend_columns([str(handle.get_label()) for handle in handles], width)
        stamp = textwrap.wrap(spec.scale.stamp or "", int(width / _SMALL_LETTER_INCHES))
        stamp_inches = 0.11 * len(stamp) + (0.1 if stamp else 0.0)
        legend_inches = _LEGEND_LINE_INCHES * -(-len(handles) // ncols) + 0.14 if handles else 0.0
        height = sum(band.inches for band in bands) + stamp_inches + legend_inches
        # What stands below the panels has its own strip, which the layout of the panels leaves alone.
        strip = (stamp_inches + legend_inches) / height
        engine = ConstrainedLayoutEngine(rect=(0.0, strip, 1.0, 1.0 - strip))
        figure = Figure(figsize=(width, height), layout=engine)
        _draw_bands(figure, spec, curves, bands, looks, sides)
        if handles:
            corner = (0.5, stamp_inches / height)
            figure.legend(handles=handles, loc="lower center", bbox_to_anchor=corner, borderaxespad=0.2, ncols=ncols, **LEGEND)
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
    figure: Figure, spec: FigureSpec, curves: Sequence[Curve], bands: Sequence[Band], looks: dict[str, dict[str, Any]], sides: int
) -> None:
    """Draw the bands from top to bottom; curve panels below each other share one grid, so that their axes stand in line."""
    groups = [list(group) for _, group in itertools.groupby(bands, key=lambda band: (band.tiles is None and not band.legend) or id(band))]
    parts = figure.subfigures(len(groups), 1, height_ratios=[sum(band.inches for band in group) for group in groups], squeeze=False)
    for group, part in zip(groups, parts[:, 0], strict=True):
        assert isinstance(part, SubFigure)
        if group[0].tiles is not None:
            group[0].tiles.draw(part, spread=spec.spread != "none")
            continue
        grid = part.subplots(len(group), sides, squeeze=False)
        for line, band in zip(grid, group, strict=True):
            for axes in line[len(band.panels) :]:
                axes.set_axis_off()
            for axes, panel in zip(line, band.panels, strict=False):
                lines = _lines_of(curves, panel, band.column)
                draw_curves(axes, spec, panel, lines, title=band.column, looks=looks)
                if is_family(panel) and not band.legend:
                    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), **class_legend(lines, LEGEND_INCHES))
            if band.legend:
                part.legend(loc="outside lower center", **class_legend(band.legend, _PANEL_INCHES[0] * sides))


def _handles(spec: FigureSpec, curves: Sequence[Curve], tiles: Sequence[Tiles], looks: dict[str, dict[str, Any]]) -> list[Line2D | Patch]:
    """Return the entries of the figure's legend: the rows with a line of their own, published numbers, the bars of two epochs."""
    drawn = {curve.panel for curve in curves if curve.points}
    plain = {row for panel in drawn if not is_family(panel) for row in panel.rows}
    handles: list[Line2D | Patch] = []
    for label in (row.label for row in spec.rows if row.label in plain):
        # Where its panels differ in what is missing, each is said.
        names = dict.fromkeys(curve.name for curve in curves if curve.cell.row == label and curve.number is None)
        handles.append(Line2D([], [], label=" / ".join(names) or f"{label} (left out)", **looks[label]))
    if any(published(spec, panel) for panel in drawn):
        handles.append(Line2D([], [], label="published", **PUBLISHED))
    for series in dict.fromkeys(item.series for item in tiles if item.tiles and len(item.series) > 1):
        handles += [Patch(label=name, **bar_look(number, len(series))) for number, name in enumerate(series)]
    return handles
