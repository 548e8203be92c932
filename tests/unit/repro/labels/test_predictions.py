"""What is kept of a network's predictions for the training images: means over the visits, in a file that NumPy reads."""

import io
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from made_inputs import NUM_CLASSES, NUM_INSTANCES, batch_at, build_method, make_context

from repro.config.compose import compose
from repro.data.prepare import LabelledImages, RunData
from repro.data.transform import Transform
from repro.labels.predictions import CLEAN, Predictions
from repro.randomness import Stream


def data_with(**given: Any) -> RunData:
    indices = np.arange(NUM_INSTANCES) * 10
    known = {"observed": make_context().observed, "train_indices": indices, "num_classes": NUM_CLASSES, "validation": None}
    return cast(RunData, SimpleNamespace(**known | given))


def test_means_over_the_visits_of_probabilities_and_margins() -> None:
    predictions, method = Predictions(data_with(), 1), build_method("one_hot")
    first = torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.0], [0.5, 0.5, 0.0, 0.0, 0.0]]).log()
    second = torch.tensor([[0.1, 0.2, 0.6, 0.1, 0.0]]).log()
    # Annotated as classes 2 and 0.
    predictions.add(batch_at(method, torch.tensor([7, 0]), first), None)
    predictions.add(batch_at(method, torch.tensor([7]), second), None)
    found = np.load(io.BytesIO(predictions.content([])))
    assert set(found) == {"probabilities", "margins", "visits", "observed", "indices"}
    assert found["visits"][[7, 0, 1]].tolist() == [2, 1, 0]
    np.testing.assert_array_equal(found["indices"], np.arange(NUM_INSTANCES) * 10)
    np.testing.assert_allclose(found["probabilities"][7], [0.1, 0.2, 0.45, 0.25, 0.0], rtol=1e-6)
    np.testing.assert_allclose(found["margins"][[7, 0, 1]], [np.log([0.3 / 0.4, 0.6 / 0.2]).mean(), 0.0, 0.0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("count", "step"), [(7, 1), (3 * CLEAN + 5, 3)])
def test_clean_images_are_shown_as_in_training_and_of_many_some(count: int, step: int) -> None:
    images = LabelledImages(torch.randint(0, 256, (count, 1, 4, 4), dtype=torch.uint8), torch.arange(count) % NUM_CLASSES)
    config = compose(["method=one_hot", "dataset=digits", "seed=0", "augment=crop_flip", "augment.padding=1"]).augment
    transform = Transform(config, (0.5,), (0.5,), (1, 4, 4), torch.device("cpu"))
    predictions = Predictions(data_with(validation=images, transform=transform), 2)
    few = images.images[::step]
    draws = transform.draw(Stream("clean"), len(few))
    assert predictions.shown(Stream("clean")).images.equal(transform(few, draws))
    labels, sure = images.labels[::step], torch.eye(NUM_CLASSES)
    predictions.add_clean(1, sure[labels])
    predictions.add_clean(2, sure[torch.zeros_like(labels)])
    found = np.load(io.BytesIO(predictions.content([{}, {"train/accuracy": 0.25}, {"train/accuracy": 0.5}])))
    np.testing.assert_array_equal(found["clean_labels"], labels)
    np.testing.assert_array_equal(found["clean_probabilities"], (sure[labels] + sure[torch.zeros_like(labels)]) / 2)
    np.testing.assert_allclose(found["clean_accuracy"], [1.0, (labels == 0).double().mean()], rtol=1e-6)
    assert found["train_accuracy"].tolist() == [0.25, 0.5]
