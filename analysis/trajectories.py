"""The labels that a run learned, image by image, as its folder holds them (``labels/``, docs/run-folder.md).

The arrays are read with numpy alone, an epoch at a time: no analysis needs PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from repro.errors import UserError
from repro.manifest import Manifest, open_manifest

#: The layout of labels/layout.json that this code reads.
LAYOUT_SCHEMA = 1


@dataclass(frozen=True)
class InstanceLabels:
    """The recorded instance labels of one run.

    Attributes:
        path: the file of blocks, one an epoch.
        dtype: type of its numbers.
        epochs: whole epochs in the file.
        manifest: of the run; what is read is checked against it.
        planned: epochs that the run was to have; more than ``epochs`` where it ended early.
        num_classes: K.
        when: whether a label was noted ``before`` or ``after`` the update at its visit.
        indices: positions (N,) of the training images in the published training set.
    """

    path: Path
    manifest: Manifest
    dtype: np.dtype[np.floating]
    epochs: int
    planned: int
    num_classes: int
    when: str
    indices: npt.NDArray[np.int64]

    def at(self, epoch: int) -> npt.NDArray[np.float64]:
        """Return the labels (N, K) at the visits of one epoch, counted from 0.

        Raises:
            UserError: the file cannot be read, or the epoch is not what the run wrote.
        """
        assert 0 <= epoch < self.epochs
        size = len(self.indices) * self.num_classes
        try:
            flat = np.fromfile(self.path, dtype=self.dtype, count=size, offset=epoch * size * self.dtype.itemsize)
        except OSError as error:
            raise _damaged(self.path, error) from error
        self.manifest.check_block(f"labels/{self.path.name}", epoch, flat)
        return flat.reshape(-1, self.num_classes).astype(np.float64)

    def rows_of(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the row of each of ``positions`` (M,) in the published training set; -1 for an image that the run did not train on."""
        order = np.argsort(self.indices, kind="stable")
        places = np.searchsorted(self.indices, positions, sorter=order)
        rows: npt.NDArray[np.int64] = order[np.minimum(places, len(order) - 1)]
        return np.where(self.indices[rows] == positions, rows, -1)


def open_instance_labels(run: Path) -> InstanceLabels | None:
    """Return the instance labels in the run folder ``run``; ``None`` where none were recorded, or those of classes.

    Raises:
        UserError: the files in its ``labels`` folder are not what the run wrote, or of another layout.
    """
    folder = run / "labels"
    path, manifest = folder / "layout.json", open_manifest(run)
    if "labels/layout.json" not in manifest.files:
        return None
    try:
        layout = manifest.read_json("labels/layout.json")
        if layout["schema"] != LAYOUT_SCHEMA:
            raise UserError(
                f"{path} has layout {layout['schema']}, this code reads {LAYOUT_SCHEMA}. Use the code that the run was made with."
            )
        if layout["kind"] != "instance":
            return None
        planned, rows, num_classes = (int(size) for size in layout["shape"])
        dtype = np.dtype(layout["dtype"])
        indices = np.frombuffer(manifest.read_bytes(f"labels/{layout['indices']}"), dtype="<i8").astype(np.int64)
        blocks = folder / layout["file"]
        whole = manifest.size(f"labels/{layout['file']}") // (rows * num_classes * dtype.itemsize)
        when = str(layout["when"])
    except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise _damaged(path, error) from error
    if len(indices) != rows:
        raise _damaged(folder / layout["indices"], f"it names {len(indices)} images, layout.json says {rows}")
    return InstanceLabels(blocks, manifest, dtype, min(whole, planned), planned, num_classes, when, indices)


def _damaged(path: Path, problem: object) -> UserError:
    return UserError(f"{path}: the recorded labels cannot be read ({problem}). Move the run folder away and run it again.")
