from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from repro.config.schema import SplitConfig
from repro.data.splits import Split, draw, make_split
from repro.errors import UserError
from repro.randomness import Stream

LABELS = np.arange(1000, dtype=np.int64) % 7


def fold(number: int = 0, **settings: object) -> SplitConfig:
    return SplitConfig(name="fold", fold=number, **settings)  # type: ignore[arg-type]


def clean_meta(size: int, **settings: object) -> SplitConfig:
    return SplitConfig(name="clean_meta", meta_size=size, **settings)  # type: ignore[arg-type]


def parts(split: Split) -> list[np.ndarray]:
    found = [split.train]
    if split.meta is not None:
        found.append(split.meta)
    if split.validation is not None and split.validation is not split.meta:
        found.append(split.validation)
    return found


@pytest.mark.parametrize(
    "config",
    [
        SplitConfig(name="full"),
        fold(3),
        fold(3, validation_size=80),
        fold(3, stratified=False),
        clean_meta(50),
        clean_meta(50, validation_size=60),
        clean_meta(50, validation_size=60, stratified=False),
    ],
)
def test_every_image_is_in_exactly_one_sorted_set(config: SplitConfig) -> None:
    split = make_split(config, LABELS, seed=1)
    together = np.concatenate(parts(split))
    assert sorted(together) == list(range(1000))
    for part in parts(split):
        assert part.dtype == np.int64
        assert np.all(np.diff(part) > 0)


def test_the_meta_set_validates_unless_a_validation_set_is_asked_for() -> None:
    for config in (fold(), clean_meta(50), SplitConfig(name="full")):
        split = make_split(config, LABELS, seed=1)
        assert split.validation is split.meta


@pytest.mark.parametrize(("kind", "same", "sizes"), [(fold, "train", (800, 120, 80)), (clean_meta, "meta", (870, 50, 80))])
def test_a_validation_set_leaves_the_training_set_of_a_fold_and_a_clean_meta_set_as_they_are(
    kind: Callable[..., SplitConfig], same: str, sizes: tuple[int, int, int]
) -> None:
    alone, cut = (make_split(kind(50, **more) if kind is clean_meta else kind(**more), LABELS, 1) for more in ({}, {"validation_size": 80}))
    np.testing.assert_array_equal(getattr(alone, same), getattr(cut, same))
    assert tuple(map(len, parts(cut))) == sizes


def test_the_cut_follows_its_own_seed_before_the_run_s() -> None:
    assert make_split(fold(seed=0), LABELS, seed=1).sha256 == make_split(fold(seed=0), LABELS, seed=2).sha256
    assert make_split(fold(), LABELS, seed=1).sha256 != make_split(fold(), LABELS, seed=2).sha256
    assert make_split(fold(seed=0), LABELS, seed=1).sha256 == make_split(fold(), LABELS, seed=0).sha256


def test_the_hash_tells_every_cut_from_every_other() -> None:
    configs = [SplitConfig(name="full"), fold(0), fold(1), fold(0, validation_size=80), fold(0, stratified=False), clean_meta(50)]
    assert len({make_split(config, LABELS, seed=1).sha256 for config in configs}) == len(configs)


def test_without_stratification_classes_come_out_uneven() -> None:
    def spread(stratified: bool) -> int:
        meta = make_split(clean_meta(70, stratified=stratified), LABELS, seed=1).meta
        assert meta is not None
        return int(np.ptp(np.bincount(LABELS[meta], minlength=7)))

    assert spread(True) <= 1
    assert spread(False) > 1


def test_a_draw_of_everything_is_everything() -> None:
    np.testing.assert_array_equal(draw(LABELS, 1000, Stream(0, "folds"), stratified=True), np.arange(1000))
    assert len(draw(LABELS, 0, Stream(0, "folds"), stratified=True)) == 0


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (fold(num_folds=1001), r"split.num_folds=1001.*1000"),
        (fold(validation_size=200), r"split.validation_size=200.*200"),
        (clean_meta(1000), r"split.meta_size=1000.*1000"),
        (clean_meta(500, validation_size=500), r"split.meta_size=500.*split.validation_size=500.*1000"),
    ],
)
def test_a_size_that_does_not_fit_is_named(config: SplitConfig, words: str) -> None:
    with pytest.raises(UserError, match=words):
        make_split(config, LABELS, seed=1)
