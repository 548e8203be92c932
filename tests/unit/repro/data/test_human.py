"""Annotations by people: read from the published files, image by image, and nothing else is run that such a file may hold."""

import dataclasses
import hashlib
import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from repro.config import registry
from repro.config.compose import compose
from repro.data.noises import human
from repro.data.prepare import counted_transition, prepare
from repro.data.published_files import PublishedFiles
from repro.data.types import CleanLabels, ImageSet, RawDataset
from repro.errors import UserError

CLASSES = np.arange(60) % 6
WORST = np.where(np.arange(60) % 5 == 0, (CLASSES + 1 + np.arange(60) // 30) % 6, CLASSES)
ANNOTATED = {"clean_label": CLASSES, "worse_label": WORST, "aggre_label": CLASSES, "names": ["a"]}


def publish(folder: Path, monkeypatch: pytest.MonkeyPatch, content: Any) -> Path:
    """Write ``content`` as ``torch.save`` of the authors' time did, and take its md5 for the published one."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/data.pkl", pickle.dumps(content, protocol=2).replace(b"numpy._core", b"numpy.core"))
    path = folder / "CIFAR-10_human.pt"
    path.write_bytes(written.getvalue())
    md5 = hashlib.md5(written.getvalue()).hexdigest()
    monkeypatch.setitem(human.FILES, "cifar10", PublishedFiles("cifar10", None, {path.name: md5}, get="Get it."))
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the published file lies, and the dataset that is annotated: an image's pixels are its position."""

    def published(count: int) -> ImageSet:
        pixels = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 3, 4, 4)).copy()
        return ImageSet(pixels, np.arange(count) % 6)

    def build(config: Any, folder: Path) -> RawDataset:
        return config.part_of(RawDataset(published(60), published(12), tuple("abcdef"), (0.5,) * 3, (0.25,) * 3))

    cifar10 = registry.get("dataset", "cifar10")
    monkeypatch.setitem(registry.choices("dataset"), "cifar10", dataclasses.replace(cifar10, build=build))
    publish(tmp_path, monkeypatch, ANNOTATED)
    return tmp_path


def data(folder: Path, *overrides: str) -> Any:
    given = ["method=one_hot", "dataset=cifar10", "model=small_cnn", "noise=human", "noise.annotator=worst", "split.meta_size=6", "seed=3"]
    return prepare(compose([*given, f"paths.data={folder}", *overrides]), torch.device("cpu"))


@pytest.mark.parametrize("part", [(), ("dataset.train_size=30",), ("dataset.side=4", "split=full", "split.meta_size=null")])
def test_every_image_of_every_part_has_its_own_annotation(folder: Path, part: tuple[str, ...]) -> None:
    run = data(folder, *part)
    # Positions are those of the published set, whatever part of it is trained on.
    np.testing.assert_array_equal(run.train.images[:, 0, 0, 0], run.train_indices)
    np.testing.assert_array_equal(run.true, CLASSES[run.train_indices])
    np.testing.assert_array_equal(run.observed, WORST[run.train_indices])
    assert run.effective_noise_rate == np.mean((WORST != CLASSES)[run.train_indices]) > 0


def test_an_annotation_outside_of_the_classes_that_are_kept_counts_as_right(folder: Path) -> None:
    run = data(folder, "dataset.num_classes=4")
    given, true = WORST[run.train_indices], CLASSES[run.train_indices]
    assert given.max() > 3
    np.testing.assert_array_equal(run.observed, np.where(given < 4, given, true))


def test_how_often_classes_are_mistaken_is_counted_on_the_training_images(folder: Path) -> None:
    run = data(folder)
    np.testing.assert_array_equal(run.noise_transition, counted_transition(run.true.numpy(), run.observed.numpy(), 6))
    np.testing.assert_array_equal(counted_transition(np.array([0, 0]), np.array([0, 2]), 3), [[0.5, 0, 0.5], [0, 1, 0], [0, 0, 1]])


class Malicious:
    def __reduce__(self) -> Any:
        return os.mkdir, ("made by a pickle",)


def test_a_file_that_asks_for_more_than_arrays_is_refused_by_name_and_not_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    publish(folder, monkeypatch, ANNOTATED | {"worse_label": Malicious()})
    with pytest.raises(pickle.UnpicklingError, match=r"unsupported GLOBAL posix\.mkdir"):
        data(folder)
    assert not (tmp_path / "made by a pickle").exists()


@pytest.mark.parametrize(
    ("dataset", "annotator", "words"),
    [
        ("digits", "worst", "noise=human: there are no human annotations of dataset=digits, only of cifar10, cifar100"),
        ("cifar10", "noisy", "noise.annotator=noisy: dataset=cifar10 has aggregate, random1, random2, random3, worst"),
        ("cifar10", "worst", "the right labels in .*CIFAR-10_human.pt are not those of dataset=cifar10"),
        ("cifar100", "noisy", r"CIFAR-100_human.pt is not the published file, .*No such file(.|\n)*CC BY-NC 4.0.*cifar-10-100n"),
    ],
)
def test_what_is_not_annotated_or_not_there_is_named(folder: Path, dataset: str, annotator: str, words: str) -> None:
    choice = registry.get("noise", "human")
    clean = CleanLabels(np.zeros(3, np.int64), 6, dataset, np.arange(3), folder)
    with pytest.raises(UserError, match=words):
        choice.build(choice.config(name="human", annotator=annotator), clean, 0)
