from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repro import registry
from repro.data.published_files import PublishedFiles
from repro.data.sources import cifar10, cifar100, fashion_mnist
from repro.data.types import RawDataset
from repro.determinism import sha256_of
from repro.errors import UserError


def load(name: str, folder: Path) -> RawDataset:
    choice = registry.get("dataset", name)
    raw: RawDataset = choice.build(choice.config(name=name), folder)
    return raw


def statistics(raw: RawDataset) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation per channel of the training pixels in [0, 1], from exact integer sums."""
    channels = raw.train.images.shape[1]
    mean, std = [], []
    for channel in range(channels):
        counts = np.bincount(raw.train.images[:, channel].ravel(), minlength=256).astype(np.float64)
        values = np.arange(256) / 255.0
        mean.append(float(counts @ values / counts.sum()))
        std.append(float(np.sqrt(counts @ values**2 / counts.sum() - mean[-1] ** 2)))
    return mean, std


def check_statistics(raw: RawDataset) -> None:
    mean, std = statistics(raw)
    assert raw.mean == tuple(round(value, 4) for value in mean)
    assert raw.std == tuple(round(value, 4) for value in std)


# -- digits -------------------------------------------------------------------------------------------------------------------


def test_digits_are_the_published_ones(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    raw = load("digits", tmp_path)
    assert raw.train.images.shape == (1437, 1, 8, 8)
    assert raw.test.images.shape == (360, 1, 8, 8)
    assert raw.train.images.dtype == np.uint8
    assert raw.train.labels.dtype == np.int64
    assert (raw.train.images.min(), raw.train.images.max()) == (0, 255)
    assert raw.class_names == ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
    assert raw.image_shape == (1, 8, 8)

    published = load_digits()
    # Back to 0..16: nothing is lost, and every published image is in exactly one of the two sets, with its label.
    images = np.concatenate([raw.train.images, raw.test.images])[:, 0] / (255 / 16)
    rows = np.column_stack([np.rint(images).reshape(len(images), -1), np.concatenate([raw.train.labels, raw.test.labels])])
    wanted = np.column_stack([published.data, published.target])
    assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, wanted.tolist()))
    assert np.abs(np.rint(images) - images).max() < 0.04


def test_the_digits_test_set_is_fixed_and_has_all_classes_alike(tmp_path: Path) -> None:
    raw = load("digits", tmp_path)
    assert np.ptp(np.bincount(raw.test.labels)) <= 2
    assert sha256_of(raw.train.images, raw.train.labels, raw.test.images, raw.test.labels) == (
        "4b1f2837fff686384752a7b62f9205d0fd56427f47ab86ecffe73246a8ef8f8e"
    )


def test_the_digits_statistics_are_those_of_the_training_images(tmp_path: Path) -> None:
    check_statistics(load("digits", tmp_path))


# -- files and formats ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion_mnist"])
def test_a_dataset_without_its_files_says_which(name: str, tmp_path: Path) -> None:
    files: PublishedFiles = sys.modules[registry.get("dataset", name).build.__module__].FILES  # type: ignore[attr-defined]
    with pytest.raises(UserError) as caught:
        load(name, tmp_path)
    for path, md5 in files.md5.items():
        assert f"{tmp_path / path}  (md5 {md5})" in str(caught.value)
    for path in files.md5:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"")
    with pytest.raises(UserError, match=f"is damaged .*expected {next(iter(files.md5.values()))}"):
        load(name, tmp_path)


def test_the_checksums_are_torchvision_s() -> None:
    from torchvision import datasets

    for module in (cifar10, cifar100):
        source: Any = getattr(datasets, module.FILES.torchvision_class)
        listed = [*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])]
        assert {f"{source.base_folder}/{name}": md5 for name, md5 in listed} == module.FILES.md5
    fashion: Any = datasets.FashionMNIST
    assert tuple(fashion.classes) == fashion_mnist.CLASS_NAMES
    assert {Path(name).name for name in fashion_mnist.FILES.md5} == {name.removesuffix(".gz") for name, _ in fashion.resources}


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

    content = {f"cifar-10-batches-py/data_batch_{number}": batch(number) for number in range(1, 6)}
    content |= {"cifar-10-batches-py/test_batch": batch(6), "cifar-10-batches-py/batches.meta": pickle.dumps({"label_names": ["a", "b"]})}
    trust(monkeypatch, cifar10, tmp_path, content)
    raw = load("cifar10", tmp_path)
    assert raw.train.images.shape == (10, 3, 32, 32)
    assert raw.test.images.shape == (2, 3, 32, 32)
    assert raw.train.labels.tolist() == [1, 2, 2, 3, 3, 4, 4, 5, 5, 6]
    assert raw.test.labels.tolist() == [6, 7]
    assert raw.class_names == ("a", "b")
    # Red, green, blue planes one after the other, row by row.
    assert raw.train.images[2, 1, 3, 5] == (2 + 1024 + 3 * 32 + 5) % 256


def test_cifar100_takes_the_fine_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "fine_labels": [99, 3], "coarse_labels": [1, 0]})
    names = pickle.dumps({"fine_label_names": ["fine"], "coarse_label_names": ["coarse"]})
    content = {"cifar-100-python/train": part, "cifar-100-python/test": part, "cifar-100-python/meta": names}
    trust(monkeypatch, cifar100, tmp_path, content)
    raw = load("cifar100", tmp_path)
    assert raw.train.labels.tolist() == [99, 3]
    assert raw.class_names == ("fine",)
    assert raw.superclasses is None  # not every class has an image here


def test_cifar100_knows_the_superclass_of_each_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = pickle.dumps({"data": np.zeros((3, 3072), np.uint8), "fine_labels": [1, 0, 2], "coarse_labels": [7, 4, 7]})
    names = pickle.dumps({"fine_label_names": ["a", "b", "c"]})
    content = {"cifar-100-python/train": part, "cifar-100-python/test": part, "cifar-100-python/meta": names}
    trust(monkeypatch, cifar100, tmp_path, content)
    assert load("cifar100", tmp_path).superclasses == (4, 7, 7)


def test_fashion_mnist_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def header(*numbers: int) -> bytes:
        return np.array(numbers, dtype=">u4").tobytes()

    pixels = np.arange(2 * 28 * 28).astype(np.uint8)
    images, labels = header(2051, 2, 28, 28) + pixels.tobytes(), header(2049, 2) + bytes([7, 9])
    content = {}
    for part in ("train", "t10k"):
        content[f"FashionMNIST/raw/{part}-images-idx3-ubyte"] = images
        content[f"FashionMNIST/raw/{part}-labels-idx1-ubyte"] = labels
    trust(monkeypatch, fashion_mnist, tmp_path, content)
    raw = load("fashion_mnist", tmp_path)
    np.testing.assert_array_equal(raw.train.images, pixels.reshape(2, 1, 28, 28))
    assert raw.test.labels.tolist() == [7, 9]
    assert raw.train.images.flags.writeable


def test_listing_the_choices_imports_no_heavy_library() -> None:
    code = "import sys; from repro import registry; registry.choices('dataset'), registry.choices('noise'), registry.choices('model')"
    heavy = "assert not {'torchvision', 'sklearn', 'scipy', 'PIL'} & sys.modules.keys(), sys.modules.keys()"
    subprocess.run([sys.executable, "-c", f"{code}; {heavy}"], check=True)


# -- the real CIFAR-100 -------------------------------------------------------------------------------------------------------


@pytest.fixture
def real_cifar100() -> Path:
    folder = os.environ.get("REPRO_TEST_CIFAR100")
    if folder is None:
        pytest.skip("set REPRO_TEST_CIFAR100 to the folder that holds cifar-100-python")
    return Path(folder)


def test_the_real_cifar100(real_cifar100: Path) -> None:
    raw = load("cifar100", real_cifar100)
    assert raw.train.images.shape == (50_000, 3, 32, 32)
    assert raw.test.images.shape == (10_000, 3, 32, 32)
    assert np.bincount(raw.train.labels).tolist() == [500] * 100
    assert np.bincount(raw.test.labels).tolist() == [100] * 100
    assert raw.num_classes == 100
    assert (raw.class_names[0], raw.class_names[99]) == ("apple", "worm")
    check_statistics(raw)


def test_the_real_cifar100_is_torchvision_s(real_cifar100: Path) -> None:
    from torchvision.datasets import CIFAR100

    raw, published = load("cifar100", real_cifar100), CIFAR100(str(real_cifar100), train=False)
    np.testing.assert_array_equal(raw.test.images.transpose(0, 2, 3, 1), published.data)
    assert raw.test.labels.tolist() == published.targets
    assert raw.class_names == tuple(published.classes)
