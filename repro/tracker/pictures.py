"""What W&B shows of the labels beside numbers: a heat map of all classes over the epochs, drawn from the rows of ``metrics.jsonl``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from repro.files import number

#: Pixels that a heat map is at least high and wide, as far as whole pixels a cell allow.
_HEIGHT, _WIDTH = 320, 640

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
        shares[:, int(row["epoch"])] = [number(row.get(name, math.nan)) for name in names]
    # Imported when it is needed: it takes as long as an epoch of a small run.
    import matplotlib

    # Grey: an epoch still to come.
    colours = matplotlib.colormaps["viridis"].with_extremes(bad="grey")
    drawn: npt.NDArray[np.uint8] = np.asarray(colours(shares, bytes=True))[..., :3]
    return drawn.repeat(max(1, _HEIGHT // len(names)), axis=0).repeat(max(1, _WIDTH // (epochs + 1)), axis=1)
