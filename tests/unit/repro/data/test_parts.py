"""A part of a dataset: which images, the same for every seed, and no change of identity where it is the whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from repro.config.compose import compose
from repro.config.identity import run_id, scientific_fields
from repro.data.parts import block_means, part_of
from repro.data.prepare import prepare
from repro.data.types import ImageSet, RawDataset
from repro.errors import UserError


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
