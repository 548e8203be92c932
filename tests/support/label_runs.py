"""Fabricated runs on handwritten digits with recorded labels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from run_folders import change, done_run

from repro.config import registry
from repro.data.types import CleanLabels, RawDataset
from repro.files import write_json
from repro.randomness import sha256_of

FIELDS: dict[str, Any] = {"dataset.name": "digits", "dataset.version": 1, "noise.name": "none", "noise.version": 1, "noise.seed": None}
NOISY = {"noise.name": "uniform", "noise.rate": 0.4, "noise.include_true": False, "noise.draw": "bernoulli", "noise.seed": None}


def digits() -> RawDataset:
    choice = registry.get("dataset", "digits")
    return choice.build(choice.config(name="digits"), Path())


def noisy(indices: Sequence[int], seed: int) -> npt.NDArray[np.int64]:
    """Return the annotated classes of digits in a run with ``NOISY`` and ``seed``."""
    choice = registry.get("noise", "uniform")
    clean = CleanLabels(digits().train.labels[np.asarray(indices)], 10)
    return choice.build(choice.config(name="uniform", rate=0.4, include_true=False), clean, seed)


def one_sided(classes: npt.NDArray[np.int64], probability: float) -> npt.NDArray[np.float64]:
    """Return labels (N, 10) with ``probability`` on each of ``classes`` (N,), the rest spread over the others."""
    labels = np.full((len(classes), 10), (1.0 - probability) / 9)
    labels[np.arange(len(classes)), classes] = probability
    return labels


def label_run(
    folder: Path,
    indices: Sequence[int],
    blocks: Sequence[npt.NDArray[np.floating[Any]]],
    *,
    kind: str = "instance",
    planned: int | None = None,
    when: str = "after",
    hashes: dict[str, str] | None = None,
    **fields: Any,
) -> None:
    """Make the folder of a finished run whose labels (N, K), or class parameters (steps, K), were ``blocks``, one an epoch."""
    done_run(folder, fields=FIELDS | {"seed": 0} | fields)
    labels = folder / "labels"
    labels.mkdir()
    np.asarray(indices, dtype="<i8").tofile(labels / "indices.i64")
    np.asarray(blocks, dtype="<f4").tofile(labels / "instances.f32")
    shape = [planned or len(blocks), *blocks[0].shape]
    layout = {"schema": 2, "kind": kind, "file": "instances.f32", "dtype": "<f4", "when": when, "shape": shape}
    write_json(labels / "layout.json", layout | {"indices": "indices.i64", "num_instances": len(indices)})
    change(folder, "provenance.json", {"sha256": hashes or {}})


def true_hashes(observed: npt.NDArray[np.int64]) -> dict[str, str]:
    """Return what provenance.json says of a run on digits with these annotated classes."""
    raw = digits()
    return {"dataset": sha256_of(raw.train.images, raw.train.labels, raw.test.images, raw.test.labels), "noise": sha256_of(observed)}
