"""Which labels may be changed is chosen on clean images, and may be none; the list is measured as the field does."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sealed import seal
from sklearn.metrics import average_precision_score, roc_auc_score

from repro.errors import UserError
from repro.labels.doubt import Predictions, choose_rule, likeliest_others, noise_rate, own, ranking, ratios, read_predictions

RANDOM = np.random.RandomState(0)


def predicted(count: int, sure: float, *, wrong: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return annotated and true classes (N,), of which a share is ``wrong``, and probabilities (N, 5): Dirichlet, ``sure`` of the truth."""
    true = RANDOM.randint(0, 5, count)
    annotated = np.where(RANDOM.rand(count) < wrong, (true + RANDOM.randint(1, 5, count)) % 5, true)
    probabilities = np.stack([RANDOM.dirichlet(0.3 + sure * np.eye(5)[one]) for one in true])
    return annotated, true, probabilities


def found(sure: float, *, wrong: float, clean: int = 500) -> tuple[Predictions, np.ndarray]:
    annotated, true, probabilities = predicted(3000, sure, wrong=wrong)
    labels, _, of_clean = predicted(clean, sure)
    return Predictions(np.arange(3000), annotated, probabilities, own(probabilities, annotated), of_clean, labels), true


@pytest.mark.parametrize("wrong", [0.0, 0.1, 0.4])
def test_the_noise_rate_is_found_where_the_network_does_not_remember(wrong: float) -> None:
    predictions, _ = found(3.0, wrong=wrong)
    assert noise_rate(predictions) == pytest.approx(wrong, abs=0.04)


@pytest.mark.parametrize(("sure", "wrong"), [(3.0, 0.4), (3.0, 0.1), (1.0, 0.4), (0.3, 0.1)])
def test_labels_that_the_rule_changes_become_right(sure: float, wrong: float) -> None:
    predictions, true = found(sure, wrong=wrong)
    rule, others = choose_rule(predictions), likeliest_others(predictions.probabilities)
    observed = predictions.observed
    changed = own(ratios(predictions.probabilities, others), observed) > (rule.factor or np.inf)
    after = np.where(changed, own(others, observed), observed)
    gain = float((after == true).mean() - (observed == true).mean())
    assert gain >= 0.0
    assert rule.gain == pytest.approx(gain, abs=0.03)
    assert (rule.factor is None) == (not changed.any())


def test_nothing_is_changed_without_clean_images_or_where_all_is_right() -> None:
    predictions, _ = found(1.0, wrong=0.0)
    assert choose_rule(predictions).factor is None
    none = replace(predictions, clean_probabilities=np.empty((0, 5)), clean_labels=np.empty(0, np.int64))
    assert choose_rule(none).clean == 0
    assert choose_rule(none).factor is None


def test_a_list_is_measured_as_the_field_does() -> None:
    scores, wrong = RANDOM.randint(0, 50, 400) / 50, RANDOM.rand(400) < 0.2
    # Equal scores are in the order of the images, for which the other's precision has no word.
    apart = scores - np.arange(400) * 1e-6
    measured = ranking(scores, wrong)
    assert measured["auroc"] == pytest.approx(roc_auc_score(wrong, scores))
    assert measured["average_precision"] == pytest.approx(average_precision_score(wrong, apart))
    assert ranking(np.array([4.0, 3, 2, 1]), np.array([True, False, True, False]))["false_negative_rate"] == 0.5


def test_a_run_without_predictions_or_that_diverged_is_refused(tmp_path: Path) -> None:
    seal(tmp_path)
    with pytest.raises(UserError, match=r"has no predictions\.npz"):
        read_predictions(tmp_path)
    arrays = {"probabilities": np.full((2, 3), np.nan), "margins": np.zeros(2), "observed": np.zeros(2, int), "indices": np.arange(2)}
    np.savez(tmp_path / "predictions.npz", **arrays)
    seal(tmp_path)
    with pytest.raises(UserError, match="had diverged"):
        read_predictions(tmp_path)
