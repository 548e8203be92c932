"""Which labels may be changed is chosen on clean images, and may be none."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sealed import seal

from repro.errors import UserError
from repro.labels.doubt import MeanPredictions, choose_rule, corrected, likeliest_others, measure, noise_rate, own, ratios, read_predictions

RANDOM, NOTHING = np.random.RandomState(0), np.empty(0)


def predicted(count: int, sure: float, wrong: float) -> tuple[Any, Any, Any]:
    """Return annotated and true classes (N,), a share of them ``wrong``, and probabilities (N, 5): Dirichlet, ``sure`` of the truth."""
    true = RANDOM.randint(0, 5, count)
    annotated = np.where(RANDOM.rand(count) < wrong, (true + RANDOM.randint(1, 5, count)) % 5, true)
    return annotated, true, np.stack([RANDOM.dirichlet(0.3 + sure * np.eye(5)[one]) for one in true])


@pytest.mark.parametrize(("sure", "wrong"), [(3.0, 0.4), (3.0, 0.1), (1.0, 0.4), (0.3, 0.1), (1.0, 0.0)])
def test_what_is_chosen_on_clean_images_holds_for_the_training_images(sure: float, wrong: float) -> None:
    """The network does not remember these annotations, so that the share of wrong ones is found, and what the rule gains."""
    observed, true, probabilities = predicted(3000, sure, wrong)
    labels, _, clean = predicted(500, sure, 0.0)
    predictions = MeanPredictions(
        np.arange(3000), observed, probabilities, own(probabilities, observed), None, clean, labels, NOTHING, NOTHING
    )
    rule, others = choose_rule(predictions), likeliest_others(probabilities)
    changed = own(ratios(probabilities, others), observed) > (rule.factor or np.inf)
    assert (corrected(predictions, rule) == np.where(changed, own(others, observed), observed)).all()
    gain = float((corrected(predictions, rule) == true).mean() - (observed == true).mean())
    measured = measure(predictions, true)
    assert measured.get("doubt/right_labels", 1.0) == pytest.approx((observed == true).mean() + gain)
    assert (not measured) == (wrong == 0.0)
    assert gain >= 0.0
    assert rule.gain == pytest.approx(gain, abs=0.05)
    assert (rule.factor is None) == (wrong == 0.0 or sure < 1.0)
    if sure == 3.0:
        assert rule.rate == pytest.approx(wrong, abs=0.05)


def remembered(accuracy: Any, of_training: Any) -> tuple[MeanPredictions, Any]:
    """Return predictions of a network that remembers 40% wrong annotations, with accuracies by epoch, and the true classes."""
    observed, true, probabilities = predicted(3000, 3.0, 0.4)
    labels, _, clean = predicted(500, 3.0, 0.0)
    kept = 0.1 * probabilities + 0.9 * np.eye(5)[observed]
    return MeanPredictions(np.arange(3000), observed, kept, own(kept, observed), None, clean, labels, accuracy, of_training), true


def test_of_annotations_that_a_network_remembers_as_many_are_changed_as_of_clean_ones() -> None:
    """By the ratio that is best on clean images none would be; early epochs tell how many are wrong."""
    accuracy = np.full(10, 0.8)
    found, true = remembered(accuracy, 0.6 * accuracy + 0.4 * 0.05)
    rule = choose_rule(found)
    assert rule.rate == pytest.approx(0.4)
    assert rule.factor is not None
    assert rule.factor < 0.2
    assert (corrected(found, rule) == true).mean() == pytest.approx(0.6 + rule.gain, abs=0.03)
    blind, _ = remembered(NOTHING, NOTHING)
    assert choose_rule(blind).factor is None


@pytest.mark.parametrize(
    ("accuracy", "of_training", "rate"),
    [
        # One epoch alone tells little, and so do epochs at chance, a network that learns while it is measured, less than five, a memory.
        ([0.8] * 12, [0.8] * 6 + [0.5] + [0.8] * 5, 0.08),
        ([0.2] * 12, [0.0] * 12, 0.0),
        ([0.5, 0.6, 0.7, 0.8, 0.9, 1.0], [0.0, 0.55, 0.65, 0.75, 0.85, 0.95], 0.0),
        ([0.8] * 4, [0.5] * 4, 0.24),
        ([0.5] * 12, [0.9] * 12, 0.0),
    ],
)
def test_epochs_tell_how_many_annotations_are_wrong(accuracy: Any, of_training: Any, rate: float) -> None:
    found, _ = remembered(np.array(accuracy), np.array(of_training))
    assert noise_rate(found) == pytest.approx(rate)


def test_each_score_is_measured_against_the_truth() -> None:
    """Of four annotations the second and the last are wrong: margins rank one of them third, trust both first."""
    observed, true = np.array([0, 1, 0, 1]), np.array([0, 0, 0, 0])
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7]])
    margins, none = np.array([2.0, -3.0, -1.0, 1.0]), np.empty((0, 2))
    found = MeanPredictions(np.arange(4), observed, probabilities, margins, None, none, observed[:0], NOTHING, NOTHING)
    assert measure(found, true) == pytest.approx(
        {
            "doubt/auroc": 0.75,
            "doubt/average_precision": (1 + 2 / 3) / 2,
            "doubt/false_negative_rate": 0.5,
            "doubt/probability_auroc": 0.5,
            "doubt/probability_average_precision": (1 / 2 + 2 / 3) / 2,
            "doubt/probability_false_negative_rate": 0.5,
            "doubt/right_labels": 0.5,
        }
    )
    trusted = measure(replace(found, trust=np.array([0.9, 0.2, 0.8, 0.1])), true)
    assert [trusted[f"doubt/trust_{name}"] for name in ("auroc", "average_precision", "false_negative_rate")] == [1.0, 1.0, 0.0]
    assert measure(found, observed) == {}


def test_a_run_without_predictions_is_refused(tmp_path: Path) -> None:
    seal(tmp_path)
    with pytest.raises(UserError, match=r"has no predictions\.npz"):
        read_predictions(tmp_path)
