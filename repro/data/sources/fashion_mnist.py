"""Fashion-MNIST (Xiao et al. 2017): 70,000 gray images of ten kinds of clothing; not in the paper."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from repro.config import registry
from repro.data.parts import PartConfig
from repro.data.published_files import PublishedFiles
from repro.data.types import ImageSet, RawDataset

_FOLDER = "FashionMNIST/raw"

#: The md5 are those of the unpacked files, so that it does not matter who packed them.
FILES = PublishedFiles(
    dataset="fashion_mnist",
    torchvision_class="FashionMNIST",
    md5={
        f"{_FOLDER}/train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        f"{_FOLDER}/train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        f"{_FOLDER}/t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        f"{_FOLDER}/t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    },
)

CLASS_NAMES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


@registry.dataset(
    "fashion_mnist",
    config=PartConfig,
    overrides={"model": "resnet18", "augment": "none"},
    size=registry.DatasetSize(60_000, 10_000, (1, 28, 28), 10),
)
def build(config: PartConfig, folder: Path) -> RawDataset:
    """Return 60,000 training and 10,000 test images (1, 28, 28) from ``folder/FashionMNIST/raw``.

    Raises:
        UserError: a file is missing or not the published one.
    """
    train, train_labels, test, test_labels = FILES.read(folder).values()
    published = RawDataset(_part(train, train_labels), _part(test, test_labels), CLASS_NAMES, mean=(0.2860,), std=(0.3530,))
    return config.part_of(published)


def _part(images: bytes, labels: bytes) -> ImageSet:
    """Return what idx files hold: behind a header of 16 bytes one byte a pixel, behind one of 8 bytes one byte a label."""
    pixels = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 1, 28, 28)
    return ImageSet(pixels.copy(), np.frombuffer(labels, np.uint8, offset=8).astype(np.int64))
