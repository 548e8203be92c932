"""Label trajectories: what the labels of a run were, over its training.

``instances.f16`` holds float16 of shape (epochs, N, K): the target of each training instance at its visit in each epoch (every
instance is visited exactly once an epoch, so this is well defined in every run); ``trajectory.dtype=float32`` makes it
``instances.f32`` (C8). ``classes.f32`` holds float32 of shape (steps, K): the per-class parameters after each step. ``layout.json``
says which of them there is, its shape, and which published training image each row is. One epoch is one block at a fixed place, so
a resumed run writes the same bytes to the same place, and a reader reads a block at a time. Averaging: :mod:`repro.averaging`.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from repro.errors import UserError
from repro.files import json_text, read_json, write_bytes
from repro.manifest import Entry, Manifest, entry_of, open_manifest
from repro.methods.base import Method

#: (kind, type of the numbers) -> file and its type.
FILES: dict[tuple[str, str], tuple[str, np.dtype[np.floating[Any]]]] = {
    ("instance", "float16"): ("instances.f16", np.dtype("<f2")),
    ("instance", "float32"): ("instances.f32", np.dtype("<f4")),
    ("class", "float32"): ("classes.f32", np.dtype("<f4")),
}
SCHEMA = 1

#: From so many bytes on, a block is checked while it is converted: both take about as long, and Python lets them run at once.
_LARGE = 2**20


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
        self._digests: list[str] = []
        self._entries: dict[str, Entry] = {}
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
            UserError: an epoch that a resumed run has written is not there as it was written: labels cannot be made anew from a checkpoint.
        """
        self._folder.mkdir(exist_ok=True)
        for name, content in self._small_files(train_indices).items():
            write_bytes(self._folder / name, content)
            self._entries[f"labels/{name}"] = entry_of(content)
        path, layout = self._path(), self._layout
        path.touch()
        with path.open("r+b") as file:
            for epoch in range(completed_epochs):
                if hashlib.sha256(file.read(layout.block_bytes)).hexdigest() != self._digests[epoch]:
                    raise UserError(
                        f"{path}: epoch {epoch + 1} of the {completed_epochs} that the checkpoint knows is not what the run wrote: the "
                        "file was cut, damaged or replaced. Move the run folder away to train the run anew."
                    )
            file.truncate(completed_epochs * layout.block_bytes)
        del self._digests[completed_epochs:]

    def _small_files(self, train_indices: npt.NDArray[np.int64]) -> dict[str, bytes]:
        layout = self._layout
        described = {"schema": SCHEMA, "kind": layout.kind, "file": layout.file_name, "dtype": layout.dtype.str, "when": self._when}
        shape = [layout.epochs, layout.rows, layout.num_classes]
        described |= {"shape": shape, "indices": "indices.i64", "num_instances": len(train_indices)}
        return {"indices.i64": train_indices.astype("<i8").tobytes(), "layout.json": json_text(described).encode()}

    def end_epoch(self, completed_epochs: int) -> None:
        """Write the block of the epoch that makes ``completed_epochs`` complete, and force it to the disk."""
        content = self._block.cpu().numpy().astype(self._layout.dtype, copy=False).tobytes()
        self._digests = [*self._digests[: completed_epochs - 1], hashlib.sha256(content).hexdigest()]
        with self._path().open("r+b") as file:
            file.seek((completed_epochs - 1) * self._layout.block_bytes)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def _path(self) -> Path:
        return self._folder / self._layout.file_name

    def entries(self) -> dict[str, Entry]:
        """Return what the manifest says of the files: path in the run folder -> entry."""
        size, digests = self._layout.block_bytes, tuple(self._digests)
        return {**self._entries, f"labels/{self._layout.file_name}": Entry(size * len(digests), block_bytes=size, blocks=digests)}

    def state_dict(self) -> dict[str, Any]:
        """Return the open block, and the sha256 of those that were written."""
        return {"block": self._block, "digests": list(self._digests)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the open block, and what is known of those that were written."""
        self._block.copy_(state["block"])
        self._digests = list(state["digests"])


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
        manifest: of the run; what is read is checked against it. An unfinished run has none.
    """

    kind: str
    epochs: int
    rows: int
    num_classes: int
    when: str
    indices: npt.NDArray[np.int64]
    path: Path
    dtype: np.dtype[np.floating[Any]]
    manifest: Manifest | None

    def block(self, epoch: int) -> npt.NDArray[np.float32]:
        """Read one epoch, from 0: distributions (N, K), or class parameters (steps, K).

        Raises:
            DamagedError: the epoch is not what the run wrote.
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
        if self.manifest is None:
            return self._as_block(flat)
        name = f"labels/{self.path.name}"
        if flat.nbytes < _LARGE:
            self.manifest.check_block(name, epoch, flat)
            return self._as_block(flat)
        with ThreadPoolExecutor(1) as other:
            checked = other.submit(self.manifest.check_block, name, epoch, flat)
            block = self._as_block(flat)
            checked.result()
        return block

    def _as_block(self, flat: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
        return flat.reshape(self.rows, self.num_classes).astype(np.float32)


def open_trajectory(folder: Path, *, unfinished: bool = False) -> Trajectory:
    """Return the trajectory in ``folder``, the ``labels`` of a run; of an unfinished one the epochs so far, which nothing can check yet.

    Raises:
        UserError: there is none, or a file is not what the run wrote.
    """
    manifest = None if unfinished else open_manifest(folder.parent)
    try:
        layout = read_json(folder / "layout.json") if manifest is None else manifest.read_json("labels/layout.json")
        indices_file = folder / str(layout["indices"])
        indices = indices_file.read_bytes() if manifest is None else manifest.read_bytes(f"labels/{indices_file.name}")
        _, rows, num_classes = layout["shape"]
        path, dtype = folder / str(layout["file"]), np.dtype(layout["dtype"])
        size = path.stat().st_size if manifest is None else manifest.size(f"labels/{path.name}")
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder} holds no readable label trajectory: {error}") from error
    return Trajectory(
        kind=str(layout["kind"]),
        epochs=size // (rows * num_classes * dtype.itemsize),
        rows=rows,
        num_classes=num_classes,
        when=str(layout["when"]),
        indices=np.frombuffer(indices, dtype="<i8").astype(np.int64),
        path=path,
        dtype=dtype,
        manifest=manifest,
    )
