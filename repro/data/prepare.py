"""Everything a run trains and is measured on, on its device."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from repro.config import registry
from repro.config.schema import Config
from repro.data.splits import Indices, make_split
from repro.data.transform import Transform
from repro.data.types import Images, Labels, RawDataset
from repro.errors import UserError, shown
from repro.randomness import sha256_of

#: Pixels of a set up to which :func:`as_inputs` keeps its images as float32: 64 MiB of them.
MAX_INPUTS = 2**24


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
        train_indices: positions (N,) of the training images in the published training set, on the CPU.
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
    transform: Transform
    hashes: dict[str, str]
    effective_noise_rate: float


def prepare(config: Config, device: torch.device, raw: RawDataset | None = None) -> RunData:
    """Load the dataset, or take ``raw`` for it, cut it, put noise on the labels of the training part only, and move it all to ``device``.

    Raises:
        UserError: a file of the dataset is missing or damaged, or a setting does not fit the dataset.
    """
    raw = raw or _read(config)
    transform = Transform(config.augment, raw.mean, raw.std, raw.image_shape, device)
    split = make_split(config.split, raw.train.labels, config.seed)
    true = raw.train.labels[split.train]
    observed = _observed(config, true, raw.num_classes)

    def moved(images: Images, labels: Labels) -> LabelledImages:
        return LabelledImages(torch.from_numpy(images).to(device), torch.from_numpy(labels).to(device))

    def held_out(indices: Indices | None) -> LabelledImages | None:
        return None if indices is None else moved(raw.train.images[indices], raw.train.labels[indices])

    train, meta = moved(raw.train.images[split.train], observed), held_out(split.meta)
    return RunData(
        train=train,
        observed=train.labels,
        true=torch.from_numpy(true).to(device),
        meta=meta,
        validation=meta if split.validation is split.meta else held_out(split.validation),
        test=moved(raw.test.images, raw.test.labels),
        num_classes=raw.num_classes,
        image_shape=raw.image_shape,
        class_names=raw.class_names,
        superclasses=None if raw.superclasses is None else torch.tensor(raw.superclasses, device=device),
        train_indices=split.train,
        transform=transform,
        hashes={
            "dataset": sha256_of(raw.train.images, raw.train.labels, raw.test.images, raw.test.labels),
            "split": split.sha256,
            "noise": sha256_of(observed),
        },
        effective_noise_rate=float(np.mean(observed != true)),
    )


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


def _observed(config: Config, true: Labels, num_classes: int) -> Labels:
    seed = config.seed if config.noise.seed is None else config.noise.seed
    observed: Labels = registry.get("noise", config.noise.name).build(config.noise, true, num_classes, seed)
    assert observed.shape == true.shape
    assert observed.dtype == np.int64
    assert not np.shares_memory(observed, true), "the clean labels would change with the observed ones"
    return observed


def _read(config: Config) -> RawDataset:
    where = shown(config.paths.data)
    remedy = "Set paths.data or $REPRO_DATA to the folder of the datasets."
    try:
        folder = Path(config.paths.data).expanduser()
    except RuntimeError as error:
        raise UserError(f"paths.data={where}: {error} {remedy}") from error
    try:
        raw: RawDataset = registry.get("dataset", config.dataset.name).build(config.dataset, folder)
    except OSError as error:
        raise UserError(f"paths.data={where}: {error.strerror or error}. {remedy}") from error
    return raw
