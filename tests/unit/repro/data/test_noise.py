from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from repro.config import registry
from repro.config.fields import violations
from repro.config.schema import NoiseConfig
from repro.errors import UserError

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
