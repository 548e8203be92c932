"""Datasets as published, and parts of them."""

import hashlib
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision import datasets

from repro.config import registry
from repro.data.parts import CIFARConfig, block_means
from repro.data.published_files import PublishedFiles
from repro.data.sources import cifar10, cifar100, fashion_mnist
from repro.data.types import ImageSet, RawDataset
from repro.errors import UserError
from repro.randomness import sha256_of


def load(name: str, folder: Path, **settings: Any) -> RawDataset:
    choice = registry.get("dataset", name)
    return choice.build(choice.config(name=name, **settings), folder)


def check_statistics(raw: RawDataset) -> None:
    """Check mean and standard deviation per channel against those of the training pixels in [0, 1]."""
    pixels = raw.train.images.transpose(1, 0, 2, 3).reshape(raw.train.images.shape[1], -1) / 255.0
    assert raw.mean == tuple(round(float(value), 4) for value in pixels.mean(axis=1))
    assert raw.std == tuple(round(float(value), 4) for value in pixels.std(axis=1))


def test_digits_are_the_published_ones_cut_the_same_everywhere(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    raw, published = load("digits", tmp_path), load_digits()
    assert (raw.train.images.shape, raw.test.images.shape) == ((1437, 1, 8, 8), (360, 1, 8, 8))
    # Back to 0..16: nothing is lost, and every published image is in exactly one of the two sets, with its label.
    images = np.concatenate([raw.train.images, raw.test.images])[:, 0] / (255 / 16)
    rows = np.column_stack([np.rint(images).reshape(len(images), -1), np.concatenate([raw.train.labels, raw.test.labels])])
    assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, np.column_stack([published.data, published.target]).tolist()))
    check_statistics(raw)
    assert sha256_of(raw.train.images, raw.train.labels, raw.test.images, raw.test.labels) == (
        "4b1f2837fff686384752a7b62f9205d0fd56427f47ab86ecffe73246a8ef8f8e"
    )


@pytest.mark.parametrize("module", [cifar10, cifar100])
def test_the_checksums_are_torchvision_s(module: Any) -> None:
    source: Any = getattr(datasets, module.FILES.torchvision_class)
    listed = [*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])]
    # In this order, in which they are read.
    assert [(f"{source.base_folder}/{name}", md5) for name, md5 in listed] == list(module.FILES.md5.items())


