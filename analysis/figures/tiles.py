"""Training images with charts of their labels beside them, drawn as one panel of a figure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure
from matplotlib.ticker import MaxNLocator

from analysis.figures.panels import COLORS, GRAY
from analysis.reading.stats import Summary, factor
from sweeps.spec.load import Panel

#: Inches of a tile: an image and the chart beside it, and what stands above and below the tiles of a panel.
_TILE_INCHES = 1.3
_AROUND_INCHES = 0.75
_TILES_A_LINE = 2


@dataclass(frozen=True)
class Bar:
    """One group of bars of a chart: its label, and for each series the length (a fraction) and its standard deviation."""

    label: str
    values: tuple[Summary, ...]


@dataclass(frozen=True)
class Tile:
    """One training image and the chart beside it.

    Attributes:
        image: uint8 (H, W) or (H, W, 3); ``None`` where it is not on this machine.
        message: what stands in the chart instead of bars.
    """

    position: int
    image: npt.NDArray[np.uint8] | None
    title: str
    bars: tuple[Bar, ...]
    message: str = ""


@dataclass
class Tiles:
    """A panel of images with charts of probabilities, for one column of the figure.

    Attributes:
        series: names of the bars of each group; one empty name where a group has one bar.
        limit: where the x axis of every chart ends, a fraction; ``None``: as its own bars need.
        message: why there are no tiles.
        rows_shown: labels of the rows of the figure, and what their runs lack.
        rows: what is drawn, for the CSV.
        notes: how to read it, for the page.
        run_ids: whose labels are drawn.
        excerpts: of all runs that were looked at, what is drawn: run id -> :meth:`analysis.reading.learned.Learned.excerpt`.
        chosen: positions of the images that were chosen.
    """

    panel: Panel
    column: str
    series: tuple[str, ...]
    limit: float | None
    message: str
    tiles: list[Tile] = field(default_factory=list)
    rows_shown: list[str] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    run_ids: list[str] = field(default_factory=list)
    excerpts: dict[str, dict[str, Any]] = field(default_factory=dict)
    chosen: set[int] = field(default_factory=set)

    @property
    def inches(self) -> float:
        """The panel's height."""
        return _AROUND_INCHES + _TILE_INCHES * -(-len(self.tiles) // _TILES_A_LINE)

    def draw(self, place: SubFigure, *, spread: bool) -> None:
        """Draw the panel into ``place``; ``spread`` says whether standard deviations are shown."""
        place.suptitle(": ".join(filter(None, (self.column, self.panel.label, ", ".join(self.rows_shown)))))
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
                chart.set_xlabel("Probability" + (" (%)" if self.panel.scale == "percent" else ""))

    def _draw_chart(self, axes: Axes, tile: Tile, *, spread: bool) -> None:
        scale, thickness = factor(self.panel.scale), 0.8 / len(self.series)
        axes.set_title(tile.title, loc="left")
        # A little behind the longest bar, with its standard deviation if that is shown.
        ends = [((value.mean or 0.0) + (value.sd or 0.0) * spread) * 1.05 for bar in tile.bars for value in bar.values]
        axes.set_xlim(0.0, scale * (self.limit or max(ends, default=0.0) or 1.0))
        axes.tick_params(length=2)
        axes.grid(visible=False, axis="y")
        axes.set_axisbelow(True)
        axes.xaxis.set_major_locator(MaxNLocator(2))  # numbers such as 0.0025 are as long as the chart is wide
        if not tile.bars:
            axes.set_yticks([])
            axes.text(0.5, 0.5, tile.message, transform=axes.transAxes, ha="center", va="center", color=GRAY)
            return
        for number in range(len(self.series)):
            values = [bar.values[number] for bar in tile.bars]
            heights = [index + (number - (len(self.series) - 1) / 2) * thickness for index in range(len(values))]
            axes.barh(heights, [(value.mean or 0.0) * scale for value in values], height=thickness, **bar_look(number, len(self.series)))
            found = ((value.mean, height, value.sd) for height, value in zip(heights, values, strict=True))
            whiskers = [(mean * scale, height, sd * scale) for mean, height, sd in found if mean is not None and sd]
            if spread and whiskers:
                means, places, sds = zip(*whiskers, strict=True)
                axes.errorbar(means, places, xerr=sds, fmt="none", ecolor="black", elinewidth=0.8, capsize=2)
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
