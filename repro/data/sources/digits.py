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
from repro.randomness import Stream

NUM_TEST = 360


@dataclass
class DigitsConfig(PartConfig):
    """Which part of it; by default all."""

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
    # What sklearn.datasets.load_digits reads, without the seconds that importing it takes.
    package = find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    table = np.loadtxt(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    # Published as 0 to 16 per pixel, and the class.
    pixels = np.rint(table[:, :-1].reshape(-1, 1, 8, 8) * (255.0 / 16.0)).astype(np.uint8)
    published = ImageSet(pixels, table[:, -1].astype(np.int64))
    test = draw(published.labels, NUM_TEST, Stream(0, "digits", "test"), stratified=True)
    train = np.delete(np.arange(len(table)), test)
    return config.part_of(RawDataset(published.at(train), published.at(test), tuple("0123456789"), mean=(0.3056,), std=(0.3759,)))
