"""What the panels of a figure have in common: how classes and images are drawn, the rows of the CSV, colours, and tiles of images.

**What is drawn.** ``{count: 3, seed: 0}`` takes 3 of the candidates: numpy's PCG64 with that seed gives each candidate, in ascending
order, one raw 64-bit number, and those with the smallest are taken, without replacement. They are shown in ascending order. Where there
are fewer candidates, all are taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure
from matplotlib.ticker import MaxNLocator

from analysis.collect import Collected
from analysis.stats import Summary
from sweeps.spec import FigureSpec, Panel, Sample

#: The rule above, in the words of a page.
RULE = (
    "numpy's PCG64 with the seed gives each candidate, in ascending order, one raw 64-bit number; those with the smallest are taken and "
    "shown in ascending order"
)

#: Okabe and Ito's colours, which readers with any colour vision tell apart; the yellow one is too pale for a thin line.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
#: Lines differ in their dashes too: for print in gray, and where two curves coincide.
DASHES = ("-", (0, (5, 2)), (0, (1.2, 1.5)), (0, (6, 2, 1.2, 2)))
#: Of what is no result of a run: published numbers, messages, placeholders.
GRAY = "#555555"
#: Inches of a letter of the figure's font, and of an entry of a legend without its name, for what is broken before it is drawn.
LETTER_INCHES, HANDLE_INCHES = 0.068, 0.75

#: The columns of a figure's CSV. Classes are numbers from 0; ``instance`` is a position in the published training set; ``source`` is
#: ``runs`` or ``published``.
COLUMNS = (
    *("spec", "panel", "row", "column", "metric", "class", "class_name", "instance", "annotated", "true", "repeat", "epoch"),
    *("mean", "sd", "n", "expected", "diverged", "source"),
)

#: Inches of a tile: an image and the chart beside it, and what stands above and below the tiles of a panel.
_TILE_INCHES = 1.3
_AROUND_INCHES = 0.75
_TILES_A_LINE = 2


def look(index: int) -> dict[str, Any]:
    """Return colour and dashes of the line number ``index``; the first 28 all differ."""
    return {"color": COLORS[index % len(COLORS)], "linestyle": DASHES[index % len(DASHES)]}


def drawn(candidates: Iterable[int], sample: Sample) -> tuple[int, ...]:
    """Return at most ``sample.count`` of ``candidates``, by the rule of this module."""
    ordered = sorted(set(candidates))
    numbers = np.random.PCG64(sample.seed).random_raw(len(ordered))
    return tuple(sorted(ordered[index] for index in np.argsort(numbers, kind="stable")[: sample.count]))


def legend_columns(names: Sequence[str], inches: float, handle: float = HANDLE_INCHES) -> int:
    """Return how many entries of a legend fit beside each other; ``handle`` is the width of an entry without its name."""
    widest = max((handle + LETTER_INCHES * len(name) for name in names), default=inches)
    return max(1, min(len(names), int(inches / widest)))


def factor(panel: Panel) -> float:
    """Return what a fraction is multiplied by on the panel's axis."""
    return 100.0 if panel.scale == "percent" else 1.0


def marked(row: str, *, n: int, expected: int, diverged: int) -> str:
    """Return a row's label, with ``(2/3)`` where runs are missing or have nothing to show, and ``div (1/3)`` where one diverged."""
    filled = f" ({n}/{expected})" if n < expected else ""
    return row + (f" div ({diverged}/{n})" if diverged else "") + filled


def csv_row(spec: FigureSpec, panel: Panel, cell: Collected, summary: Summary, **more: Any) -> dict[str, Any]:
    """Return one line of the CSV; ``more`` are its other columns."""
    numbers = {name: getattr(summary, name) for name in ("mean", "sd", "n", "expected", "diverged")}
    known = {"spec": spec.name, "panel": panel.label, "row": cell.row, "column": cell.column, "source": "runs"} | numbers | more
    assert known.keys() <= set(COLUMNS)
    return {column: known.get(column) for column in COLUMNS}


@dataclass(frozen=True)
class Bar:
    """One group of bars of a chart: its label, and for each series the length (a fraction) and its standard deviation."""

    label: str
    values: tuple[Summary, ...]


@dataclass(frozen=True)
class Tile:
    """One training image and the chart beside it.

    Attributes:
        position: of the image in the published training set.
        image: uint8 (H, W) or (H, W, 3); ``None`` where it is not on this machine.
        title: above the chart.
        bars: from top to bottom.
        message: what stands in the chart instead of bars.
    """

    position: int
    image: npt.NDArray[np.uint8] | None
    title: str
    bars: tuple[Bar, ...]
    message: str = ""

    def reach(self, spread: bool) -> float:
        """Return where the x axis of its chart ends: a little behind the longest bar, with its standard deviation if that is shown."""
        values = [value for bar in self.bars for value in bar.values if value.mean is not None]
        return max((((value.mean or 0.0) + ((value.sd or 0.0) if spread else 0.0)) * 1.05 for value in values), default=0.0) or 1.0


