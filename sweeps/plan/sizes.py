"""How large what a run trains is: its training images, its dataset, its method, by the settings of its identity."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

from repro.config import registry
from repro.config.schema import Config
from repro.errors import UserError

#: Every setting of a run's identity, flat.
Fields = Mapping[str, Any]


class NoEstimateError(Exception):
    """Why a run cannot be estimated."""


@functools.cache
def method_of(name: str) -> Any:
    """Return the class of a method.

    Raises:
        NoEstimateError: there is no such method.
    """
    try:
        return registry.get("method", name).build
    except UserError as error:
        # Of a finished run that another version of the code has trained.
        raise NoEstimateError(f"method={name} does not exist") from error


def training_images(fields: Fields) -> int:
    """Return how many images are left to train on after the cut of :mod:`repro.data.splits`."""
    total = dataset_of(fields).train
    split = fields["split.name"]
    if split == "fold":
        folds, fold = int(fields["split.num_folds"]), int(fields["split.fold"])
        return total - total // folds - (1 if fold < total % folds else 0)
    if split == "clean_meta":
        return total - int(fields["split.meta_size"]) - int(fields.get("split.validation_size") or 0)
    return total


def dataset_of(fields: Fields) -> registry.DatasetSize:
    """Return the sizes of the part of a dataset that a run has; of fewer classes the share, exact where all are equally frequent."""
    name = fields["dataset.name"]
    whole = _whole(name)
    if whole is None:
        raise NoEstimateError(f"dataset={name} was registered without its size")
    classes = fields.get("dataset.num_classes") or whole.num_classes
    side = fields.get("dataset.side")
    return registry.DatasetSize(
        train=fields.get("dataset.train_size") or whole.train * classes // whole.num_classes,
        test=fields.get("dataset.test_size") or whole.test * classes // whole.num_classes,
        image_shape=(whole.image_shape[0], side, side) if side else whole.image_shape,
        num_classes=classes,
    )


def _whole(name: str) -> registry.DatasetSize | None:
    known = registry.choices("dataset").get(name)
    return None if known is None else known.size


def num_classes(config: Config) -> int | None:
    """Return how many classes the dataset of a run has; ``None`` where it is not known without its files."""
    chosen: int | None = getattr(config.dataset, "num_classes", None)
    known = _whole(config.dataset.name)
    return chosen if chosen is not None or known is None else known.num_classes


def network_settings(fields: Fields) -> str:
    """Return the settings of the registered model of a run, as JSON."""
    settings = {key.removeprefix("model."): value for key, value in fields.items() if key.startswith("model.")}
    return json.dumps({key: value for key, value in settings.items() if key not in ("name", "version")}, sort_keys=True)
