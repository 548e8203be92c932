"""Datasets as published, and parts of them."""

import hashlib
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from repro.config import registry
from repro.config.compose import compose
from repro.config.identity import run_id, scientific_fields
from repro.data.parts import block_means, part_of
from repro.data.prepare import prepare
from repro.data.published_files import PublishedFiles
from repro.data.sources import cifar10, cifar100, fashion_mnist
from repro.data.types import ImageSet, RawDataset
from repro.errors import UserError
from repro.randomness import sha256_of


def load(name: str, folder: Path) -> RawDataset:
    choice = registry.get("dataset", name)
    return choice.build(choice.config(name=name), folder)


def check_statistics(raw: RawDataset) -> None:
    """Check mean and standard deviation per channel against those of the training pixels in [0, 1]."""
    pixels = raw.train.images.transpose(1, 0, 2, 3).reshape(raw.train.images.shape[1], -1) / 255.0
    assert raw.mean == tuple(round(float(value), 4) for value in pixels.mean(axis=1))
    assert raw.std == tuple(round(float(value), 4) for value in pixels.std(axis=1))


def test_digits_are_the_published_ones_cut_the_same_everywhere(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    raw, published = load("digits", tmp_path), load_digits()
    assert (raw.train.images.shape, raw.test.images.shape) == ((1437, 1, 8, 8), (360, 1, 8, 8))
    assert raw.class_names == tuple("0123456789")
    # Back to 0..16: nothing is lost, and every published image is in exactly one of the two sets, with its label.
    images = np.concatenate([raw.train.images, raw.test.images])[:, 0] / (255 / 16)
    rows = np.column_stack([np.rint(images).reshape(len(images), -1), np.concatenate([raw.train.labels, raw.test.labels])])
    assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, np.column_stack([published.data, published.target]).tolist()))
    check_statistics(raw)
    assert np.ptp(np.bincount(raw.test.labels)) <= 2
    assert sha256_of(raw.train.images, raw.train.labels, raw.test.images, raw.test.labels) == (
        "4b1f2837fff686384752a7b62f9205d0fd56427f47ab86ecffe73246a8ef8f8e"
    )


@pytest.mark.parametrize("module", [cifar10, cifar100])
def test_the_checksums_are_torchvision_s(module: Any) -> None:
    from torchvision import datasets

    source: Any = getattr(datasets, module.FILES.torchvision_class)
    listed = [*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])]
    # In this order, in which they are read.
    assert [(f"{source.base_folder}/{name}", md5) for name, md5 in listed] == list(module.FILES.md5.items())


def trust(monkeypatch: pytest.MonkeyPatch, module: Any, folder: Path, content: dict[str, bytes]) -> None:
    """Write ``content`` and take its md5 for the published ones."""
    for name, value in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(value)
    md5 = {name: hashlib.md5(value).hexdigest() for name, value in content.items()}
    monkeypatch.setattr(module, "FILES", PublishedFiles(module.FILES.dataset, module.FILES.torchvision_class, md5))


def test_cifar10_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def batch(first: int) -> bytes:
        data = np.arange(first, first + 2 * 3072).astype(np.uint8).reshape(2, 3072)
        return pickle.dumps({"data": data, "labels": [first % 10, (first + 1) % 10]})

    batches = [*(batch(number) for number in range(1, 7)), pickle.dumps({"label_names": ["a", "b"]})]
    trust(monkeypatch, cifar10, tmp_path, dict(zip(cifar10.FILES.md5, batches, strict=True)))
    raw = load("cifar10", tmp_path)
    assert raw.train.images.shape == (10, 3, 32, 32)
    assert raw.test.images.shape == (2, 3, 32, 32)
    assert raw.train.labels.tolist() == [1, 2, 2, 3, 3, 4, 4, 5, 5, 6]
    assert raw.test.labels.tolist() == [6, 7]
    assert raw.class_names == ("a", "b")
    assert raw.superclasses is None
    # Red, green, blue planes one after the other, row by row.
    assert raw.train.images[2, 1, 3, 5] == (2 + 1024 + 3 * 32 + 5) % 256


