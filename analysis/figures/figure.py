"""A figure: curves over epochs and panels of images, as PNG, SVG and PDF, with the numbers that are plotted as CSV."""

from __future__ import annotations

from analysis.figures.curves import curve_notes, curve_points
from analysis.figures.draw import draw
from analysis.figures.labels import image_panels
from analysis.figures.points import COLUMNS
from analysis.reading.results import Results
from analysis.tables.formats import csv_bytes
from analysis.tables.page import Files, heading, notes, provenance, spread_note


def make_figure(results: Results) -> Files:
    """Return the files of a figure.

    Raises:
        UserError: recorded curves or labels are corrupted; published numbers cannot be read.
    """
    spec, scale = results.spec, results.scale
    points, images = curve_points(results), image_panels(results)
    contents = draw(results, points, images)
    empty = _not_drawn(results, points) | {", ".join(filter(None, (one.column, one.panel["label"]))): one.reason for one in images if not one.tiles}
    picture = f"![{spec.title}]({spec.name}.png)" if contents else f"No picture: {'; '.join(dict.fromkeys(empty.values()))}."
    read = [*curve_notes(results, points), *(note for made in images for note in made.notes)]
    # One run's labels have no spread.
    if any(panel.type != "examples" for panel in spec.panels):
        read.append(spread_note(results))
    doubt = [f"Not drawn: {place}: {reason}." for place, reason in empty.items() if contents]
    page = [*heading(spec, scale), picture, "", *notes(results, read=read, doubt=doubt, command="figures")]
    shown = [
        {"panel": panel.label, "classes": sorted({point["class"] for point in points if point["panel"] == panel.label})}
        for panel in spec.panels
        if "{k}" in panel.metric
    ]
    ...
