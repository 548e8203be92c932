"""CIFAR-10 (Krizhevsky 2009): 60,000 color images of ten classes."""

from __future__ import annotations

from pathlib import Path

from repro.config import registry
from repro.data.parts import CIFARConfig
from repro.data.published_files import PublishedFiles, cifar_dataset
from repro.data.types import RawDataset

_FOLDER = "cifar-10-batches-py"

#: The training batches, the test batch and the names of the classes, in this order.
FILES = PublishedFiles(
    dataset="cifar10",
    torchvision_class="CIFAR10",
    md5={
        f"{_FOLDER}/data_batch_1": "c99cafc152244af753f735de768cd75f",
        f"{_FOLDER}/data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        f"{_FOLDER}/data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        f"{_FOLDER}/data_batch_4": "634d18415352ddfa80567beed471001a",
        f"{_FOLDER}/data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        f"{_FOLDER}/test_batch": "40351d587109b95175f43aff81a1287e",
        f"{_FOLDER}/batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    },
)


@registry.dataset(
    "cifar10",
    config=CIFARConfig,
    overrides={"model": "resnet18", "augment": "crop_flip"},
    size=registry.DatasetSize(50_000, 10_000, (3, 32, 32), 10),
)
def build(config: CIFARConfig, folder: Path) -> RawDataset:
    """Return 50,000 training and 10,000 test images (3, 32, 32) from ``folder/cifar-10-batches-py``.

    Raises:
        UserError: a file is missing or not the published one.
    """
    published = cifar_dataset(FILES.read(folder), mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
    return config.part_of(published)