@pytest.mark.parametrize(("fine", "superclasses"), [([1, 0, 2], (4, 7, 7)), ([1, 0, 0], None)])
def test_cifar100_takes_the_fine_labels_and_knows_their_superclasses(
    fine: list[int], superclasses: tuple[int, ...] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = pickle.dumps({"data": np.zeros((3, 3072), np.uint8), "fine_labels": fine, "coarse_labels": [7, 4, 7]})
    names = pickle.dumps({"fine_label_names": ["a", "b", "c"], "coarse_label_names": ["coarse"]})
    trust(monkeypatch, cifar100, tmp_path, dict(zip(cifar100.FILES.md5, (part, part, names), strict=True)))
    raw = load("cifar100", tmp_path)
    assert raw.train.labels.tolist() == fine
    assert raw.class_names == ("a", "b", "c")
    assert raw.superclasses == superclasses  # none where a class has no image


def test_fashion_mnist_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Idx files: a header of 16 or 8 bytes, then one byte a pixel, row by row, or a label."""
    pixels = np.arange(3 * 784).astype(np.uint8)
    parts = [bytes(16) + pixels.tobytes(), bytes(8) + bytes([9, 0, 4]), bytes(16) + pixels[:784].tobytes(), bytes(8) + bytes([7])]
    trust(monkeypatch, fashion_mnist, tmp_path, dict(zip(fashion_mnist.FILES.md5, parts, strict=True)))
    raw = load("fashion_mnist", tmp_path)
    assert raw.train.images.shape == (3, 1, 28, 28)
    assert raw.test.images.shape == (1, 1, 28, 28)
    assert (raw.train.labels.tolist(), raw.test.labels.tolist()) == ([9, 0, 4], [7])
    assert raw.train.images[1, 0, 2, 5] == (784 + 2 * 28 + 5) % 256
    from torchvision.datasets import FashionMNIST

    assert tuple(FashionMNIST.classes) == fashion_mnist.CLASS_NAMES


@pytest.mark.parametrize("name", sorted(registry.choices("dataset")))
def test_every_dataset_can_be_made_smaller(name: str) -> None:
    few = compose([f"dataset={name}", "method=one_hot", "seed=0", "dataset.train_size=400", "dataset.test_size=50"])
    assert (few.dataset.train_size, few.dataset.test_size) == (400, 50)
    for field, kind in (("train_size", "training"), ("test_size", "test")):
        with pytest.raises(UserError, match=rf"dataset\.{field}=100000: must be at most the \d+ {kind} images"):
            compose([f"dataset={name}", "method=one_hot", "seed=0", f"dataset.{field}=100000"])


def test_a_part_of_digits(tmp_path: Path) -> None:
    choice = registry.get("dataset", "digits")
    whole = load("digits", tmp_path)
    counts = tuple(tuple(np.bincount(part.labels).tolist()) for part in (whole.train, whole.test))
    assert counts == choice.config.per_class
    few = choice.build(choice.config(name="digits", num_classes=3, train_size=30, test_size=9), tmp_path)
    assert np.bincount(few.train.labels).tolist() == [10, 10, 10]
    assert np.bincount(few.test.labels).tolist() == [3, 3, 3]


def test_listing_the_choices_imports_no_heavy_library() -> None:
    code = (
        "import sys; from repro.config import registry; registry.choices('dataset'), registry.choices('noise'), registry.choices('model')"
    )
    heavy = "assert not {'torchvision', 'sklearn', 'scipy', 'PIL'} & sys.modules.keys(), sys.modules.keys()"
    subprocess.run([sys.executable, "-c", f"{code}; {heavy}"], check=True)


@pytest.mark.skipif("REPRO_TEST_CIFAR100" not in os.environ, reason="REPRO_TEST_CIFAR100 names no folder that holds cifar-100-python")
def test_the_real_cifar100_is_torchvision_s() -> None:
    from torchvision.datasets import CIFAR100

    folder = os.environ["REPRO_TEST_CIFAR100"]
    raw = load("cifar100", Path(folder))
    for part, published in ((raw.train, CIFAR100(folder)), (raw.test, CIFAR100(folder, train=False))):
        np.testing.assert_array_equal(part.images.transpose(0, 2, 3, 1), published.data)
        assert part.labels.tolist() == published.targets
        assert raw.class_names == tuple(published.classes)
    assert np.bincount(raw.train.labels).tolist() == [500] * 100
    check_statistics(raw)


def made() -> RawDataset:
    """Return 60 training and 12 test images of six classes; an image's pixels are its position."""

    def images(count: int) -> ImageSet:
        pixels = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 1, 2, 2)).copy()
        return ImageSet(pixels, np.arange(count, dtype=np.int64) % 6)

    return RawDataset(images(60), images(12), tuple("abcdef"), (0.5,), (0.25,))


