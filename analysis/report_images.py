"""What the dataset of a run adds to its labels: images as data URIs, names of classes, and what an image was annotated as."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from analysis.images import TrainingSet, annotated_classes, name_of
from analysis.report_trajectories import Labels
from analysis.runs import Run
from repro.errors import UserError

#: What returns the training set that a run was cut out of, or ``None`` where it is not on this machine: ``TrainingSets().of``.
TrainingSetOf = Callable[[Run], TrainingSet | None]

_PNG = b"\x89PNG\r\n\x1a\n"
_GRAY, _RGB = 0, 2


@dataclass(frozen=True)
class Pictures:
    """What is known of the selected labels of a run beside the labels; empty where the dataset is not on this machine.

    Attributes:
        class_names: of all K classes.
        uris: position in the training set -> its image as a ``data:`` URI.
        annotated: position -> the class that it was annotated as, label noise included.
        true: position -> its true class.
        examples: class -> position of the run's first training image of it.
    """

    class_names: tuple[str, ...] = ()
    uris: Mapping[int, str] = field(default_factory=dict)
    annotated: Mapping[int, int] = field(default_factory=dict)
    true: Mapping[int, int] = field(default_factory=dict)
    examples: Mapping[int, int] = field(default_factory=dict)


def pictures(run: Run, labels: Labels, training_set_of: TrainingSetOf | None) -> Pictures:
    """Return what the dataset of ``run`` adds to the selected ``labels``.

    Raises:
        UserError: the dataset or the noisy labels are others than the run's; an image has no shape that can be shown.
    """
    found = None if training_set_of is None else training_set_of(run)
    if found is None:
        return Pictures()
    names = tuple(name_of(found, number) for number in range(labels.num_classes))
    if labels.kind == "class":
        classes, first = np.unique(found.labels[labels.trained_on], return_index=True)
        of_class = {int(number): int(labels.trained_on[row]) for number, row in zip(classes, first, strict=True)}
        examples = {number: of_class[number] for number in labels.positions if number in of_class}
        return Pictures(names, uris=_uris(found, examples.values()), examples=examples)
    observed = dict(zip(labels.trained_on.tolist(), annotated_classes(run, found, labels.trained_on).tolist(), strict=True))
    return Pictures(
        names,
        uris=_uris(found, labels.positions),
        annotated={position: observed[position] for position in labels.positions},
        true={position: int(found.labels[position]) for position in labels.positions},
    )


def _uris(found: TrainingSet, positions: Iterable[int]) -> dict[int, str]:
    return {position: data_uri(png(found.image(position)), "image/png") for position in positions}


def data_uri(content: bytes, kind: str) -> str:
    """Return ``content`` as a ``data:`` URI of that media type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def png(image: npt.NDArray[np.uint8]) -> bytes:
    """Return an image (H, W) or (H, W, 3) of uint8 as PNG: 8 bits a channel, no date and no program in it.

    Raises:
        UserError: it has another shape or type.
    """
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3) or 0 in image.shape:
        raise UserError(f"an image has shape {image.shape} and type {image.dtype}; allowed are uint8 (H, W) and (H, W, 3).")
    height, width = image.shape[:2]
    # Each row begins with the number of its filter; 0 is none.
    rows = np.concatenate([np.zeros((height, 1), np.uint8), image.reshape(height, -1)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, _GRAY if image.ndim == 2 else _RGB, 0, 0, 0)
    return _PNG + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)) + _chunk(b"IEND", b"")


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
