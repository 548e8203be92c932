"""Which way the gradient of instance labels points, counted by hand."""

import torch
from made_inputs import build_method

from repro.engine.label_gradient import GradientDirections
from repro.engine.method import Batch, Context


def test_visits_are_counted_by_whether_the_annotation_is_right() -> None:
    observed, true = torch.tensor([0, 0, 0, 0]), torch.tensor([0, 0, 1, 2])
    directions = GradientDirections(build_method("instance_labels", Context(3, observed, torch.device("cpu"), 0)), observed, true)
    # Correctly labelled: the mass on class 0 is 0.9, so a gradient of -1 there lies below the mean, and one of +1 above it.
    gradient, rows = torch.tensor([[-1.0, 0, 0], [1.0, 0, 0], [9.0, 0.5, 9.4], [9.0, 0.5, 9.6]]), torch.arange(4)
    directions.count(Batch(rows, observed, gradient), gradient)
    assert directions.metrics() == {"label/gradient_right_clean": 0.5, "label/gradient_right_noisy": 0.5}
    directions.count(Batch(rows[3:], observed[3:], gradient[3:]), gradient[3:])
    assert directions.metrics() == {"label/gradient_right_noisy": 0.0}
