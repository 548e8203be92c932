"""Label trajectories: what the labels of a run were, over its training.

``instances.f16`` holds float16 of shape (epochs, N, K): the target of each training instance at its visit in each epoch (every
instance is visited exactly once an epoch, so this is well defined in every run); ``trajectory.dtype=float32`` makes it
``instances.f32`` (C8). ``classes.f32`` holds float32 of shape (steps, K): the per-class parameters after each step. ``layout.json``
says which of them there is, its shape, and which published training image each row is. One epoch is one block at a fixed place, so
a resumed run writes the same bytes to the same place, and a reader reads a block at a time. Reading: :mod:`repro.labels.trajectory`.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from repro.engine.method import Method
from repro.errors import UserError
from repro.files import json_text, write_bytes
from repro.labels.trajectory import SCHEMA
from repro.runs.manifest import sha256


@dataclass(frozen=True)
class Layout:
    """Shape of a trajectory: ``rows`` is N for instance labels, steps an epoch for class labels, whose numbers are always float32."""

    kind: str
    epochs: int
    rows: int
    num_classes: int
    precision: str = "float16"

    @property
    def dtype(self) -> np.dtype[np.floating[Any]]:
        """Type of the stored numbers, little-endian."""
        return np.dtype("<f2" if self.kind == "instance" and self.precision == "float16" else "<f4")

    @property
    def file_name(self) -> str:
        """Name of the file in the run's ``labels`` folder."""
        return f"{'instances' if self.kind == 'instance' else 'classes'}.f{8 * self.dtype.itemsize}"


class Recorder:
    """Records the labels of one run, a block an epoch.

    Attributes:
        block: the open block, on the device and in the checkpoint; it is changed in place.
    """

    def __init__(self, folder: Path, layout: Layout, method: Method, *, when: str) -> None:
        self._path, self._layout, self._method, self._when = folder / layout.file_name, layout, method, when
        self._sha256s: dict[str, str] = {}
        self._written = hashlib.sha256()
        self._expected = self._written.hexdigest()
        dtype = torch.float16 if layout.dtype.itemsize == 2 else torch.float32
        self.block = torch.zeros((layout.rows, layout.num_classes), dtype=dtype, device=method.context.device)

    def note(self, moment: str, rows: Tensor, step: Tensor) -> None:
        """Note the labels of the batch's ``rows``, if ``moment``, before or after the update, is what is recorded (C3).

        Eq. 6 trains on the labels after the update. ``step`` (1,) counts within the epoch.
        """
        if moment != self._when:
            return
        instance = self._layout.kind == "instance"
        labels = self._method.targets(rows) if instance else self._method.class_parameters().unsqueeze(0)
        self.block.index_copy_(0, rows if instance else step, labels.to(self.block.dtype))

    def begin(self, train_indices: npt.NDArray[np.int64], *, completed_epochs: int) -> None:
        """Open the trajectory of a run that has completed so many epochs; what was written after them is cut off.

        Raises:
            UserError: what a resumed run has written is not there as it was: labels cannot be made again from a checkpoint.
        """
        folder, layout = self._path.parent, self._layout
        folder.mkdir(exist_ok=True)
        described = {
            "schema": SCHEMA,
            "kind": layout.kind,
            "file": layout.file_name,
            "dtype": layout.dtype.str,
            "when": self._when,
            "shape": [layout.epochs, layout.rows, layout.num_classes],
            "indices": "indices.i64",
            "num_instances": len(train_indices),
        }
        for name, content in (("indices.i64", train_indices.astype("<i8").tobytes()), ("layout.json", json_text(described).encode())):
            write_bytes(folder / name, content)
            self._sha256s[f"labels/{name}"] = sha256(content)
        self._path.touch()
        self._written = hashlib.sha256()
        with self._path.open("r+b") as file:
            for _ in range(completed_epochs):
                self._written.update(file.read(self.block.nbytes))
            if self._written.hexdigest() != self._expected:
                raise UserError(
                    f"{self._path}: the {completed_epochs} epochs that the checkpoint knows are not what the run wrote: the file was "
                    "cut, corrupted or replaced. Move the run folder away to train the run again."
                )
            file.truncate(completed_epochs * self.block.nbytes)

    def end_epoch(self, completed_epochs: int) -> None:
        """Write the block of the epoch that makes ``completed_epochs`` complete, and force it to the disk."""
        content = self.block.cpu().numpy().astype(self._layout.dtype, copy=False).tobytes()
        self._written.update(content)
        with self._path.open("r+b") as file:
            file.seek((completed_epochs - 1) * len(content))
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def sha256s(self) -> dict[str, str]:
        """Return the sha256 of each file: path in the run folder -> sha256 of what was written."""
        return {**self._sha256s, f"labels/{self._path.name}": self._written.hexdigest()}

    def state_dict(self) -> dict[str, Any]:
        """Return the open block, and the sha256 of those that were written."""
        return {"block": self.block, "written": self._written.hexdigest()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the open block, and what is known of those that were written."""
        self.block.copy_(state["block"])
        self._expected = state["written"]
