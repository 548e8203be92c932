from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.config import registry
from repro.config.schema import AugmentConfig, SplitConfig
from repro.data.splits import make_split
from repro.data.transform import Transform
from repro.data.types import CleanLabels, Labels
from repro.randomness import Stream, sha256_of, visit_order

COUNT = 4000
#: For any number of classes.
PAIRS: dict[str, dict[str, Any]] = {"uniform": {}, "patrini": {"pairs": "next"}}

seeds = st.integers(0, 2**40)
rates = st.floats(0.0, 1.0)
num_classes_at_least_3 = st.integers(3, 30)


@st.composite
def label_arrays(draw: st.DrawFn) -> Labels:
    """Labels of up to eight classes of very different sizes, in any order."""
    counts = draw(st.lists(st.integers(0, 40), min_size=1, max_size=8).filter(lambda counts: sum(counts) >= 10))
    ordered = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    return ordered[Stream(draw(seeds), "labels").permutation(len(ordered))]


def noisy(name: str, labels: Labels, num_classes: int, seed: int, **values: Any) -> Labels:
    choice = registry.get("noise", name)
    return choice.build(choice.config(name=name, **values), CleanLabels(labels, num_classes), seed)


def some_labels(num_classes: int, seed: int) -> Labels:
    return Stream(seed, "some labels").integers(COUNT, num_classes)


@settings(deadline=None, max_examples=40)
@given(labels=label_arrays(), num_folds=st.integers(2, 10), stratified=st.booleans(), seed=seeds)
def test_folds_partition_the_images_evenly(labels: Labels, num_folds: int, stratified: bool, seed: int) -> None:
    config = {"name": "fold", "num_folds": num_folds, "stratified": stratified}
    splits = [make_split(SplitConfig(fold=fold, **config), labels, seed) for fold in range(num_folds)]
    held_out = [split.meta for split in splits if split.meta is not None]
    assert sorted(np.concatenate(held_out)) == list(range(len(labels)))
    assert np.ptp([len(part) for part in held_out]) <= 1
    for split in splits:
        assert sorted([*split.train, *split.meta]) == list(range(len(labels)))
        assert all((np.diff(part) > 0).all() and part.dtype == np.int64 for part in (split.train, split.meta))
    if stratified:
        per_class = np.array([np.bincount(labels[part], minlength=8) for part in held_out])
        assert np.ptp(per_class, axis=0).max() <= 1


@settings(deadline=None, max_examples=40)
@given(labels=label_arrays(), data=st.data(), seed=seeds)
def test_a_clean_meta_set_has_each_class_s_share(labels: Labels, data: st.DataObject, seed: int) -> None:
    size = data.draw(st.integers(1, len(labels) - 2))
    validation_size = data.draw(st.none() | st.integers(1, len(labels) - 1 - size))
    split = make_split(SplitConfig(name="clean_meta", meta_size=size, validation_size=validation_size), labels, seed)
    held_out = [split.meta] if validation_size is None else [split.meta, split.validation]
    assert sorted(np.concatenate([split.train, *held_out])) == list(range(len(labels)))
    assert all((np.diff(part) > 0).all() for part in (split.train, *held_out))
    pool = labels
    for part, wanted in zip(held_out, (size, validation_size), strict=False):
        assert len(part) == wanted
        share = np.bincount(pool, minlength=8) * (wanted / len(pool))
        assert np.all(np.abs(np.bincount(labels[part], minlength=8) - share) < 1)
        pool = np.delete(labels, part)


@settings(deadline=None, max_examples=40)
@given(num_classes=num_classes_at_least_3, rate=rates, seed=seeds, name=st.sampled_from(["uniform", "patrini"]))
def test_more_noise_only_adds_to_less_noise(num_classes: int, rate: float, seed: int, name: str) -> None:
    """A label that is kept at a rate is kept at every lower one: rates are compared on the same images."""
    labels = some_labels(num_classes, seed)
    wrong = noisy(name, labels, num_classes, seed, rate=rate, **PAIRS[name]) != labels
    wrong_at_half = noisy(name, labels, num_classes, seed, rate=rate / 2, **PAIRS[name]) != labels
    assert not np.any(wrong_at_half & ~wrong)


# A change of any of these makes every finished run a different one: raise the version of what changed, then pin again.
PINNED_SPLITS = {
    "fold": "c7b3bbfd3b1b3fa3bb7c31325433c6bf1f90ab9ccfcfb8f7fbfd2cf7bfab9838",
    "clean_meta": "9bc0915b91e3b0157724113febc5f01206cc9f7fcb72282c46194eed3bc1cab0",
    "unstratified": "da04fda3bacbbc5988b4bb79126b8f07632a509395325bfd8c180df57d94e26e",
}
PINNED_NOISE = {
    "uniform": "f7dc57376d328d337a882bd4f0bf888ecea4adcdaf27f2cb9e2e33edcc50d16b",
    "flip": "a8e5758bdeb247c1a6b5339a3ef60c730834592a505b87d388d130937056c139",
    "flip2": "b638fe9474b28fe739cb459245e8aa6e4a934d32d511496e3d97fed3f4099a25",
    "patrini": "a8f394bb6fe91d0fd318f4f81e8d13ed233397241b3d55ed6f58f6554fd39fd0",
}
PINNED_DRAWS = "e6a58c0d8a417a95e065380f6d70541bfd1772a30bab8a96c48d60b0ab2ecffc"


def test_splits_are_the_same_everywhere() -> None:
    labels = np.arange(1000, dtype=np.int64) ** 2 % 11
    assert {
        "fold": make_split(SplitConfig(name="fold", fold=2), labels, 0).sha256,
        "clean_meta": make_split(SplitConfig(name="clean_meta", meta_size=100, validation_size=50), labels, 3).sha256,
        "unstratified": make_split(SplitConfig(name="fold", fold=2, stratified=False), labels, 0).sha256,
    } == PINNED_SPLITS


@pytest.mark.parametrize("name", ["uniform", "flip", "flip2", "patrini"])
def test_noise_is_the_same_everywhere(name: str) -> None:
    labels = np.arange(1000, dtype=np.int64) ** 2 % 11
    assert sha256_of(noisy(name, labels, 11, 3, rate=0.4)) == PINNED_NOISE[name]


def test_augmentation_is_the_same_everywhere() -> None:
    config = AugmentConfig(padding=4, horizontal_flip=True)
    draws = Transform(config, (0.5,), (0.5,), (1, 8, 8), torch.device("cpu")).draw(Stream(0, "augment", "train", 3), 1000)
    assert sha256_of(draws.numpy()) == PINNED_DRAWS


@given(seed=seeds)
def test_an_epoch_visits_each_image_once_in_an_order_of_its_own(seed: int) -> None:
    orders = [visit_order(seed, epoch, 50).tolist() for epoch in range(3)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert orders[0] != orders[1] != orders[2] != orders[0]
