"""Reads a bounded selection of one run's recorded labels: all classes, or a few training instances.

Which instances is a rule, so the same run gives the same ones: see :func:`rule`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from repro.errors import UserError
from repro.manifest import open_manifest

Floats = npt.NDArray[np.float32]

#: The layout of labels/layout.json that this code reads.
LAYOUT_SCHEMA = 1

#: Instances of a group at most.
PER_GROUP = 12

#: Classes of an instance that are shown one by one; the others are shown as one sum.
TOP_CLASSES = 6

#: Classes at most, for class labels.
CLASSES = 100

_SEED = 0


@dataclass(frozen=True)
class Labels:
    """The selected labels of one run.

    Attributes:
        kind: ``instance`` or ``class``.
        num_classes: K.
        when: whether a label was noted ``before`` or ``after`` the update of its visit.
        planned: epochs that the run was to have; more than :attr:`epochs` where it ended early.
        trained_on: (N,) of all its training instances in the published training set.
        positions: (n,) of the selected instances in the published training set; for class labels the classes.
        classes: (n, C) the classes that ``values`` is of, most probable first; empty for class labels.
        values: (n, epochs, C) probabilities; for class labels (n, epochs, 1), that of the class itself.
        groups: name -> indices into the selected, in the order in which they are shown.
    """

    kind: str
    num_classes: int
    when: str
    planned: int
    trained_on: npt.NDArray[np.int64]
    positions: tuple[int, ...]
    classes: tuple[tuple[int, ...], ...]
    values: Floats
    groups: Mapping[str, tuple[int, ...]]

    @property
    def epochs(self) -> int:
        """Epochs that were recorded."""
        return int(self.values.shape[1])


def rule() -> str:
    """Return in words which labels of a run are selected."""
    return (
        f"Class labels: all classes, at most the first {CLASSES}, after the last step of each epoch. Instance labels, at their visit in "
        f"each epoch: the {PER_GROUP} that moved most (half the sum of absolute differences between the first and the last recorded label; "
        f"of equal ones the first), {PER_GROUP} drawn with seed {_SEED}, and of those whose most probable class is another one in the end "
        f"{PER_GROUP} drawn with seed {_SEED}. Of an instance, the {TOP_CLASSES} classes with the highest probability in any epoch; the "
        "others are summed."
    )


def has_labels(folder: Path) -> bool:
    """Whether a run folder has recorded labels."""
    return (folder / "labels" / "layout.json").is_file()


def read_labels(folder: Path) -> Labels:
    """Return the selected labels of the run in ``folder``, reading an epoch at a time.

    Raises:
        UserError: its files are not what the run wrote, or do not fit together.
    """
    path, manifest = folder / "labels" / "layout.json", open_manifest(folder)
    try:
        layout = manifest.read_json("labels/layout.json")
        if layout["schema"] != LAYOUT_SCHEMA:
            raise UserError(f"{path} has layout {layout['schema']}, this code reads {LAYOUT_SCHEMA}.")
        kind, when = str(layout["kind"]), str(layout["when"])
        planned, rows, num_classes = (int(size) for size in layout["shape"])
        dtype = np.dtype(layout["dtype"])
        trained_on = np.frombuffer(manifest.read_bytes(f"labels/{layout['indices']}"), dtype="<i8").astype(np.int64)
        name = f"labels/{layout['file']}"
        epochs = min(planned, manifest.size(name) // (rows * num_classes * dtype.itemsize))
        if kind not in ("class", "instance") or len(trained_on) != (rows if kind == "instance" else layout["num_instances"]):
            raise ValueError("its parts do not fit together")
        if not epochs:
            raise ValueError("no whole epoch was recorded")
    except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise UserError(f"{path}: the recorded labels cannot be read ({error}).") from error

    def stored(epoch: int) -> Floats:
        size = rows * num_classes
        flat = np.fromfile(folder / name, dtype=dtype, count=size, offset=epoch * size * dtype.itemsize)
        manifest.check_block(name, epoch, flat)
        return flat.reshape(rows, num_classes).astype(np.float32)

    chosen = _class_labels(stored, epochs) if kind == "class" else _instance_labels(stored, epochs, trained_on)
    return Labels(kind, num_classes, when, planned, trained_on, *chosen)


#: Returns the block (rows, K) of an epoch, counted from 0.
_Stored = Callable[[int], Floats]

_Chosen = tuple[tuple[int, ...], tuple[tuple[int, ...], ...], Floats, Mapping[str, tuple[int, ...]]]


def _class_labels(stored: _Stored, epochs: int) -> _Chosen:
    alpha = np.stack([stored(epoch)[-1, :CLASSES] for epoch in range(epochs)])
    count = alpha.shape[1]
    every = tuple(range(count))
    return every, (), (1.0 - alpha.T)[:, :, None], {"Classes": every}


def _instance_labels(stored: _Stored, epochs: int, positions: npt.NDArray[np.int64]) -> _Chosen:
    first, last = stored(0), stored(epochs - 1)
    # The label of a run that diverged is NaN; it did not move, so far as one can tell.
    moved = np.nan_to_num(np.abs(last - first).sum(axis=1) / 2)
    most = np.argsort(-moved, kind="stable")[:PER_GROUP]
    changed = np.flatnonzero(first.argmax(axis=1) != last.argmax(axis=1))
    named = {
        "Moved most": most,
        f"Drawn with seed {_SEED}": _draw(np.arange(len(moved))),
        "Most probable class changed": _draw(changed),
    }
    rows = list(dict.fromkeys(int(row) for group in named.values() for row in group))
    whole = np.stack([stored(epoch)[rows] for epoch in range(epochs)], axis=1)
    highest = np.nan_to_num(whole, nan=-1.0).max(axis=1)
    classes = np.argsort(-highest, axis=1, kind="stable")[:, :TOP_CLASSES]
    values = np.take_along_axis(whole, classes[:, None, :], axis=2)
    place = {row: index for index, row in enumerate(rows)}
    groups = {name: tuple(place[int(row)] for row in group) for name, group in named.items() if len(group)}
    return tuple(int(positions[row]) for row in rows), tuple(tuple(map(int, line)) for line in classes), values, groups


def _draw(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    # The stream of RandomState is frozen: another release of NumPy draws the same.
    return np.random.RandomState(_SEED).permutation(rows)[:PER_GROUP]


def thinned(count: int, at_most: int | None) -> list[int]:
    """Return at most so many of ``range(count)``, evenly spaced, with the first and the last."""
    if at_most is None or count <= at_most:
        return list(range(count))
    return [int(index) for index in np.linspace(0, count - 1, at_most).round()]


def within(groups: Mapping[str, Sequence[int]], per_group: int) -> dict[str, list[int]]:
    """Return the first ``per_group`` indices of each group."""
    return {name: list(group[:per_group]) for name, group in groups.items()}
