"""Everything a run trains and is measured on, on its device."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from repro.config import registry
from repro.config.schema import Config
from repro.data.splits import make_split
from repro.data.transform import Transform
from repro.data.types import CleanLabels, Images, ImageSet, Labels, Matrix, RawDataset
from repro.randomness import sha256_of

#: Pixels of a set up to which :func:`as_inputs` keeps its images as float32: 64 MiB of them.
MAX_INPUTS = 2**24

#: Images that are moved at once.
_BLOCK = 4096

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledImages:
    """Images (N, C, H, W) as uint8, or as float32 inputs (:func:`as_inputs`), and labels (N,) as int64, on the device."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class RunData:
    """The sets of one run, on its device.

    Attributes:
        train: the training images with their observed labels.
        observed: labels (N,) of the training images as annotated, noise included; ``train.labels``.
        true: clean labels (N,) of the training images; for measuring only.
        meta: the clean meta set; ``None`` when nothing is held out.
        validation: the clean validation set; the same object as ``meta`` when the meta set validates (A8).
        test: the published test set.
        num_classes: K.
        image_shape: (C, H, W).
        class_names: K names.
        superclasses: the published group (K,) of each class; ``None`` where there are none.
        train_indices: positions (N,) of the training images in the published training set, whatever part of it the dataset is, on the CPU.
        noise_transition: probability (K, K) that an image of class i is annotated as j, by the settings of the noise or, where these do
            not say, as counted on the training images; on the CPU.
        transform: pixels to network inputs.
        hashes: sha256 of the ``dataset``, the ``split`` and the ``noise`` (the observed labels).
        effective_noise_rate: fraction of training images whose observed label is not the true one.
    """

    train: LabelledImages
    observed: Tensor
    true: Tensor
    meta: LabelledImages | None
    validation: LabelledImages | None
    test: LabelledImages
    num_classes: int
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    superclasses: Tensor | None
    train_indices: npt.NDArray[np.int64]
    noise_transition: Matrix
    transform: Transform
    hashes: dict[str, str]
    effective_noise_rate: float


def prepare(config: Config, device: torch.device, raw: RawDataset | None = None) -> RunData:
    """Load the dataset, or take ``raw`` for it, cut it, put noise on the labels of the training part only, and move it all to ``device``.

    Raises:
        UserError: a file of the dataset is missing or not the published one, or a setting does not fit the dataset.
    """
    folder = Path(config.paths.data).expanduser()
    given = raw
    raw = raw or registry.get("dataset", config.dataset.name).build(config.dataset, folder)
    assert raw is not None
    sha256 = sha256_of(raw.train.images, raw.train.labels, raw.test.images, raw.test.labels)
    transform = Transform(config.augment, raw.mean, raw.std, raw.image_shape, device)
    split = make_split(config.split, raw.train.labels, config.seed, raw.verified)
    if raw.verified is not None and split.meta is not None and not raw.verified[split.meta].all():
        logger.warning("the %d images of the meta set are taken to be labelled rightly, which nobody has verified.", len(split.meta))
    held_out = {name: raw.train.at(rows) for name, rows in (("meta", split.meta), ("validation", split.validation)) if rows is not None}
    # What nobody else has may be changed: images may fill half of the memory.
    own = given is None and raw.train.images.flags.writeable
    clean = ImageSet(_compacted(raw.train.images, split.train), raw.train.labels[split.train]) if own else raw.train.at(split.train)
    seed = config.seed if config.noise.seed is None else config.noise.seed
    positions, noise = raw.positions[split.train], registry.get("noise", config.noise.name)
    observed = noise.build(config.noise, CleanLabels(clean.labels, raw.num_classes, config.dataset.name, positions, folder), seed)
    assert not np.shares_memory(observed, clean.labels), "the clean labels would change with the observed ones"
    if noise.transition is None:
        transition = counted_transition(clean.labels, observed, raw.num_classes)
    else:
        transition = noise.transition(config.noise, raw.num_classes)

    def moved(images: ImageSet) -> LabelledImages:
        return LabelledImages(torch.from_numpy(images.images).to(device), torch.from_numpy(images.labels).to(device))

    train, meta = moved(ImageSet(clean.images, observed)), None if split.meta is None else moved(held_out["meta"])
    return RunData(
        train=train,
        observed=train.labels,
        true=torch.from_numpy(clean.labels).to(device),
        meta=meta,
        validation=meta if split.validation is split.meta or split.validation is None else moved(held_out["validation"]),
        test=moved(raw.test),
        num_classes=raw.num_classes,
        image_shape=raw.image_shape,
        class_names=raw.class_names,
        superclasses=None if raw.superclasses is None else torch.tensor(raw.superclasses, device=device),
        train_indices=positions,
        noise_transition=transition,
        transform=transform,
        hashes={
            "dataset": sha256,
            "split": split.sha256,
            "noise": sha256_of(observed),
        },
        effective_noise_rate=float(np.mean(observed != clean.labels)),
    )


def _compacted(images: Images, rows: Labels) -> Images:
    """Move the images (N, ...) at the sorted ``rows`` (M,) to the front, in place, and return them."""
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        images[start : start + len(block)] = images[block]
    return images[: len(rows)]


def counted_transition(clean: Labels, observed: Labels, num_classes: int) -> Matrix:
    """Return which share (K, K) of the images of class i is annotated as j; a class without images counts as always right."""
    counts = np.zeros((num_classes, num_classes))
    np.add.at(counts, (clean, observed), 1.0)
    absent = counts.sum(axis=1) == 0.0
    counts[absent, absent] = 1.0
    shares: Matrix = counts / counts.sum(axis=1, keepdims=True)
    return shares


def as_inputs(data: RunData) -> RunData:
    """Return ``data`` with small sets of images that are never augmented as the network's inputs: made once, not at each visit.

    The numbers are the same; ``transform`` leaves inputs as they are. To normalise a batch costs some calls, which on images as small as
    digits take as long as a small layer.
    """

    def ready(images: Any) -> Any:
        if images is None or data.transform.augments or images.images.numel() > MAX_INPUTS:
            return images
        return LabelledImages(data.transform(images.images, None), images.labels)

    meta = ready(data.meta)
    validation = meta if data.validation is data.meta else ready(data.validation)
    return replace(data, train=ready(data.train), meta=meta, validation=validation, test=ready(data.test))
