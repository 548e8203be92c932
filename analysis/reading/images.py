"""Training images and classes of a run's dataset: what a figure and the report show beside the labels.

A run folder holds no image and no class name, so they are read from the dataset itself by the code that training reads it with, which
needs neither PyTorch nor the network. What is read is checked against the sha256 in the run's provenance.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from analysis.reading.runs import Record
from repro.config import registry
from repro.data.types import CleanLabels, RawDataset
from repro.errors import UserError
from repro.randomness import sha256_of

Classes = npt.NDArray[np.int64]


def dataset_of(record: Record) -> RawDataset:
    """Return what a run that is done was cut out of, from ``$REPRO_DATA`` or ``data`` as training reads it.

    Raises:
        UserError: the files of the dataset are missing or corrupted, or it is another one than the run's.
    """
    raw, sha256 = _load(json.dumps(_settings(record, "dataset"), sort_keys=True), _data_folder())
    _check(record, "dataset", sha256)
    return raw


def readable_names(raw: RawDataset) -> list[str]:
    """Return the classes as readers call them: ``sea lion``, or ``class 7`` where the dataset calls it by its number."""
    # A bare number as the name of a bar would read as a value.
    return [f"class {name}" if name.isdigit() else name.replace("_", " ") for name in raw.class_names]


def png(raw: RawDataset, position: int) -> str:
    """Return the image at a position of the published training set as PNG in base64."""
    content = io.BytesIO()
    # A gray image has no axis of channels.
    pixels = raw.train.images[raw.rows_of(position)].transpose(1, 2, 0).squeeze()
    Image.fromarray(pixels).save(content, "png", optimize=True)
    return base64.b64encode(content.getvalue()).decode("ascii")


def _data_folder() -> Path:
    return Path(os.environ.get("REPRO_DATA", "data"))


@functools.lru_cache(maxsize=4)
def _load(settings: str, folder: Path) -> tuple[RawDataset, str]:
    """Return a dataset and its sha256, as provenance.json has it."""
    choice, config = _choice("dataset", json.loads(settings))
    raw = choice.build(config, folder)
    return raw, sha256_of(raw.train.images, raw.train.labels, raw.test.images, raw.test.labels)


def annotated_classes(record: Record, raw: RawDataset, indices: Classes) -> Classes:
    """Return the classes (N,) that the images at ``indices`` (N,) were annotated with in a run, label noise included.

    The noise is made again from the run's settings and seed.

    Raises:
        UserError: what comes out is not what the run trained on.
    """
    choice, config = _choice("noise", _settings(record, "noise"))
    seed = int(record["fields"]["seed"]) if config.seed is None else config.seed
    clean = CleanLabels(raw.train.labels[raw.rows_of(indices)], raw.num_classes, record["fields"]["dataset.name"], indices, _data_folder())
    observed: Classes = choice.build(config, clean, seed)
    _check(record, "noise", sha256_of(observed))
    return observed


def _choice(group: str, settings: dict[str, Any]) -> tuple[registry.Choice, Any]:
    """Return what a run chose of ``group``, and its config. A setting that the identity leaves out has its neutral value."""
    choice = registry.get(group, str(settings["name"]))
    neutral = {field.name: field.metadata["neutral"] for field in dataclasses.fields(choice.config) if "neutral" in field.metadata}
    return choice, choice.config(**neutral | {key: value for key, value in settings.items() if key != "version"})


def _settings(record: Record, group: str) -> dict[str, Any]:
    return {key.removeprefix(f"{group}."): value for key, value in record["fields"].items() if key.startswith(f"{group}.")}


def _check(record: Record, what: str, sha256: str) -> None:
    expected = record["provenance"].get("sha256", {}).get(what)
    if expected not in (None, sha256):
        raise UserError(
            f"{record['place']}: its {what} has sha256 {expected[:12]}, what this code and the files here give has {sha256[:12]}."
        )
