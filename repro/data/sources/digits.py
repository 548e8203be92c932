"""Handwritten digits, 8x8 gray: 1,797 real images that come with scikit-learn, for everything that must run without a download."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from repro.config import registry
from repro.config.fields import setting
from repro.data.parts import PartConfig
from repro.data.splits import draw
from repro.data.types import ImageSet, RawDataset
from repro.errors import UserError
from repro.randomness import Stream

NUM_TEST = 360


@dataclass
class DigitsConfig(PartConfig):
    """Which part of it; by default all."""

    per_class = ((142, 146, 141, 147, 144, 146, 145, 143, 139, 144), (36, 36, 36, 36, 37, 36, 36, 36, 35, 36))

    num_classes: int = setting(10, help="only the first so many digits, in training and test set", at_least=2, at_most=10, neutral=10)


@registry.dataset(
    "digits",
    config=DigitsConfig,
    overrides={"model": "digits_cnn", "split": "clean_meta_100"},
    values={"meta": {"batch_size": 100}},
    size=registry.DatasetSize(1437, 360, (1, 8, 8), 10),
)
def build(config: DigitsConfig, folder: Path) -> RawDataset:
    """Return 1,437 training and 360 test images (1, 8, 8).

    scikit-learn publishes no test set; this one is drawn class by class and is the same for every seed.
    """
    published = np.loadtxt(_published_file(), delimiter=",")
    # Published as 0 to 16 per pixel, and the class.
    images = np.rint(published[:, :-1].reshape(-1, 1, 8, 8) * (255.0 / 16.0)).astype(np.uint8)
    labels = published[:, -1].astype(np.int64)
    test = draw(labels, NUM_TEST, Stream(0, "digits", "test"), stratified=True)
    train = np.delete(np.arange(len(labels)), test)
    published_set = RawDataset(
        train=ImageSet(images[train], labels[train]),
        test=ImageSet(images[test], labels[test]),
        class_names=tuple("0123456789"),
        mean=(0.3056,),
        std=(0.3759,),
    )
    return config.part_of(published_set)


def _published_file() -> Path:
    """Return scikit-learn's file; what ``sklearn.datasets.load_digits`` reads, without the seconds that importing it takes."""
    package = find_spec("sklearn")
    path = None if package is None or package.origin is None else Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if path is None or not path.is_file():
        raise UserError("dataset=digits: scikit-learn, which brings the images, is not installed as expected: pip install scikit-learn.")
    return path
