"""Which labels may be changed is chosen on clean images, and may be none."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sealed import seal

from repro.errors import UserError
from repro.labels.doubt import MeanPredictions, choose_rule, likeliest_others, own, ratios, read_predictions

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
    predictions = MeanPredictions(np.arange(3000), observed, probabilities, own(probabilities, observed), clean, labels)
    rule, others = choose_rule(predictions), likeliest_others(probabilities)
    changed = own(ratios(probabilities, others), observed) > (rule.factor or np.inf)
    gain = float((np.where(changed, own(others, observed), observed) == true).mean() - (observed == true).mean())
    assert gain >= 0.0
    assert rule.gain == pytest.approx(gain, abs=0.05)
    assert (rule.factor is None) == (wrong == 0.0 or sure < 1.0)
    if sure == 3.0:
        assert rule.rate == pytest.approx(wrong, abs=0.05)


def test_a_run_without_predictions_is_refused(tmp_path: Path) -> None:
    seal(tmp_path)
    with pytest.raises(UserError, match=r"has no predictions\.npz"):
        read_predictions(tmp_path)
