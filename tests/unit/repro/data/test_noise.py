"""Random numbers, splits and label noise: functions of names and seeds, the same everywhere and for ever."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from repro.config import registry
from repro.config.fields import violations
from repro.config.schema import NoiseConfig, SplitConfig
from repro.data.splits import draw, make_split
from repro.errors import UserError
from repro.randomness import Stream, seeded, sha256_of


def test_pinned_numbers() -> None:
    """If these change, every split, noise pattern and batch order of every published run changes."""
    assert Stream(0, "order", 3).permutation(8).tolist() == [0, 3, 2, 4, 1, 7, 5, 6]
    assert Stream(1, "noise").integers(6, 100).tolist() == [79, 52, 69, 53, 45, 9]
    assert Stream(0, "init").torch_seed() == 8862645507913195499


def test_names_tell_streams_apart() -> None:
    draws = {Stream(*names).raw(1)[0] for names in [(0, "a"), (1, "a"), (0, "b"), (0, "a", 0), (0, "a", 1)]}
    assert len(draws) == 5


def test_uniform_fills_the_interval_evenly() -> None:
    values = Stream(0, "test").uniform(100_000)
    assert values.min() >= 0.0
    assert values.max() < 1.0
    assert np.histogram(values, 10, (0, 1))[0] == pytest.approx(10_000, abs=400)


def test_hash_sees_values_types_and_shapes() -> None:
    base = np.arange(6)
    hashes = {sha256_of(base), sha256_of(base.reshape(2, 3)), sha256_of(base.astype(np.int32)), sha256_of(base + 1)}
    assert len(hashes) == 4
    assert sha256_of(base.astype(">i8")) == sha256_of(base.astype("<i8"))


def test_seeded_numbers_come_from_their_stream_and_leave_the_generator_alone() -> None:
    import torch

    torch.manual_seed(5)
    wanted = torch.rand(2)
    torch.manual_seed(5)
    drawn = []
    for name in ("a", "a", "b"):
        with seeded(Stream(0, name)):
            drawn.append(torch.rand(3))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(torch.rand(2), wanted)


SEVENTHS = np.arange(1000, dtype=np.int64) % 7


def fold(number: int = 0, **settings: object) -> SplitConfig:
    return SplitConfig(name="fold", fold=number, **settings)


def clean_meta(size: int, **settings: object) -> SplitConfig:
    return SplitConfig(name="clean_meta", meta_size=size, **settings)


def test_the_meta_set_validates_unless_a_validation_set_is_asked_for() -> None:
    for config in (fold(), clean_meta(50), SplitConfig(name="full")):
        split = make_split(config, SEVENTHS, seed=1)
        assert split.validation is split.meta


@pytest.mark.parametrize(("kind", "same", "sizes"), [(fold, "train", (800, 120, 80)), (clean_meta, "meta", (870, 50, 80))])
def test_a_validation_set_leaves_the_training_set_of_a_fold_and_a_clean_meta_set_as_they_are(
    kind: Callable[..., SplitConfig], same: str, sizes: tuple[int, int, int]
) -> None:
    alone, cut = (
        make_split(kind(50, **more) if kind is clean_meta else kind(**more), SEVENTHS, 1) for more in ({}, {"validation_size": 80})
    )
    np.testing.assert_array_equal(getattr(alone, same), getattr(cut, same))
    parts = (cut.train, cut.meta, cut.validation)
    assert tuple(map(len, parts)) == sizes
    assert sorted(np.concatenate(parts)) == list(range(1000))


def test_the_cut_follows_its_own_seed_before_the_run_s() -> None:
    assert make_split(fold(seed=0), SEVENTHS, seed=1).sha256 == make_split(fold(seed=0), SEVENTHS, seed=2).sha256
    assert make_split(fold(), SEVENTHS, seed=1).sha256 != make_split(fold(), SEVENTHS, seed=2).sha256
    assert make_split(fold(seed=0), SEVENTHS, seed=1).sha256 == make_split(fold(), SEVENTHS, seed=0).sha256


def test_the_hash_tells_every_cut_from_every_other() -> None:
    configs = [SplitConfig(name="full"), fold(0), fold(1), fold(0, validation_size=80), fold(0, stratified=False), clean_meta(50)]
    assert len({make_split(config, SEVENTHS, seed=1).sha256 for config in configs}) == len(configs)


def test_without_stratification_classes_come_out_uneven() -> None:
    def spread(stratified: bool) -> int:
        meta = make_split(clean_meta(70, stratified=stratified), SEVENTHS, seed=1).meta
        return int(np.ptp(np.bincount(SEVENTHS[meta], minlength=7)))

    assert spread(True) <= 1
    assert spread(False) > 1


def test_a_draw_of_everything_is_everything() -> None:
    np.testing.assert_array_equal(draw(SEVENTHS, 1000, Stream(0, "folds"), stratified=True), np.arange(1000))
    assert len(draw(SEVENTHS, 0, Stream(0, "folds"), stratified=True)) == 0


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
        make_split(config, SEVENTHS, seed=1)


COUNT = 20_000
LABELS = np.arange(COUNT, dtype=np.int64) % 10
KINDS = ("none", "uniform", "flip", "flip2", "patrini")


def noisy(name: str, labels: np.ndarray = LABELS, num_classes: int = 10, seed: int = 0, **settings: Any) -> np.ndarray:
    choice = registry.get("noise", name)
    if name != "none":
        settings.setdefault("rate", 0.4)
    return choice.build(choice.config(name=name, **settings), labels, num_classes, seed)


def transitions(observed: np.ndarray, labels: np.ndarray = LABELS, num_classes: int = 10) -> np.ndarray:
    """Return how often (K, K) each class was observed as each class, as fractions of its images."""
    counts = np.zeros((num_classes, num_classes))
    np.add.at(counts, (labels, observed), 1)
    return counts / counts.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("name", KINDS)
def test_noise_is_a_copy_in_range_and_a_function_of_the_seed(name: str) -> None:
    before = LABELS.copy()
    observed = noisy(name)
    np.testing.assert_array_equal(LABELS, before)
    assert not np.shares_memory(observed, LABELS)
    assert observed.dtype == np.int64
    assert observed.min() >= 0
    assert observed.max() < 10
    np.testing.assert_array_equal(observed, noisy(name))
    assert (name == "none") == np.array_equal(observed, noisy(name, seed=1))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("none", {}),
        ("uniform", {}),
        ("uniform", {"include_true": False}),
        ("uniform", {"draw": "exact"}),
        ("flip", {}),
        ("flip2", {}),
        ("patrini", {}),
        ("patrini", {"pairs": "digits"}),
        ("patrini", {"pairs": "next"}),
        *((name, {"rate": 0.0}) for name in KINDS if name != "none"),
    ],
)
def test_the_transition_matrix_is_how_often_classes_are_confused(name: str, settings: dict[str, Any]) -> None:
    choice = registry.get("noise", name)
    more = settings if name == "none" else {"rate": 0.4, **settings}
    matrix = choice.transition(choice.config(name=name, **more), 10)
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0)
    # 2,000 images a class: five standard deviations of a share of 0.4 are 0.055.
    np.testing.assert_allclose(transitions(noisy(name, **settings)), matrix, atol=0.055)
    assert ((transitions(noisy(name, **settings)) > 0) == (matrix > 0)).all()


def test_which_labels_are_replaced_does_not_depend_on_what_by() -> None:
    both = noisy("uniform") != LABELS
    others = noisy("uniform", include_true=False) != LABELS
    # With the true class in the draw, a replaced label may stay right, but no other one becomes wrong.
    assert np.all(others[both])


@pytest.mark.parametrize(("name", "others"), [("flip", 1), ("flip2", 2)])
@pytest.mark.parametrize("map_seed", range(5))
def test_flips_mistake_a_class_for_so_many_other_classes_alike(name: str, others: int, map_seed: int) -> None:
    labels = LABELS % 4
    found = transitions(noisy(name, labels, 4, rate=1.0, map_seed=map_seed), labels, 4)
    assert np.all((found > 0).sum(axis=1) == others)
    assert np.all(np.diag(found) == 0)
    np.testing.assert_allclose(found[found > 0], 1 / others, atol=0.05)
    again = transitions(noisy(name, labels, 4, seed=1, rate=1.0, map_seed=map_seed), labels, 4)
    np.testing.assert_array_equal(again > 0, found > 0)


def test_patrini_pairs() -> None:
    one_of_each = np.arange(10, dtype=np.int64)
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    observed = noisy("patrini", one_of_each, rate=1.0)
    changed = {names[a]: names[b] for a, b in zip(one_of_each, observed, strict=True) if a != b}
    assert changed == {"truck": "automobile", "bird": "airplane", "cat": "dog", "dog": "cat", "deer": "horse"}
    observed = noisy("patrini", one_of_each, rate=1.0, pairs="digits")
    assert {a: b for a, b in enumerate(observed) if a != b} == {2: 7, 3: 8, 5: 6, 6: 5, 7: 1}
    hundred = np.arange(100, dtype=np.int64)
    np.testing.assert_array_equal(noisy("patrini", hundred, 100, rate=1.0), [*range(1, 100), 0])
    np.testing.assert_array_equal(noisy("patrini", one_of_each, rate=1.0, pairs="next"), [*range(1, 10), 0])


def test_another_number_of_classes_than_the_pairs_is_named() -> None:
    with pytest.raises(UserError, match=r"flip2.*at least 3 classes.*has 2"):
        noisy("flip2", LABELS % 2, 2)
    with pytest.raises(UserError, match=r"noise.pairs=cifar10.*10 classes.*has 100.*next"):
        noisy("patrini", LABELS, 100, pairs="cifar10")


@pytest.mark.parametrize("name", [name for name in KINDS if name != "none"])
def test_a_rate_out_of_range_is_named(name: str) -> None:
    config: NoiseConfig = registry.get("noise", name).config(name=name, rate=1.5)
    assert [*violations(config)] == ["rate=1.5: must be at least 0.0 and at most 1.0."]
