"""The instance labels of a run as a figure shows them: of all its images from a run folder, of those that are drawn from evidence."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from analysis.reading.cells import Repeat
from analysis.reading.images import Classes, TrainingSets, annotated_classes

Labels = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Learned:
    """The instance labels of N images of a done run.

    Attributes:
        positions: of the images in the published training set (N,).
        first, last: labels (N, K) at the first and the last visit.
        annotated: classes (N,); where the dataset is not known, the most probable ones at the first visit, which may differ (B1).
        true: classes (N,); ``None`` where the dataset is not known.
        image: returns an image by its position, ``None`` where it is not known.
        diverged: whether the run ended early, or its labels are not all finite; then they say nothing.
        when: whether labels were noted ``before`` or ``after`` the update of their visit (C3).
        epochs: how many were recorded.
        counts: of all its images: ``trained_on``; ``wrong``, those annotated wrongly; ``corrected``, those of them whose right class alone
            is the most probable one in the end; from evidence also ``common``, those that all runs of the cell trained on.
    """

    repeat: Repeat
    positions: Classes
    first: Labels
    last: Labels
    annotated: Classes
    true: Classes | None
    image: Callable[[int], Pixels | None]
    diverged: bool
    when: str
    epochs: int
    counts: dict[str, int]

    @property
    def candidates(self) -> list[int]:
        """Positions of the images that count as corrected."""
        found: list[int] = self.positions[_corrected(self.last, self.annotated, self.true)].tolist()
        return found

    def rows_of(self, positions: Iterable[int]) -> list[int]:
        """Return which of the images each of ``positions`` is; -1 for one that the run did not train on."""
        rows = {position: row for row, position in enumerate(self.positions.tolist())}
        return [rows.get(position, -1) for position in positions]

    def excerpt(self, positions: Sequence[int], *, common: int) -> dict[str, Any]:
        """Return as JSON what a figure needs that draws ``positions``; :func:`read_learned` reads it."""
        rows = [row for row in self.rows_of(positions) if row >= 0]
        here = self.positions[rows].tolist()
        return {
            "positions": here,
            "first": _text(self.first[rows]),
            "last": _text(self.last[rows]),
            "annotated": self.annotated[rows].tolist(),
            "true": None if self.true is None else self.true[rows].tolist(),
            "images": [None if (image := self.image(position)) is None else _ascii(png(image)) for position in here],
            **{name: getattr(self, name) for name in ("diverged", "when", "epochs")},
            "counts": self.counts | {"common": common},
        }


def read_learned(repeat: Repeat, panel: str, sets: TrainingSets) -> Learned | None:
    """Return the instance labels of a done run; ``None`` where it recorded none, or evidence holds none for the panel of that label.

    Raises:
        UserError: recorded labels are damaged, or the dataset is another than the run's.
    """
    run = repeat.run
    kept = run.excerpts.get(panel)
    if kept is not None:
        true = None if kept["true"] is None else np.array(kept["true"], dtype=np.int64)
        images = dict(zip(kept["positions"], kept["images"], strict=True))
        return Learned(
            repeat,
            np.array(kept["positions"], dtype=np.int64),
            _labels(kept["first"], len(images)),
            _labels(kept["last"], len(images)),
            np.array(kept["annotated"], dtype=np.int64),
            true,
            lambda position: _pixels(images.get(position)),
            **{name: kept[name] for name in ("diverged", "when", "epochs", "counts")},
        )
    labels = run.labels()
    if labels is None or labels.kind != "instance":
        return None
    nothing = np.full((labels.rows, labels.num_classes), math.nan, dtype=np.float32)
    first, last = (labels.block(0), labels.block(labels.epochs - 1)) if labels.epochs else (nothing, nothing)
    loss = run.final.get("train/loss", {}).get("last", 0.0)
    found = sets.of(run)
    annotated = np.argmax(first, axis=1) if found is None else annotated_classes(run, found, labels.indices)
    truth = None if found is None else found.labels[labels.indices]
    counts = {
        "trained_on": len(labels.indices),
        "wrong": 0 if truth is None else int((annotated != truth).sum()),
        "corrected": int(_corrected(last, annotated, truth).sum()),
    }
    return Learned(
        repeat,
        labels.indices,
        first,
        last,
        annotated,
        truth,
        lambda position: found.image(position) if found is not None and position < len(found.labels) else None,
        diverged=labels.epochs < labels.planned or not math.isfinite(loss) or not bool(np.isfinite(last).all()),
        when=labels.when,
        epochs=labels.epochs,
        counts=counts,
    )


def is_right(labels: Labels, true: Classes) -> npt.NDArray[np.bool_]:
    """Return whether the true class (N,) alone is the most probable one of each label (N, K)."""
    right: npt.NDArray[np.bool_] = (labels >= np.take_along_axis(labels, true[:, None], axis=1)).sum(axis=1) == 1
    return right


def _corrected(last: Labels, annotated: Classes, true: Classes | None) -> npt.NDArray[np.bool_]:
    return np.zeros(len(last), dtype=bool) if true is None else (annotated != true) & is_right(last, true)


def _pixels(kept: str | None) -> Pixels | None:
    return None if kept is None else np.asarray(Image.open(io.BytesIO(base64.b64decode(kept))))


def png(image: Pixels) -> bytes:
    """Return an image (H, W) or (H, W, 3) of uint8 as PNG."""
    content = io.BytesIO()
    Image.fromarray(image).save(content, "png", optimize=True)
    return content.getvalue()


def _ascii(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _text(labels: Labels) -> str:
    return _ascii(labels.astype("<f4").tobytes())


def _labels(text: str, count: int) -> Labels:
    return np.frombuffer(base64.b64decode(text), dtype="<f4").reshape(count, -1) if count else np.zeros((0, 0), dtype=np.float32)
