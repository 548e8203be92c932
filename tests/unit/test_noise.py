from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from repro import registry
from repro.config import NoiseConfig
from repro.errors import UserError
from repro.fields import violations

COUNT = 20_000
LABELS = np.arange(COUNT, dtype=np.int64) % 10
KINDS = ("none", "uniform", "flip", "flip2", "patrini")


def noisy(name: str, labels: np.ndarray = LABELS, num_classes: int = 10, seed: int = 0, **settings: Any) -> np.ndarray:
    choice = registry.get("noise", name)
    if name != "none":
        settings.setdefault("rate", 0.4)
    result: np.ndarray = choice.build(choice.config(name=name, **settings), labels, num_classes, seed)
    return result


def transitions(observed: np.ndarray, labels: np.ndarray = LABELS, num_classes: int = 10) -> np.ndarray:
    """Return how often (K, K) each class was observed as each class, as fractions of its images."""
    counts = np.zeros((num_classes, num_classes))
    np.add.at(counts, (labels, observed), 1)
    return counts / counts.sum(axis=1, keepdims=True)


def test_all_kinds_are_there() -> None:
    assert set(registry.choices("noise")) >= set(KINDS)


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


@pytest.mark.parametrize("name", [name for name in KINDS if name != "none"])
def test_rate_zero_changes_nothing(name: str) -> None:
    np.testing.assert_array_equal(noisy(name, rate=0.0), LABELS)


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


def test_none_changes_nothing() -> None:
    np.testing.assert_array_equal(noisy("none"), LABELS)


@pytest.mark.parametrize(
    ("name", "settings", "effective"),
    [
        ("uniform", {}, 0.36),
        ("uniform", {"draw": "exact"}, 0.36),
        ("uniform", {"include_true": False}, 0.4),
        ("flip", {}, 0.4),
        ("flip2", {}, 0.4),
        ("patrini", {"pairs": "next"}, 0.4),
        ("patrini", {"pairs": "cifar10"}, 0.2),
        ("patrini", {"pairs": "digits"}, 0.2),
    ],
)
def test_the_effective_rate_is_the_documented_one(name: str, settings: dict[str, Any], effective: float) -> None:
    standard_error = np.sqrt(effective * (1 - effective) / COUNT)
    assert abs(np.mean(noisy(name, **settings) != LABELS) - effective) < 4 * standard_error


def test_uniform_draws_all_classes_alike() -> None:
    found = transitions(noisy("uniform", rate=1.0))
    np.testing.assert_allclose(found, 0.1, atol=0.03)
    # What a label is replaced by has nothing to do with whether it is replaced.
    np.testing.assert_allclose(transitions(noisy("uniform", rate=0.4)), 0.04 + 0.6 * np.eye(10), atol=0.05)
    assert transitions(noisy("uniform", rate=0.4)).min() > 0.02
    without = transitions(noisy("uniform", rate=1.0, include_true=False))
    np.testing.assert_allclose(without, (1 - np.eye(10)) / 9, atol=0.03)
    assert np.all(np.diag(without) == 0)


def test_exact_draws_an_exact_number() -> None:
    assert np.sum(noisy("uniform", draw="exact", include_true=False, rate=0.12345) != LABELS) == round(0.12345 * COUNT)
    assert np.all(noisy("uniform", draw="exact", include_true=False, rate=1.0) != LABELS)


def test_which_labels_are_replaced_does_not_depend_on_what_by() -> None:
    both = noisy("uniform") != LABELS
    others = noisy("uniform", include_true=False) != LABELS
    # With the true class in the draw, a replaced label may stay right, but no other one becomes wrong.
    assert np.all(others[both])


def test_flip_mistakes_a_class_for_one_other_class() -> None:
    found = transitions(noisy("flip"))
    off = found - np.diag(np.diag(found))
    assert np.all((off > 0).sum(axis=1) == 1)
    np.testing.assert_allclose(off.sum(axis=1), 0.4, atol=0.05)


def test_flip2_mistakes_a_class_for_two_other_classes_alike() -> None:
    found = transitions(noisy("flip2"))
    off = found - np.diag(np.diag(found))
    assert np.all((off > 0).sum(axis=1) == 2)
    np.testing.assert_allclose(off[off > 0], 0.2, atol=0.05)


@pytest.mark.parametrize("map_seed", range(10))
def test_flip2_finds_two_different_classes(map_seed: int) -> None:
    for num_classes in (3, 4):
        labels = LABELS % num_classes
        found = transitions(noisy("flip2", labels, num_classes, rate=1.0, map_seed=map_seed), labels, num_classes)
        assert np.all((found > 0).sum(axis=1) == 2)


@pytest.mark.parametrize("name", ["flip", "flip2"])
def test_the_class_map_follows_the_map_seed_alone(name: str) -> None:
    def reached(**settings: Any) -> np.ndarray:
        return transitions(noisy(name, **settings)) > 0

    np.testing.assert_array_equal(reached(seed=0), reached(seed=1))
    assert not np.array_equal(reached(), reached(map_seed=2))


@pytest.mark.parametrize("seed", range(20))
def test_flip_maps_never_lead_to_the_class_itself(seed: int) -> None:
    for name, num_classes in (("flip", 2), ("flip", 5), ("flip2", 3), ("flip2", 5)):
        labels = np.arange(num_classes, dtype=np.int64)
        assert np.all(noisy(name, labels, num_classes, rate=1.0, map_seed=seed) != labels)


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


def test_too_few_or_too_many_classes_are_named() -> None:
    with pytest.raises(UserError, match=r"flip2.*at least 3 classes.*has 2"):
        noisy("flip2", LABELS % 2, 2)
    with pytest.raises(UserError, match=r"noise.pairs=cifar10.*10 classes.*has 100.*next"):
        noisy("patrini", LABELS, 100, pairs="cifar10")


@pytest.mark.parametrize("name", [name for name in KINDS if name != "none"])
def test_a_rate_out_of_range_is_named(name: str) -> None:
    config: NoiseConfig = registry.get("noise", name).config(name=name, rate=1.5)
    assert [*violations(config)] == ["rate=1.5: must be at least 0.0 and at most 1.0."]