def test_first_classes_in_training_and_test_set() -> None:
    part = part_of(made(), num_classes=4)
    assert part.class_names == tuple("abcd")
    for images, whole in ((part.train, made().train), (part.test, made().test)):
        kept = np.flatnonzero(whole.labels < 4)
        np.testing.assert_array_equal(images.images[:, 0, 0, 0], kept)
        np.testing.assert_array_equal(images.labels, whole.labels[kept])
    assert (part.mean, part.std) == (made().mean, made().std)


def test_digits_of_a_few_classes_and_their_identity() -> None:
    common = ["method=one_hot", "dataset=digits", "seed=0"]
    whole, part = compose(common), compose([*common, "dataset.num_classes=8"])
    data = prepare(part, torch.device("cpu"))
    assert data.num_classes == 8
    assert int(data.observed.max()) == 7
    assert int(data.test.labels.max()) == 7
    assert run_id(whole) != run_id(part)
    assert "dataset.num_classes" not in scientific_fields(whole)
    assert scientific_fields(part)["dataset.num_classes"] == 8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["dataset.side=12"], r"dataset.side=12: must be one of 4, 8, 16, 32"),
        (["dataset.train_size=50001"], r"dataset.train_size=50001: must be at most the 50000 training images of 10 classes"),
        (["dataset.num_classes=2", "dataset.test_size=2001"], r"dataset.test_size=2001: must be at most the 2000 test images of 2 classes"),
        (["dataset.num_classes=11"], r"dataset.num_classes=11: must be at most 10"),
    ],
)
def test_more_than_cifar_has_is_refused_when_settings_are_read(settings: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compose(["method=one_hot", "dataset=cifar10", "seed=0", *settings])


def test_fewer_images_class_by_class_and_always_the_same() -> None:
    part, again, both = (
        part_of(made(), train_size=24),
        part_of(made(), train_size=24, test_size=6),
        part_of(made(), num_classes=3, train_size=9),
    )
    np.testing.assert_array_equal(np.bincount(part.train.labels), [4] * 6)
    np.testing.assert_array_equal(part.train.images, again.train.images)
    np.testing.assert_array_equal(np.bincount(again.test.labels), [1] * 6)
    assert len(part.test.labels) == 12
    np.testing.assert_array_equal(np.bincount(both.train.labels), [3] * 3)


def test_a_pixel_of_a_smaller_image_is_the_mean_of_its_block() -> None:
    image = np.array([[[[0, 1, 10, 20], [2, 3, 30, 41], [255, 255, 0, 0], [255, 255, 0, 1]]]], dtype=np.uint8)
    # 1.5 and 25.25; halves go up.
    np.testing.assert_array_equal(block_means(image, 2), [[[[2, 25], [255, 0]]]])
    np.testing.assert_array_equal(block_means(image, 4), image)
    part = part_of(made(), side=1)
    assert (part.image_shape, part.mean) == ((1, 1, 1), made().mean)
    np.testing.assert_array_equal(part.train.images[:, 0, 0, 0], np.arange(60))
