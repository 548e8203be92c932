"""Label trajectories: what the labels of a run were, over its training.

``instances.f16`` holds float16 of shape (epochs, N, K): the target of each training instance at its visit in each epoch (every
instance is visited exactly once an epoch, so this is well defined in every run); ``trajectory.dtype=float32`` makes it
``instances.f32`` (C8). ``classes.f32`` holds float32 of shape (steps, K): the per-class parameters after each step. ``layout.json``
says which of them there is, its shape, and which published training image each row is. One epoch is one block at a fixed place, so
a resumed run writes the same bytes to the same place, and a reader reads a block at a time. Averaging: :mod:`repro.averaging`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from repro.errors import UserError
from repro.files import read_json, write_bytes, write_json
from repro.methods.base import Method

#: (kind, type of the numbers) -> file and its type.
FILES: dict[tuple[str, str], tuple[str, np.dtype[np.floating[Any]]]] = {
    ("instance", "float16"): ("instances.f16", np.dtype("<f2")),
    ("instance", "float32"): ("instances.f32", np.dtype("<f4")),
    ("class", "float32"): ("classes.f32", np.dtype("<f4")),
}
SCHEMA = 1


@dataclass(frozen=True)
class Layout:
    """Shape of a trajectory: ``rows`` is N for instance labels, steps an epoch for class labels, whose numbers are always float32."""

    kind: str
    epochs: int
    rows: int
    num_classes: int
    precision: str = "float16"

    @property
    def _file(self) -> tuple[str, np.dtype[np.floating[Any]]]:
        return FILES[self.kind, "float32" if self.kind == "class" else self.precision]

    @property
    def file_name(self) -> str:
        """Name of the file in the run's ``labels`` folder."""
        return self._file[0]

    @property
    def dtype(self) -> np.dtype[np.floating[Any]]:
        """Type of the stored numbers, little-endian."""
        return self._file[1]

    @property
    def block_bytes(self) -> int:
        """Bytes of one epoch."""
        return self.rows * self.num_classes * self.dtype.itemsize


class Recorder:
    """Records the labels of one run, a block an epoch. The open block lives on the device and in the checkpoint."""

    def __init__(self, folder: Path, layout: Layout, method: Method, *, when: str) -> None:
        self._folder = folder
        self._layout = layout
        self._method = method
        self._when = when
        dtype = torch.float16 if layout.dtype.itemsize == 2 else torch.float32
        self._block = torch.zeros((layout.rows, layout.num_classes), dtype=dtype, device=method.context.device)

    def before_step(self, rows: Tensor, step: int) -> None:
        """Note the labels of the batch's ``rows`` before the update, if that is what is recorded (C3)."""
        if self._when == "before":
            self._note(rows, step)

    def after_step(self, rows: Tensor, step: int) -> None:
        """Note the labels of the batch's ``rows`` after the update, which Eq. 6 trains on; ``step`` counts within the epoch."""
        if self._when == "after":
            self._note(rows, step)

    def _note(self, rows: Tensor, step: int) -> None:
        if self._layout.kind == "instance":
            self._block[rows] = self._method.targets(rows).to(self._block.dtype)
        else:
            self._block[step] = self._method.class_parameters().to(self._block.dtype)

    def begin(self, train_indices: npt.NDArray[np.int64], *, completed_epochs: int) -> None:
        """Open the trajectory of a run that has completed so many epochs; what was written after them is cut off.

        Raises:
            UserError: a resumed run's file is shorter than what its checkpoint says was written.
        """
        self._folder.mkdir(exist_ok=True)
        layout = self._layout
        write_bytes(self._folder / "indices.i64", train_indices.astype("<i8").tobytes())
        write_json(
            self._folder / "layout.json",
            {"schema": SCHEMA, "kind": layout.kind, "file": layout.file_name, "dtype": layout.dtype.str, "when": self._when}
            | {"shape": [layout.epochs, layout.rows, layout.num_classes], "indices": "indices.i64", "num_instances": len(train_indices)},
        )
        path = self._path()
        path.touch()
        expected = completed_epochs * layout.block_bytes
        if path.stat().st_size < expected:
            raise UserError(
                f"{path} has {path.stat().st_size} bytes, but {completed_epochs} completed epochs are {expected}: it was cut or replaced. "
                "Delete the run folder to train the run anew."
            )
        os.truncate(path, expected)

    def end_epoch(self, completed_epochs: int) -> None:
        """Write the block of the epoch that makes ``completed_epochs`` complete, and force it to the disk."""
        with self._path().open("r+b") as file:
            file.seek((completed_epochs - 1) * self._layout.block_bytes)
            file.write(self._block.cpu().numpy().astype(self._layout.dtype, copy=False).tobytes())
            file.flush()
            os.fsync(file.fileno())

    def _path(self) -> Path:
        return self._folder / self._layout.file_name

    def state_dict(self) -> dict[str, Tensor]:
        """Return the open block."""
        return {"block": self._block}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over the open block."""
        self._block.copy_(state["block"])


@dataclass(frozen=True)
class Trajectory:
    """A recorded trajectory on the disk. Nothing is read before it is asked for, and never more than an epoch at a time.

    Attributes:
        kind: ``instance`` or ``class``.
        epochs: whole epochs that were recorded.
        rows: N for instance labels, steps of an epoch for class labels.
        num_classes: K.
        when: whether labels were noted ``before`` or ``after`` the update of their visit (C3).
        indices: positions (N,) of the training instances in the published training set.
        path: the file of blocks.
        dtype: type of its numbers.
    """

    kind: str
    epochs: int
    rows: int
    num_classes: int
    when: str
    indices: npt.NDArray[np.int64]
    path: Path
    dtype: np.dtype[np.floating[Any]]

    def block(self, epoch: int) -> npt.NDArray[np.float32]:
        """Read one epoch, from 0: distributions (N, K), or class parameters (steps, K)."""
        assert 0 <= epoch < self.epochs
        size = self.rows * self.num_classes
        # Not a memory map: the pages of a map count as this process's memory until the system takes them back.
        flat = np.fromfile(self.path, dtype=self.dtype, count=size, offset=epoch * size * self.dtype.itemsize)
        return flat.reshape(self.rows, self.num_classes).astype(np.float32)


def open_trajectory(folder: Path) -> Trajectory:
    """Return the trajectory in ``folder`` (a run's ``labels``), up to its last whole epoch.

    Raises:
        UserError: there is none, or its files do not fit together.
    """
    try:
        layout = read_json(folder / "layout.json")
        _, rows, num_classes = layout["shape"]
        dtype = np.dtype(layout["dtype"])
        path = folder / layout["file"]
        whole = path.stat().st_size // (rows * num_classes * dtype.itemsize)
        indices = np.fromfile(folder / layout["indices"], dtype="<i8").astype(np.int64)
        kind, when = str(layout["kind"]), str(layout["when"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder} holds no readable label trajectory: {error}") from error
    if len(indices) != layout["num_instances"]:
        raise UserError(f"{folder / layout['indices']} names {len(indices)} instances, layout.json says {layout['num_instances']}.")
    return Trajectory(kind, whole, rows, num_classes, when, indices, path, dtype)
