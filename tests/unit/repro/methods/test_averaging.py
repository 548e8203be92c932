"""Labels averaged over folds: which instance, which moment, which folds (C1, C2, C4, C9)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from made_inputs import BATCH_SIZE, EPOCHS, INITIAL, NUM_CLASSES, NUM_INSTANCES, fold_inputs, label_run, make_context

from repro.errors import UserError
from repro.methods.shared.averaged_labels import AveragedLabelsConfig, averaged_labels
from repro.runs.inputs import InputRun, Inputs

ROWS, CLASSES, FOLDS, STEPS = torch.arange(NUM_INSTANCES), torch.arange(NUM_CLASSES), 5, NUM_INSTANCES // BATCH_SIZE


def labels_of(values: list[np.ndarray], epoch: int, instance: int, *, folds: str) -> np.ndarray:
    """Return the labels (folds, K) of an instance, from the folds that train on it or, with its first label, from all."""
    result = []
    for fold, value in enumerate(values):
        row = sum(index % FOLDS != fold for index in range(instance))
        if instance % FOLDS != fold:
            result.append(value[epoch, row])
        elif folds == "all":
            first = np.full(NUM_CLASSES, (1 - INITIAL) / (NUM_CLASSES - 1), np.float32)
            first[instance % NUM_CLASSES] = INITIAL
            result.append(first)
    return np.array(result)


@pytest.mark.parametrize("folds", ["trained", "all"])
@pytest.mark.parametrize("mean", ["probability", "logit"])
def test_replayed_label_is_the_mean_of_the_folds_at_their_visit_in_the_epoch(tmp_path: Path, mean: str, folds: str) -> None:
    inputs, values = fold_inputs(tmp_path, "instance")
    labels = averaged_labels(make_context(inputs), AveragedLabelsConfig(mean=mean, folds=folds))
    for epoch in range(EPOCHS):
        each = [labels_of(values, epoch, instance, folds=folds) for instance in range(NUM_INSTANCES)]
        means = np.array([one.mean(0) if mean == "probability" else np.exp(np.log(np.maximum(one, 2.0**-24)).mean(0)) for one in each])
        for step in (0, STEPS - 1):  # the same wherever in the epoch this run visits it
            np.testing.assert_allclose(labels.at(ROWS, epoch, step).numpy(), means / means.sum(1, keepdims=True), atol=1e-6)
    shuffled = torch.tensor([31, 2, 17])
    assert torch.equal(labels.at(shuffled, 1, 0), labels.at(ROWS, 1, 0)[shuffled])
    last = [labels.at(ROWS, epoch, 0) for epoch in (-2 + EPOCHS, -1 + EPOCHS)]
    torch.testing.assert_close(labels.converged(1), last[1])
    torch.testing.assert_close(labels.converged(2), (last[0] + last[1]) / 2)


def test_fraction_interpolates_between_visits_and_stretches_a_trajectory(tmp_path: Path) -> None:
    inputs, _ = fold_inputs(tmp_path, "instance")
    visits = averaged_labels(make_context(inputs), AveragedLabelsConfig())
    same = averaged_labels(make_context(inputs), AveragedLabelsConfig(), "fraction")
    # The middle of an epoch is where its visits are.
    torch.testing.assert_close(same.at(ROWS, 1, STEPS // 2), visits.at(ROWS, 1, 0))
    longer = averaged_labels(make_context(inputs, epochs=2 * EPOCHS), AveragedLabelsConfig(), "fraction")
    # Epoch 2 of 6, its last step: fraction 2.9 / 6, in visits 0.95 of the way from the first to the second.
    torch.testing.assert_close(longer.at(ROWS, 2, STEPS - 1), 0.05 * visits.at(ROWS, 0, 0) + 0.95 * visits.at(ROWS, 1, 0))
    torch.testing.assert_close(longer.at(ROWS, 0, 0), visits.at(ROWS, 0, 0))
    torch.testing.assert_close(longer.at(ROWS, 2 * EPOCHS - 1, STEPS - 1), visits.at(ROWS, EPOCHS - 1, 0))


@pytest.mark.parametrize("mean", ["probability", "logit"])
def test_class_labels_are_those_at_equal_fractions_of_training(tmp_path: Path, mean: str) -> None:
    inputs, values = fold_inputs(tmp_path, "class")
    labels, steps = averaged_labels(make_context(inputs), AveragedLabelsConfig(mean=mean)), values[0].shape[1]
    assert steps != STEPS

    def check(found: torch.Tensor, alphas: np.ndarray) -> None:
        wanted = (1.0 - alphas).mean(0)
        if mean == "logit":
            on, off = np.exp(np.log(1.0 - alphas).mean(0)), np.exp(np.log(alphas / (NUM_CLASSES - 1)).mean(0))
            wanted = on / (on + (NUM_CLASSES - 1) * off)
        torch.testing.assert_close(found.sum(1), torch.ones(NUM_CLASSES))
        np.testing.assert_allclose(found.diagonal().numpy(), wanted, atol=1e-6)

    for epoch, step in ((0, 0), (0, 3), (1, 2), (EPOCHS - 1, STEPS - 1)):
        # Step s stands for the fraction (s + 1/2) / steps; between two steps of a fold its numbers are interpolated.
        place, ends = (epoch * STEPS + step + 0.5) / (EPOCHS * STEPS) * EPOCHS * steps - 0.5, np.arange(EPOCHS * steps)
        flat = [value.reshape(-1, NUM_CLASSES) for value in values]
        check(labels.at(CLASSES, epoch, step), np.array([[np.interp(place, ends, v[:, k]) for k in range(NUM_CLASSES)] for v in flat]))
    check(labels.converged(1)[CLASSES], np.stack([value[-1, -1] for value in values]))


def test_inputs_that_do_not_fit_are_named(tmp_path: Path) -> None:
    def message(labels: tuple[InputRun, ...], **settings: str) -> str:
        with pytest.raises(UserError) as caught:
            averaged_labels(make_context(Inputs(labels)), AveragedLabelsConfig(), **settings)
        return str(caught.value)

    runs, classes = fold_inputs(tmp_path, "instance")[0].labels, fold_inputs(tmp_path, "class")[0].labels
    assert "in 3 inputs, some in 4: a fold is missing" in message(runs[:4])
    assert "in 0 inputs, some in 1: a fold is missing" in message(runs[:1])
    assert "3 epochs of class labels of 5 classes, where 3 epochs of instance labels of 5 classes" in message((*runs, classes[0]))
    assert "class labels, which have no visits" in message(classes, align="visit")
    short = label_run(tmp_path / "short", "instance", np.full((2, 32, NUM_CLASSES), 0.2, np.float32), [i for i in range(40) if i % 5])
    assert "input short has 2 epochs of instance labels" in message((*runs[1:], short))