@dataclass(frozen=True)
class Tiles:
    """A panel of images with charts, for one column of the figure.

    Attributes:
        heading: above all tiles.
        series: names of the bars of each group; one empty name where a group has one bar.
        axis: label of the charts' x axis.
        limit: where the x axis of every chart ends, a fraction; ``None``: as its own bars need.
        message: what stands there when there are no tiles.
        rows: what is drawn, for the CSV.
        notes: how to read it, for the page.
        run_ids: whose labels are drawn.
        chosen: positions of the images that were chosen.
    """

    panel: Panel
    column: str
    heading: str
    tiles: tuple[Tile, ...]
    series: tuple[str, ...]
    axis: str
    limit: float | None
    message: str
    rows: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]
    run_ids: tuple[str, ...]
    chosen: tuple[int, ...]

    @property
    def inches(self) -> float:
        """The panel's height."""
        return _AROUND_INCHES + _TILE_INCHES * max(1, -(-len(self.tiles) // _TILES_A_LINE))

    def draw(self, place: SubFigure, *, spread: bool) -> None:
        """Draw the panel into ``place``; ``spread`` says whether standard deviations are shown."""
        place.suptitle(self.heading)
        if not self.tiles:
            place.text(0.5, 0.45, self.message, ha="center", va="center", color=GRAY)
            return
        lines = -(-len(self.tiles) // _TILES_A_LINE)
        grid = place.subplots(lines, 2 * _TILES_A_LINE, width_ratios=[1.0, 1.9] * _TILES_A_LINE, squeeze=False)
        for index in range(lines * _TILES_A_LINE):
            line, side = divmod(index, _TILES_A_LINE)
            image, chart = grid[line][2 * side], grid[line][2 * side + 1]
            if index >= len(self.tiles):
                image.set_axis_off()
                chart.set_axis_off()
                continue
            _draw_image(image, self.tiles[index])
            self._draw_chart(chart, self.tiles[index], spread=spread)
            if index + _TILES_A_LINE >= len(self.tiles):
                chart.set_xlabel(self.axis + (" (%)" if self.panel.scale == "percent" else ""))

    def _draw_chart(self, axes: Axes, tile: Tile, *, spread: bool) -> None:
        scale, thickness = factor(self.panel), 0.8 / len(self.series)
        axes.set_title(tile.title, loc="left")
        axes.set_xlim(0.0, scale * (tile.reach(spread) if self.limit is None else self.limit))
        axes.tick_params(length=2)
        axes.grid(visible=False, axis="y")
        axes.set_axisbelow(True)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        if not tile.bars:
            axes.set_yticks([])
            axes.text(0.5, 0.5, tile.message, transform=axes.transAxes, ha="center", va="center", color=GRAY)
            return
        for number in range(len(self.series)):
            values = [bar.values[number] for bar in tile.bars]
            heights = [index + (number - (len(self.series) - 1) / 2) * thickness for index in range(len(values))]
            axes.barh(heights, [(value.mean or 0.0) * scale for value in values], height=thickness, **bar_look(number, len(self.series)))
            whiskers = [(height, value) for height, value in zip(heights, values, strict=True) if value.mean is not None and value.sd]
            if spread and whiskers:
                axes.errorbar(
                    [(value.mean or 0.0) * scale for _, value in whiskers],
                    [height for height, _ in whiskers],
                    xerr=[(value.sd or 0.0) * scale for _, value in whiskers],
                    fmt="none",
                    ecolor="black",
                    elinewidth=0.8,
                    capsize=2,
                )
        axes.set_yticks(range(len(tile.bars)), [bar.label for bar in tile.bars])
        axes.set_ylim(len(tile.bars) - 0.4, -0.6)


def bar_look(number: int, count: int) -> dict[str, Any]:
    """Return the look of the bars of series ``number`` of ``count``: the last is filled, those before it are pale with an outline."""
    if number == count - 1:
        return {"facecolor": COLORS[0], "edgecolor": COLORS[0], "linewidth": 0.6}
    return {"facecolor": "#E3E3E3", "edgecolor": GRAY, "linewidth": 0.6}


def _draw_image(axes: Axes, tile: Tile) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(f"image {tile.position}", labelpad=2)
    if tile.image is None:
        axes.imshow(np.full((32, 32), 205, dtype=np.uint8), cmap="gray", vmin=0, vmax=255)
        text = "image not on\nthis machine"
        axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color="black", fontsize=6)
        return
    axes.imshow(tile.image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")


def absent_note(datasets: Iterable[str]) -> list[str]:
    """Return the note on datasets whose files are not on this machine; nothing where there are none."""
    return [
        f"Image not on this machine: the files of {name} are not in the data folder ($REPRO_DATA, else data), so its images are gray "
        f"placeholders, its classes are numbers and its true classes are not known. Call: `python -m repro.data download {name}`."
        for name in sorted(datasets)
    ]


def cells_of(panel: Panel, column: str, cells: Sequence[Collected]) -> list[Collected]:
    """Return the cells that ``panel`` draws in one column of the figure."""
    return [cell for cell in cells if cell.column == column and cell.row in panel.rows]
