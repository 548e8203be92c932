"""What passes between the parts of :mod:`repro.data`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ImageSet:
    """Images (N, C, H, W) as uint8 and their labels (N,) in [0, num_classes)."""

    images: Images
    labels: Labels

    def at(self, chosen: npt.NDArray[np.generic]) -> ImageSet:
        """Return those at some positions (M,), or where a mask (N,) is true."""
        return ImageSet(self.images[chosen], self.labels[chosen])


@dataclass(frozen=True)
class CleanLabels:
    """What label noise is put on: labels (N,) of ``num_classes`` classes, and which images they belong to.

    That is what annotations by people are looked up by; noise that is drawn does not ask for it: the ``positions`` (N,) of the images in
    the published training set of ``dataset``, whose files lie in ``folder``.
    """

    labels: Labels
    num_classes: int
    dataset: str = ""
    positions: Labels | None = None
    folder: Path = Path()


@dataclass(frozen=True)
class RawDataset:
    """A dataset as published, before any split or noise.

    ``mean`` and ``std`` are per channel, of pixels in [0, 1], over the training images. ``superclasses`` has the number of the published
    group that each class belongs to, where there are such groups.
    ``train_positions`` (N,) are those of the training images of a part in the published training set; ``None`` where all are there.
    Of a folder of images, ``train_files`` and ``test_files`` say which image is which file, and ``verified`` (N,) whose label, of the
    training images, somebody has checked; ``None``: published labels are taken for right.
    """

    train: ImageSet
    test: ImageSet
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    superclasses: tuple[int, ...] | None = None
    train_positions: Labels | None = None
    train_files: tuple[str, ...] = ()
    test_files: tuple[str, ...] = ()
    verified: npt.NDArray[np.bool_] | None = None

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def positions(self) -> Labels:
        """Positions (N,) of the training images in the published training set."""
        return np.arange(len(self.train.labels)) if self.train_positions is None else self.train_positions

    def rows_of(self, positions: int | Labels) -> Labels:
        """Return which training images lie at one or several of :attr:`positions`."""
        return np.searchsorted(self.positions, positions)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        _, channels, height, width = self.train.images.shape
        return channels, height, width
