"""What is kept of a network's predictions for the training images: means over the visits, in a file that NumPy reads."""

import io
from types import SimpleNamespace
from typing import cast

import numpy as np
import torch
from made_inputs import NUM_CLASSES, NUM_INSTANCES, batch_at, build_method, make_context

from repro.data.prepare import RunData
from repro.labels.predictions import Predictions

DATA = cast(RunData, SimpleNamespace(observed=make_context().observed, train_indices=np.arange(NUM_INSTANCES) * 10, validation=None))


def test_means_over_the_visits_of_probabilities_and_margins() -> None:
    predictions, method = Predictions(NUM_INSTANCES, NUM_CLASSES, torch.device("cpu")), build_method("one_hot")
    first = torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.0], [0.5, 0.5, 0.0, 0.0, 0.0]]).log()
    second = torch.tensor([[0.1, 0.2, 0.6, 0.1, 0.0]]).log()
    # Annotated as classes 2 and 0.
    predictions.add(batch_at(method, torch.tensor([7, 0]), first), None)
    predictions.add(batch_at(method, torch.tensor([7]), second), None)
    found = np.load(io.BytesIO(predictions.content(DATA)))
    assert set(found) == {"probabilities", "margins", "visits", "observed", "indices"}
    assert found["visits"][[7, 0, 1]].tolist() == [2, 1, 0]
    np.testing.assert_array_equal(found["indices"], np.arange(NUM_INSTANCES) * 10)
    np.testing.assert_allclose(found["probabilities"][7], [0.1, 0.2, 0.45, 0.25, 0.0], rtol=1e-6)
    np.testing.assert_allclose(found["margins"][[7, 0, 1]], [np.log([0.3 / 0.4, 0.6 / 0.2]).mean(), 0.0, 0.0], rtol=1e-5, atol=1e-6)
