"""A figure: curves over epochs and panels of images, as PNG, SVG and PDF, with the numbers that are plotted as CSV."""

from __future__ import annotations

from analysis.figures.curves import COLUMNS, curve_points
from analysis.figures.draw import draw
from analysis.figures.labels import image_panels
from analysis.reading.results import Results
from analysis.tables.formats import csv_bytes
from analysis.tables.page import Files, heading, notes, provenance, spread_note

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