def published(monkeypatch: pytest.MonkeyPatch, module: Any, folder: Path, contents: list[bytes]) -> RawDataset:
    """Write ``contents``, take their md5 for the published ones, and load the dataset."""
    for name, value in zip(module.FILES.md5, contents, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(value)
    md5 = {name: hashlib.md5(value).hexdigest() for name, value in zip(module.FILES.md5, contents, strict=True)}
    monkeypatch.setattr(module, "FILES", PublishedFiles(module.FILES.dataset, module.FILES.torchvision_class, md5))
    return load(module.FILES.dataset, folder)


def test_cifar10_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def batch(first: int) -> bytes:
        data = np.arange(first, first + 2 * 3072).astype(np.uint8).reshape(2, 3072)
        return pickle.dumps({"data": data, "labels": [first % 10, (first + 1) % 10]})

    raw = published(monkeypatch, cifar10, tmp_path, [*map(batch, range(1, 7)), pickle.dumps({"label_names": ["a", "b"]})])
    assert (raw.train.images.shape, raw.test.images.shape) == ((10, 3, 32, 32), (2, 3, 32, 32))
    assert (raw.train.labels.tolist(), raw.test.labels.tolist()) == ([1, 2, 2, 3, 3, 4, 4, 5, 5, 6], [6, 7])
    assert (raw.class_names, raw.superclasses) == (("a", "b"), None)
    # Red, green, blue planes one after the other, row by row.
    assert raw.train.images[2, 1, 3, 5] == (2 + 1024 + 3 * 32 + 5) % 256


def test_cifar100_takes_the_fine_labels_and_knows_their_superclasses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = pickle.dumps({"data": np.zeros((3, 3072), np.uint8), "fine_labels": [1, 0, 2], "coarse_labels": [7, 4, 7]})
    raw = published(monkeypatch, cifar100, tmp_path, [part, part, pickle.dumps({"fine_label_names": ["a", "b", "c"]})])
    assert (raw.train.labels.tolist(), raw.class_names, raw.superclasses) == ([1, 0, 2], ("a", "b", "c"), (4, 7, 7))


def test_fashion_mnist_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Idx files: a header of 16 or 8 bytes, then one byte a pixel, row by row, or a label."""
    pixels = np.arange(3 * 784).astype(np.uint8)
    parts = [bytes(16) + pixels.tobytes(), bytes(8) + bytes([9, 0, 4]), bytes(16) + pixels[:784].tobytes(), bytes(8) + bytes([7])]
    raw = published(monkeypatch, fashion_mnist, tmp_path, parts)
    assert (raw.train.images.shape, raw.test.images.shape) == ((3, 1, 28, 28), (1, 1, 28, 28))
    assert (raw.train.labels.tolist(), raw.test.labels.tolist()) == ([9, 0, 4], [7])
    assert raw.train.images[1, 0, 2, 5] == (784 + 2 * 28 + 5) % 256
    assert tuple(datasets.FashionMNIST.classes) == fashion_mnist.CLASS_NAMES


def test_listing_the_choices_imports_no_heavy_library() -> None:
    code = "import sys; from repro.config import registry; [registry.choices(group) for group in ('dataset', 'noise', 'model')]"
    heavy = "assert not {'torchvision', 'sklearn', 'scipy', 'PIL'} & sys.modules.keys(), sys.modules.keys()"
    subprocess.run([sys.executable, "-c", f"{code}; {heavy}"], check=True)


def part(**settings: Any) -> RawDataset:
    """Return a part of 60 training and 12 test images of six classes; an image's pixels are its position."""

    def images(count: int) -> ImageSet:
        pixels = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 1, 4, 4)).copy()
        return ImageSet(pixels, np.arange(count, dtype=np.int64) % 6)

    return CIFARConfig(**settings).part_of(RawDataset(images(60), images(12), tuple("abcdef"), (0.5,), (0.25,)))


def test_first_classes_in_training_and_test_set() -> None:
    few, whole = part(num_classes=4), part()
    assert few.class_names == tuple("abcd")
    for images, every in ((few.train, whole.train), (few.test, whole.test)):
        kept = np.flatnonzero(every.labels < 4)
        np.testing.assert_array_equal(images.images[:, 0, 0, 0], kept)
        np.testing.assert_array_equal(images.labels, every.labels[kept])
    assert (few.mean, few.std) == (whole.mean, whole.std)


def test_fewer_images_class_by_class_and_always_the_same() -> None:
    few, both, of_three = part(train_size=24), part(train_size=24, test_size=6), part(num_classes=3, train_size=9)
    assert np.bincount(few.train.labels).tolist() == [4] * 6
    np.testing.assert_array_equal(few.train.images, both.train.images)
    assert (len(few.test.labels), np.bincount(both.test.labels).tolist()) == (12, [1] * 6)
    assert np.bincount(of_three.train.labels).tolist() == [3] * 3


@pytest.mark.parametrize(
    ("field", "words"), [("num_classes", "at most 6"), ("train_size", "at most the 60 "), ("test_size", "at most the 12 ")]
)
def test_more_than_there_is_is_refused(field: str, words: str) -> None:
    with pytest.raises(UserError, match=rf"dataset.{field}=61: must be {words}"):
        part(**{field: 61})


def test_a_pixel_of_a_smaller_image_is_the_mean_of_its_block() -> None:
    image = np.array([[[[0, 1, 10, 20], [2, 3, 30, 41], [255, 255, 0, 0], [255, 255, 0, 1]]]], dtype=np.uint8)
    # 1.5 and 25.25; halves go up.
    np.testing.assert_array_equal(block_means(image, 2), [[[[2, 25], [255, 0]]]])
    np.testing.assert_array_equal(block_means(image, 4), image)
    assert part(side=2).image_shape == (1, 2, 2)
