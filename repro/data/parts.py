"""A part of a published dataset: its first classes, or fewer training images. The same part for every seed."""

from __future__ import annotations

import dataclasses

from repro.data.splits import draw
from repro.data.types import ImageSet, RawDataset
from repro.determinism import Stream
from repro.errors import UserError


def part_of(raw: RawDataset, *, num_classes: int | None = None, train_size: int | None = None) -> RawDataset:
    """Return the images of the first ``num_classes`` classes, and of their training images ``train_size`` drawn class by class.

    ``None`` leaves all. Mean and standard deviation stay those of the whole training set.

    Raises:
        UserError: there are not so many classes or images.
    """
    if num_classes is not None and num_classes != raw.num_classes:
        if num_classes > raw.num_classes:
            raise UserError(f"dataset.num_classes={num_classes}: must be at most {raw.num_classes}.")
        raw = dataclasses.replace(
            raw,
            train=_first_classes(raw.train, num_classes),
            test=_first_classes(raw.test, num_classes),
            class_names=raw.class_names[:num_classes],
        )
    if train_size is not None:
        labels = raw.train.labels
        if train_size > len(labels):
            raise UserError(f"dataset.train_size={train_size}: must be at most the {len(labels)} training images.")
        chosen = draw(labels, train_size, Stream(0, "dataset", "part"), stratified=True)
        raw = dataclasses.replace(raw, train=ImageSet(raw.train.images[chosen], labels[chosen]))
    return raw


def _first_classes(images: ImageSet, num_classes: int) -> ImageSet:
    chosen = images.labels < num_classes
    return ImageSet(images.images[chosen], images.labels[chosen])
