"""Random numbers, splits and label noise: functions of names and seeds, the same everywhere and for ever."""

from typing import Any

import numpy as np
import pytest
import torch

from repro.config import registry
from repro.config.schema import SplitConfig
from repro.data.splits import make_split
from repro.data.types import CleanLabels
from repro.errors import UserError
from repro.randomness import Stream, seeded, sha256_of


def test_pinned_numbers() -> None:
    """If these change, every split, noise pattern and batch order of every published run changes."""
    assert Stream(0, "order", 3).permutation(8).tolist() == [0, 3, 2, 4, 1, 7, 5, 6]
    assert Stream(1, "noise").integers(6, 100).tolist() == [79, 52, 69, 53, 45, 9]
    assert Stream(0, "init").torch_seed() == 8862645507913195499
    draws = {Stream(*names).raw(1)[0] for names in [(0, "a"), (1, "a"), (0, "b"), (0, "a", 0), (0, "a", 1)]}
    assert len(draws) == 5


def test_hash_sees_values_types_and_shapes() -> None:
    base = np.arange(6)
    hashes = {sha256_of(base), sha256_of(base.reshape(2, 3)), sha256_of(base.astype(np.int32)), sha256_of(base + 1)}
    assert len(hashes) == 4
    assert sha256_of(base.astype(">i8")) == sha256_of(base.astype("<i8"))


def test_seeded_numbers_come_from_their_stream_and_leave_the_generator_alone() -> None:
    torch.manual_seed(5)
    wanted, drawn = torch.rand(2), []
    torch.manual_seed(5)
    for name in ("a", "a", "b"):
        with seeded(Stream(0, name)):
            drawn.append(torch.rand(3))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(torch.rand(2), wanted)


SEVENTHS = np.arange(1000, dtype=np.int64) % 7
FOLD, CLEAN, FULL = {"name": "fold", "fold": 0}, {"name": "clean_meta", "meta_size": 50}, {"name": "full"}


def split(settings: dict[str, Any], seed: int = 1, **more: Any) -> Any:
    return make_split(SplitConfig(**settings | more), SEVENTHS, seed)


@pytest.mark.parametrize(("settings", "same", "sizes"), [(FOLD, "train", (800, 120, 80)), (CLEAN, "meta", (870, 50, 80))])
def test_a_validation_set_leaves_the_training_set_of_a_fold_and_a_clean_meta_set_as_they_are(
    settings: dict[str, Any], same: str, sizes: tuple[int, int, int]
) -> None:
    alone, cut = split(settings), split(settings, validation_size=80)
    assert alone.validation is alone.meta  # unless a validation set is asked for
    np.testing.assert_array_equal(getattr(alone, same), getattr(cut, same))
    parts = (cut.train, cut.meta, cut.validation)
    assert tuple(map(len, parts)) == sizes
    assert sorted(np.concatenate(parts)) == list(range(1000))


def test_the_hash_tells_every_cut_from_every_other_and_the_cut_follows_its_own_seed_before_the_run_s() -> None:
    cuts = [split(FULL), split(FOLD), split(FOLD, fold=1), split(FOLD, validation_size=80), split(FOLD, stratified=False), split(CLEAN)]
    assert len({cut.sha256 for cut in [*cuts, split(FOLD, seed=2)]}) == 7
    assert split(FULL).validation is split(FULL).meta is None
    own = {make_split(SplitConfig(**FOLD, seed=1), SEVENTHS, seed).sha256 for seed in (1, 2)}
    assert own == {split(FOLD, seed=1).sha256}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (FOLD | {"num_folds": 1001}, r"split.num_folds=1001.*1000"),
        (FOLD | {"validation_size": 200}, r"split.validation_size=200.*200"),
        (CLEAN | {"meta_size": 500, "validation_size": 500}, r"split.meta_size=500.*split.validation_size=500.*1000"),
    ],
)
def test_a_size_that_does_not_fit_is_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        split(settings)


LABELS = np.arange(20_000, dtype=np.int64) % 10


def noisy(name: str, labels: np.ndarray = LABELS, num_classes: int = 10, seed: int = 0, **settings: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return noisy labels, and the transition matrix."""
    choice = registry.get("noise", name)
    config = choice.config(name=name, **settings if name == "none" else {"rate": 0.4, **settings})
    return choice.build(config, CleanLabels(labels, num_classes), seed), choice.transition(config, num_classes)


def transitions(observed: np.ndarray, labels: np.ndarray = LABELS, num_classes: int = 10) -> np.ndarray:
    """Return how often (K, K) each class was observed as each class, as fractions of its images."""
    counts = np.zeros((num_classes, num_classes))
    np.add.at(counts, (labels, observed), 1)
    return counts / counts.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *((name, {}) for name, choice in registry.choices("noise").items() if choice.transition),
        *((name, {"rate": 0.0}) for name, choice in registry.choices("noise").items() if choice.transition and name != "none"),
        ("uniform", {"include_true": False}),
        ("uniform", {"draw": "exact"}),
        ("patrini", {"pairs": "digits"}),
        ("patrini", {"pairs": "next"}),
    ],
)
def test_noise_is_a_copy_and_a_function_of_the_seed_and_confuses_classes_as_its_matrix_says(name: str, settings: dict[str, Any]) -> None:
    before = LABELS.copy()
    observed, matrix = noisy(name, **settings)
    np.testing.assert_array_equal(LABELS, before)
    assert not np.shares_memory(observed, LABELS)
    assert observed.dtype == np.int64
    np.testing.assert_array_equal(observed, noisy(name, **settings)[0])
    assert np.array_equal(observed, noisy(name, seed=1, **settings)[0]) == (name == "none" or settings.get("rate") == 0.0)
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0)
    # 2,000 images a class: five standard deviations of a share of 0.4 are 0.055.
    np.testing.assert_allclose(transitions(observed), matrix, atol=0.055)
    assert ((transitions(observed) > 0) == (matrix > 0)).all()


def test_patrini_pairs() -> None:
    def changed(**settings: str) -> dict[int, int]:
        return {a: int(b) for a, b in enumerate(noisy("patrini", np.arange(10), rate=1.0, **settings)[0]) if a != b}

    # truck -> automobile, bird -> airplane, cat <-> dog, deer -> horse
    assert changed() == {9: 1, 2: 0, 3: 5, 5: 3, 4: 7}
    assert changed(pairs="digits") == {2: 7, 3: 8, 5: 6, 6: 5, 7: 1}
    assert changed(pairs="next") == {a: (a + 1) % 10 for a in range(10)}
    np.testing.assert_array_equal(noisy("patrini", np.arange(100), 100, rate=1.0)[0], [*range(1, 100), 0])


def test_another_number_of_classes_than_the_pairs_is_named() -> None:
    with pytest.raises(UserError, match=r"flip2.*at least 3 classes.*has 2"):
        noisy("flip2", LABELS % 2, 2)
    with pytest.raises(UserError, match=r"noise.pairs=cifar10.*10 classes.*has 100.*next"):
        noisy("patrini", LABELS, 100, pairs="cifar10")
