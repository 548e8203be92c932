"""What W&B shows of the labels beside numbers: a heat map of all classes over the epochs, and histograms.

Everything is made from the files of the run folder, so it can be made again at any time. A histogram holds counts; the labels of
single images never leave the folder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from repro.files import number
from repro.labels import open_trajectory
from repro.rundir import read_state

#: Bins of a histogram; W&B shows at most 64.
BINS = 64

#: Pixels that a heat map is at least high and wide, as far as whole pixels a cell allow.
_HEIGHT, _WIDTH = 320, 640

#: Colours of 0, 1/4, 1/2, 3/4 and 1, dark to light, in order of brightness also when printed grey; grey: an epoch still to come.
_COLOURS = np.array([(52, 8, 82), (58, 76, 138), (31, 142, 140), (108, 203, 88), (251, 232, 40)], dtype=np.float64)
_GREY = (128, 128, 128)

_CLASS_SERIES = "class_target_probability/"


def heatmap(rows: Sequence[dict[str, Any]], *, epochs: int) -> npt.NDArray[np.uint8] | None:
    """Draw ``class_target_probability`` of all classes, the first on top, over epochs 0 to ``epochs``, left to right.

    Returns:
        Colours (height, width, 3), or ``None`` when no row has the series of the classes.
    """
    names = sorted({name for row in rows for name in row if name.startswith(_CLASS_SERIES)})
    if not names:
        return None
    shares = np.full((len(names), epochs + 1), np.nan)
    for row in rows:
        for index, name in enumerate(names):
            shares[index, int(row["epoch"])] = number(row.get(name, math.nan))
    known = np.nan_to_num(shares).clip(0.0, 1.0) * (len(_COLOURS) - 1)
    below = np.minimum(known.astype(int), len(_COLOURS) - 2)
    part = (known - below)[..., None]
    colours = (_COLOURS[below] * (1 - part) + _COLOURS[below + 1] * part).round().astype(np.uint8)
    colours[np.isnan(shares)] = _GREY
    drawn: npt.NDArray[np.uint8] = colours.repeat(max(1, _HEIGHT // len(names)), axis=0).repeat(max(1, _WIDTH // (epochs + 1)), axis=1)
    return drawn


def histograms(folder: Path, epoch: int) -> dict[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]]:
    """Return the histograms (counts, edges of the bins) after ``epoch`` epochs; nothing where no trajectory has been recorded.

    Raises:
        UserError: the recorded labels are damaged.
    """
    if not (folder / "labels" / "layout.json").exists():
        return {}
    trajectory = open_trajectory(folder / "labels", unfinished=read_state(folder) not in ("done", "damaged"))
    if not 0 < epoch <= trajectory.epochs:
        return {}
    block = trajectory.block(epoch - 1)
    if trajectory.kind == "class":
        values, name, highest = block[-1], "label/class_parameter_histogram", max(1.0, float(np.nanmax(block[-1], initial=0.0)))
    else:
        terms = np.where(block > 0.0, -block * np.log(block, where=block > 0.0, out=np.zeros_like(block)), 0.0)
        # Rounding to float16 can lift the entropy of a uniform label above its limit by a trifle.
        values, name, highest = terms.sum(axis=1), "label/entropy_histogram", 1.001 * math.log(trajectory.num_classes)
    counts, edges = np.histogram(values[np.isfinite(values)], bins=BINS, range=(0.0, highest))
    return {name: (counts, edges)}
