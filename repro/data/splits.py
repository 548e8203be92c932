"""Cutting the published training images into training, meta and validation sets.

A cut is a function of its settings, the clean labels and a seed: the same on every platform and in every process.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from repro.config.schema import SplitConfig
from repro.data.types import Labels
from repro.errors import UserError
from repro.randomness import Stream, sha256_of

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Positions in the published training set: sorted, and in no set twice.

    Attributes:
        train: images that are trained on (N,).
        meta: images (M,) of the meta set; ``None`` when nothing is held out.
        validation: images (V,) of the validation set; the same array as ``meta`` when the meta set validates (A8).
    """

    train: Indices
    meta: Indices | None
    validation: Indices | None

    @property
    def sha256(self) -> str:
        """The sha256 of the three; of what is not there, that of no images."""
        return sha256_of(*(self.train[:0] if part is None else part for part in (self.train, self.meta, self.validation)))


def make_split(config: SplitConfig, labels: Labels, seed: int, verified: npt.NDArray[np.bool_] | None = None) -> Split:
    """Cut the images with the clean ``labels`` (N,) as ``config`` says.

    ``fold`` holds out one fold of a k-fold cut, ``verified`` the images that ``verified`` (N,) marks. A validation set of its own is cut
    out of them, so that the training set stays as it is. ``clean_meta`` holds out ``meta_size`` images, and ``validation_size`` further
    ones, so that the meta set stays as it is. ``config.seed`` comes before ``seed``, the run's.

    Raises:
        UserError: a size does not fit the number of images.
    """
    seed = seed if config.seed is None else config.seed
    count = len(labels)
    everything = np.arange(count, dtype=np.int64)
    if config.name == "full":
        return Split(everything, None, None)

    def drawn(pool: Indices, size: int, purpose: str) -> Indices:
        return pool[draw(labels[pool], size, Stream(seed, "folds", purpose), stratified=config.stratified)]

    if config.name in ("fold", "verified"):
        if config.name == "verified":
            held_out = np.zeros(count, np.bool_) if verified is None else verified
            if held_out.all() or not held_out.any():
                raise UserError(
                    f"split=verified: {held_out.sum()} of {count} training images are marked as verified, and it must be some of them. "
                    "Mark them in the column verified of dataset.labels, or use split=clean_meta."
                )
        elif config.num_folds > count:
            raise UserError(f"split.num_folds={config.num_folds}: must be at most the {count} training images.")
        else:
            folds = fold_of_each(labels, config.num_folds, Stream(seed, "folds", "fold"), stratified=config.stratified)
            held_out = folds == config.fold
        pool = meta = np.flatnonzero(held_out)
        if config.validation_size is not None and config.validation_size >= len(meta):
            raise UserError(
                f"split.validation_size={config.validation_size}: must be below the {len(meta)} images that are held out, "
                "out of which it is cut; the rest is the meta set."
            )
    else:
        assert config.meta_size is not None, "repro.config.schema.check passed a clean_meta without a size"
        if config.meta_size + (config.validation_size or 0) >= count:
            raise UserError(
                f"split.meta_size={config.meta_size}, split.validation_size={config.validation_size}: "
                f"together they must be below the {count} training images of the dataset."
            )
        meta = drawn(everything, config.meta_size, "clean_meta")
        pool = np.delete(everything, meta)
    validation = meta
    if config.validation_size is not None:
        validation = drawn(pool, config.validation_size, "validation")
        meta = np.setdiff1d(meta, validation)
    train = np.setdiff1d(everything, np.concatenate([meta, validation]))
    return Split(train, meta, validation)


def fold_of_each(labels: Labels, num_folds: int, stream: Stream, *, stratified: bool) -> Indices:
    """Return the fold (N,) of each image; sizes differ by at most 1, and with ``stratified`` so do the counts of each class."""
    order = _shuffled(labels, stream, by_class=stratified)
    folds = np.empty(len(labels), dtype=np.int64)
    # Dealt like cards, without a break between classes: both the folds and the classes within them come out even.
    folds[order] = np.arange(len(labels)) % num_folds
    return folds


def draw(labels: Labels, count: int, stream: Stream, *, stratified: bool) -> Indices:
    """Return ``count`` sorted positions drawn without replacement.

    With ``stratified``, a class that makes up the share s of ``labels`` gets ``count * s`` of them, rounded down or up.
    """
    assert count <= len(labels)
    order = _shuffled(labels, stream, by_class=stratified)
    # Evenly spaced positions in an order sorted by class; exact integers, so that no rounding depends on the platform.
    spaced = (np.arange(count, dtype=np.int64) * len(labels) + len(labels) // 2) // max(count, 1)
    return np.sort(order[spaced])


def _shuffled(labels: Labels, stream: Stream, *, by_class: bool) -> Indices:
    order = stream.permutation(len(labels))
    return order[np.argsort(labels[order], kind="stable")] if by_class else order
