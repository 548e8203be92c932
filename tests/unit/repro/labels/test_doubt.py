"""Which labels may be changed is chosen on clean images, and may be none."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sealed import seal

from repro.errors import UserError
from repro.labels.doubt import MeanPredictions, choose_rule, corrected, likeliest_others, measure, own, ratios, read_predictions

RANDOM = np.random.RandomState(0)


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
    predictions = MeanPredictions(np.arange(3000), observed, probabilities, own(probabilities, observed), None, clean, labels)
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


def test_each_score_is_measured_against_the_truth() -> None:
    """Of four annotations the second and the last are wrong: margins rank one of them third, trust both first."""
    observed, true = np.array([0, 1, 0, 1]), np.array([0, 0, 0, 0])
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7]])
    found = MeanPredictions(np.arange(4), observed, probabilities, np.array([2.0, -3.0, -1.0, 1.0]), None, np.empty((0, 2)), observed[:0])
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
