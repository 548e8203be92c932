"""CIFAR-100 (Krizhevsky 2009): 60,000 color images of a hundred classes."""

from __future__ import annotations

from pathlib import Path

from repro.config import registry
from repro.data.parts import CIFARConfig
from repro.data.published_files import PublishedFiles, cifar_dataset
from repro.data.types import RawDataset

_FOLDER = "cifar-100-python"

#: The training images, the test images and the names of the classes, in this order.
FILES = PublishedFiles(
    dataset="cifar100",
    torchvision_class="CIFAR100",
    md5={
        f"{_FOLDER}/train": "16019d7e3df5f24257cddd939b257f8d",
        f"{_FOLDER}/test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
        f"{_FOLDER}/meta": "7973b15100ade9c7d40fb424638fde48",
    },
)


@registry.dataset(
    "cifar100",
    config=CIFARConfig,
    overrides={"model": "resnet18", "augment": "crop_flip"},
    size=registry.DatasetSize(50_000, 10_000, (3, 32, 32), 100),
)
def build(config: CIFARConfig, folder: Path) -> RawDataset:
    """Return 50,000 training and 10,000 test images (3, 32, 32) with their fine labels from ``folder/cifar-100-python``.

    Raises:
        UserError: a file is missing or not the published one.
    """
    published = cifar_dataset(FILES.read(folder), kind="fine_", mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762))
    return config.part_of(published)
