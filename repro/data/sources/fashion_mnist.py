"""Fashion-MNIST (Xiao et al. 2017): 70,000 gray images of ten kinds of clothing; not in the paper."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from repro import registry
from repro.config import DatasetConfig
from repro.data.published_files import PublishedFiles, idx_images, idx_labels
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


@dataclass
class FashionMNISTConfig(DatasetConfig):
    """Nothing to set."""


@registry.dataset("fashion_mnist", config=FashionMNISTConfig, overrides={"model": "resnet18", "augment": "none"})
def build(config: FashionMNISTConfig, folder: Path) -> RawDataset:
    """Return 60,000 training and 10,000 test images (1, 28, 28) from ``folder/FashionMNIST/raw``.

    Raises:
        UserError: a file is missing or damaged.
    """
    content = FILES.read(folder)

    def part(name: str) -> ImageSet:
        return ImageSet(
            idx_images(content[f"{_FOLDER}/{name}-images-idx3-ubyte"]), idx_labels(content[f"{_FOLDER}/{name}-labels-idx1-ubyte"])
        )

    return RawDataset(train=part("train"), test=part("t10k"), class_names=CLASS_NAMES, mean=(0.2860,), std=(0.3530,))
