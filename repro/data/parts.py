"""A part of a published dataset: its first classes, fewer images, smaller images. The same part for every seed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from repro.config.fields import setting
from repro.config.schema import DatasetConfig
from repro.data.splits import draw
from repro.data.types import Images, ImageSet, Labels, RawDataset
from repro.errors import UserError
from repro.randomness import Stream


@dataclass
class PartConfig(DatasetConfig):
    """Which part of a published dataset; by default all."""

    num_classes: int | None = setting(
        None, help="only the first so many classes, in training and test set; null: all", at_least=2, neutral=None
    )
    train_size: int | None = setting(None, help="only so many training images, drawn class by class; null: all", at_least=1, neutral=None)
    test_size: int | None = setting(None, help="only so many test images, drawn class by class; null: all", at_least=1, neutral=None)

    def part_of(self, raw: RawDataset) -> RawDataset:
        """Return the images of the first classes, drawn class by class; a pixel is the mean of a square block of published ones.

        Mean and standard deviation stay those of the whole published training set.

        Raises:
            UserError: there are not so many.
        """
        num_classes, side = self.num_classes, getattr(self, "side", None)
        if num_classes is not None and num_classes > raw.num_classes:
            raise UserError(f"dataset.num_classes={num_classes}: must be at most {raw.num_classes}.")

        # The training part's stream has the name it had when it was the only one.
        def chosen(labels: Labels, field: str, stream: str) -> Labels:
            positions = np.arange(len(labels)) if num_classes is None else np.flatnonzero(labels < num_classes)
            size = getattr(self, field)
            if size is None:
                return positions
            if size > len(positions):
                raise UserError(f"dataset.{field}={size}: must be at most the {len(positions)} images of these classes.")
            return positions[draw(labels[positions], size, Stream(0, "dataset", stream), stratified=True)]

        def part(images: ImageSet, positions: Labels) -> ImageSet:
            images = images if len(positions) == len(images.labels) else images.at(positions)
            return images if side is None else ImageSet(block_means(images.images, side), images.labels)

        train = chosen(raw.train.labels, "train_size", "part")
        return dataclasses.replace(
            raw,
            train=part(raw.train, train),
            test=part(raw.test, chosen(raw.test.labels, "test_size", "test_part")),
            train_positions=train,
            class_names=raw.class_names[:num_classes],
            superclasses=None if raw.superclasses is None else raw.superclasses[:num_classes],
        )


@dataclass
class CIFARConfig(PartConfig):
    """Which part of it, and how large its images are; by default all, as published."""

    side: int | None = setting(
        None,
        help="rows and columns of an image after square blocks of pixels are replaced by their means; null: 32, as published",
        choices=(4, 8, 16, 32),
        neutral=None,
    )


def block_means(images: Images, side: int) -> Images:
    """Return images (N, C, side, side) whose pixels are the means of square blocks of those (N, C, H, H) of ``images``, halves up."""
    count, channels, height, _ = images.shape
    block = height // side
    sums = images.reshape(count, channels, side, block, side, block).sum(axis=(3, 5), dtype=np.uint32)
    means: Images = ((sums + block * block // 2) // (block * block)).astype(np.uint8)
    return means
