"""What passes between the parts of :mod:`repro.data`."""

from __future__ import annotations

from dataclasses import dataclass

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
class RawDataset:
    """A dataset as published, before any split or noise.

    ``mean`` and ``std`` are per channel, of pixels in [0, 1], over the training images. ``superclasses`` has the number of the published
    group that each class belongs to, where there are such groups.
    """

    train: ImageSet
    test: ImageSet
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    superclasses: tuple[int, ...] | None = None

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        _, channels, height, width = self.train.images.shape
        return channels, height, width
