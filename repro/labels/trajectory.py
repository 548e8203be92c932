"""Reads the label trajectory of a run (``labels/``, docs/run-folder.md), with numpy alone; :mod:`repro.labels.recorder` records it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from repro.errors import UserError
from repro.runs.manifest import check, read_bytes, read_json

#: Raised when the layout of recorded labels changes; in 1, images were counted within the run's part of the dataset.
SCHEMA = 2


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

    def block(self, epoch: int) -> npt.NDArray[np.float32]:
        """Read one epoch, from 0: distributions (N, K), or class parameters (steps, K)."""
        size = self.rows * self.num_classes
        # Not a memory map: the pages of a map count as this process's memory until the system takes them back.
        flat = np.fromfile(self.path, dtype=self.dtype, count=size, offset=epoch * size * self.dtype.itemsize)
        return flat.reshape(self.rows, self.num_classes).astype(np.float32)

    def rows_of(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return which of ``indices`` each of ``positions`` (M,) is; -1 for an image that the run did not train on."""
        order = np.argsort(self.indices, kind="stable")
        places = np.searchsorted(self.indices, positions, sorter=order)
        found = order[np.minimum(places, len(order) - 1)]
        return np.where(self.indices[found] == positions, found, -1)


def open_trajectory(folder: Path) -> Trajectory:
    """Return the trajectory in ``folder``, the ``labels`` of a finished run; all of it is read once, to check it.

    Raises:
        UserError: there is none, or a file is not what the run wrote.
    """
    run, name = folder.parent, folder.name
    layout = read_json(run, f"{name}/layout.json")
    if layout["schema"] != SCHEMA:
        raise UserError(f"{folder} was recorded by a version of the code that counted images otherwise. Train the run again.")
    path, dtype = folder / str(layout["file"]), np.dtype(layout["dtype"])
    check(run, f"{name}/{path.name}")
    indices = np.frombuffer(read_bytes(run, f"{name}/{layout['indices']}"), dtype="<i8").astype(np.int64)
    planned, rows, num_classes = layout["shape"]
    epochs = path.stat().st_size // (rows * num_classes * dtype.itemsize)
    return Trajectory(layout["kind"], epochs, planned, rows, num_classes, layout["when"], indices, path, dtype)
