"""Reads the label trajectory of a run (``labels/``, docs/run-folder.md), with numpy alone; :mod:`repro.labels.recorder` records it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from repro.errors import UserError
from repro.runs.manifest import check, read_bytes

#: The layout of ``labels/layout.json``.
SCHEMA = 1


@dataclass(frozen=True)
class Trajectory:
    """A recorded trajectory on the disk. Nothing is read before it is asked for, and never more than an epoch at a time.

    Attributes:
        kind: ``instance`` or ``class``.
        epochs: whole epochs that were recorded.
        planned: epochs that the run was to have; more than ``epochs`` where it ended early.
        rows: N for instance labels, steps of an epoch for class labels.
        num_classes: K.
        when: whether labels were noted ``before`` or ``after`` the update of their visit (C3).
        indices: positions (N,) of the training instances in the published training set.
    """

    kind: str
    epochs: int
    planned: int
    rows: int
    num_classes: int
    when: str
    indices: npt.NDArray[np.int64]
    path: Path
    dtype: np.dtype[np.floating[Any]]
    layout: dict[str, Any]

    def block(self, epoch: int) -> npt.NDArray[np.float32]:
        """Read one epoch, from 0: distributions (N, K), or class parameters (steps, K).

        Raises:
            UserError: the file cannot be read, or was cut after it was opened.
        """
        assert 0 <= epoch < self.epochs
        size = self.rows * self.num_classes
        # Not a memory map: the pages of a map count as this process's memory until the system takes them back.
        try:
            flat = np.fromfile(self.path, dtype=self.dtype, count=size, offset=epoch * size * self.dtype.itemsize)
        except OSError as error:
            raise UserError(f"{self.path} cannot be read: {error.strerror or error}.") from error
        if len(flat) < size:
            raise UserError(f"{self.path} is cut short: epoch {epoch + 1} is not whole. Put it back from a copy, or train the run again.")
        return flat.reshape(self.rows, self.num_classes).astype(np.float32)

    def rows_of(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return which of ``indices`` each of ``positions`` (M,) is; -1 for an image that the run did not train on."""
        order = np.argsort(self.indices, kind="stable")
        places = np.searchsorted(self.indices, positions, sorter=order)
        found = order[np.minimum(places, len(order) - 1)]
        return np.where(self.indices[found] == positions, found, -1)


def open_trajectory(folder: Path, *, unfinished: bool = False) -> Trajectory:
    """Return the trajectory in ``folder``, the ``labels`` of a run; of an unfinished one the epochs so far, which nothing can check yet.

    All of a finished one is read once, to check it.

    Raises:
        UserError: there is none, it is of another layout, or a file is not what the run wrote.
    """

    def read(name: str) -> bytes:
        return (folder / name).read_bytes() if unfinished else read_bytes(folder.parent, f"{folder.name}/{name}")

    try:
        layout = json.loads(read("layout.json"))
        if layout["schema"] != SCHEMA:
            path = folder / "layout.json"
            raise UserError(f"{path} has layout {layout['schema']}, this code reads {SCHEMA}. Use the code that the run was made with.")
        path, indices = folder / str(layout["file"]), np.frombuffer(read(str(layout["indices"])), dtype="<i8").astype(np.int64)
        if not unfinished:
            check(folder.parent, f"{folder.name}/{path.name}")
        return trajectory_of(layout, indices, path, size=path.stat().st_size)
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise UserError(f"{folder} holds no readable label trajectory ({error}). Move the run folder away and run it again.") from error


def trajectory_of(layout: dict[str, Any], indices: npt.NDArray[np.int64], path: Path, *, size: int) -> Trajectory:
    """Return the trajectory whose blocks are the ``size`` bytes of ``path``.

    Raises:
        UserError: the kind of labels is not known, or ``indices`` are not as many as ``layout`` says.
        ValueError, KeyError, TypeError, ZeroDivisionError: ``layout`` is not that of a trajectory.
    """
    planned, rows, num_classes = map(int, layout["shape"])
    kind, dtype = str(layout["kind"]), np.dtype(layout["dtype"])
    epochs = min(planned, size // (rows * num_classes * dtype.itemsize))
    images = rows if kind == "instance" else layout["num_instances"]
    if kind not in ("instance", "class"):
        raise UserError(f"{path.parent / 'layout.json'}: the kind of the labels is '{kind}', allowed are instance and class.")
    if len(indices) != images:
        raise UserError(
            f"{path.parent / layout['indices']}: it names {len(indices)} images, layout.json says {images}. "
            "Move the run folder away and run it again."
        )
    return Trajectory(kind, epochs, planned, rows, num_classes, str(layout["when"]), indices, path, dtype, layout)
