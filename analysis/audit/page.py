"""One HTML page to review doubted labels by hand, that needs no other file and no network.

What comes from the dataset is text, never HTML, and the page's own policy lets it ask for nothing.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path

import jinja2
import numpy as np
import numpy.typing as npt
from PIL import Image

from analysis.audit.doubts import Doubts, labels_of, names_of, verified_rows
from analysis.reading.runs import read_labels
from analysis.report.page import asset
from repro.randomness import sha256_of

#: Images that the page shows; the others are in the lists. Pixels of a side; images in a row and in all of a sheet of them.
SHOWN, SIDE, COLUMNS, SHEET = 10_000, 48, 32, 1024

#: Points of a line of a label, and the 64 levels at which they are drawn.
POINTS = 30
LEVELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def make_page(doubts: Doubts) -> bytes:
    """Return the page in UTF-8, with the first :data:`SHOWN` images of the list."""
    (key, names), shown = names_of(doubts.raw), slice(SHOWN)
    rows = doubts.rows[shown]
    epochs, lines = _lines(doubts, shown)
    cell, sheets = _sheets(doubts.raw.train.images, rows)
    data = {
        "id": sha256_of(doubts.rows, doubts.annotated, doubts.suggested)[:16],
        "key": key,
        "names": names,
        "labels": labels_of(doubts).tolist(),
        "trained": len(doubts.raw.train.labels),
        "trained_on": len(doubts.rows),
        "verified": verified_rows(doubts.raw),
        "classes": list(doubts.raw.class_names),
        "rows": rows.tolist(),
        "suggested": doubts.suggested[shown].tolist(),
        "own": doubts.own[shown].round(3).tolist(),
        "other": doubts.other[shown].round(3).tolist(),
        "agreement": doubts.agreement[shown].round(2).tolist(),
        "changed": (doubts.corrected == doubts.suggested)[shown].astype(int).tolist(),
        "true": None if doubts.true is None else doubts.true[shown].tolist(),
        "epochs": epochs,
        "lines": lines,
        "levels": LEVELS,
        "sheets": sheets,
        "cell": cell,
        "columns": COLUMNS,
        "sheet": SHEET,
        "side": min(SIDE, *doubts.raw.train.images.shape[2:]),
    }
    return (
        jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
        .from_string(asset("audit.html"))
        .render(
            doubts=doubts,
            runs=[record["run_id"] for record in doubts.records],
            dataset=doubts.records[0]["fields"]["dataset.name"],
            found=doubts.found(),
            data=data,
            css=asset("report.css") + asset("audit.css"),
            script=asset("audit.js"),
        )
        .encode()
    )


def _lines(doubts: Doubts, shown: slice) -> tuple[list[int], list[str]]:
    """Return epochs, and for each image shown the label's probability of the annotated, then of the suggested class at them.

    The labels are those of the first run that recorded labels of images; an image that it was not trained on has an empty text.
    """
    for record in doubts.records:
        labels = read_labels(Path(record["place"]))
        if labels is not None and labels.kind == "instance" and labels.epochs:
            epochs = np.linspace(0, labels.epochs - 1, min(POINTS, labels.epochs)).round().astype(int)
            rows = labels.rows_of(doubts.raw.positions[doubts.rows[shown]])
            classes = np.stack([doubts.annotated[shown], doubts.suggested[shown]], axis=1)
            values = np.stack([np.take_along_axis(labels.block(epoch)[rows], classes, axis=1) for epoch in epochs.tolist()], axis=2)
            levels = np.array(list(LEVELS))[np.nan_to_num(values * (len(LEVELS) - 1)).round().astype(int)]
            lines = ["".join(line) if row >= 0 else "" for line, row in zip(levels.reshape(len(rows), -1), rows, strict=True)]
            return [epoch + 1 for epoch in epochs.tolist()], lines
    return [], []


def _sheets(images: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64]) -> tuple[int, list[str]]:
    """Return the side of a cell and sheets of small images as JPEG in base64, :data:`COLUMNS` cells in a row, in the order of ``rows``."""
    side = min(SIDE, max(images.shape[2:]))
    # JPEG works on squares of eight pixels, so that no image shows at the edge of the next.
    cell, sheets = -(-side // 8) * 8, []
    for start in range(0, len(rows), SHEET):
        part = rows[start : start + SHEET]
        sheet = Image.new("L" if images.shape[1] == 1 else "RGB", (COLUMNS * cell, -(-len(part) // COLUMNS) * cell))
        for place, row in enumerate(part.tolist()):
            image = Image.fromarray(images[row].transpose(1, 2, 0).squeeze())
            image.thumbnail((side, side))
            sheet.paste(image, (place % COLUMNS * cell, place // COLUMNS * cell))
        content = io.BytesIO()
        sheet.save(content, "jpeg", quality=80, subsampling=0)
        sheets.append(base64.b64encode(content.getvalue()).decode("ascii"))
    return cell, sheets
