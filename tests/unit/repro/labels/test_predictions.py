"""What is kept of a network's predictions for the training images: means over the visits, in a file that NumPy reads."""

import io
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from made_inputs import NUM_CLASSES, NUM_INSTANCES, batch_at, build_method, make_context

from repro.data.prepare import RunData
from repro.labels.predictions import Predictions

DATA = cast(RunData, SimpleNamespace(observed=make_context().observed, train_indices=np.arange(NUM_INSTANCES) * 10))


def content(predictions: Predictions) -> Any:
    return np.load(io.BytesIO(predictions.content(DATA)), allow_pickle=False)


def test_means_over_the_visits_of_probabilities_and_margins() -> None:
    predictions = Predictions(NUM_INSTANCES, NUM_CLASSES, torch.device("cpu"))
    method = build_method("one_hot")
    first = torch.log_softmax(torch.randn(3, NUM_CLASSES, generator=torch.Generator().manual_seed(0)), dim=1)
    second = first[:2].roll(1, dims=1)
    predictions.add(batch_at(method, torch.tensor([7, 0, 3]), first), None)
    predictions.add(batch_at(method, torch.tensor([7, 0]), second), None)
    found = content(predictions)
    assert "trust" not in found
    assert found["visits"][[7, 0, 3, 1]].tolist() == [2, 2, 1, 0]
    np.testing.assert_array_equal(found["observed"], np.arange(NUM_INSTANCES) % NUM_CLASSES)
    np.testing.assert_array_equal(found["indices"], np.arange(NUM_INSTANCES) * 10)
    np.testing.assert_allclose(found["probabilities"][7], (first[0].exp() + second[0].exp()) / 2, rtol=1e-6)
    assert not found["probabilities"][1].any()
    # Image 7 is annotated as class 2.
    margins = [scores[2] - max(scores[k] for k in (0, 1, 3, 4)) for scores in (first[0].tolist(), second[0].tolist())]
    np.testing.assert_allclose(found["margins"][7], np.mean(margins), rtol=1e-5)


def test_trust_is_the_weight_of_an_image_the_probability_of_its_annotated_class_or_one_over_its_temperature() -> None:
    rows = torch.tensor([4, 9, 1])
    for name, settings, expected in (
        ("one_hot", {}, [1.0, 1.0, 1.0]),
        ("instance_labels", {"initial_target_probability": 0.7}, [0.7, 0.7, 0.7]),
        ("data_parameters", {"initial": 4.0}, [0.25, 0.25, 0.25]),
    ):
        method = build_method(name, **settings)
        batch = batch_at(method, rows)
        coefficients = None if name == "data_parameters" else method.coefficients(batch)
        torch.testing.assert_close(method.trust(batch, coefficients), torch.tensor(expected))
    focal = build_method("focal")
    assert focal.trust(batch_at(focal, rows), None) is None
