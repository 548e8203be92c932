"""Labels averaged over folds: which instance, which moment, which folds (C1, C2, C4, C9)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from made_inputs import BATCH_SIZE, EPOCHS, INITIAL, NUM_CLASSES, NUM_INSTANCES, fields, fold_inputs, make_context, write_trajectory
from sealed import seal

from repro.errors import UserError
from repro.methods.shared.averaged_labels import averaged_labels
from repro.runs.inputs import InputRun, Inputs

ROWS, CLASSES = torch.arange(NUM_INSTANCES), torch.arange(NUM_CLASSES)
FOLDS = 5
STEPS = NUM_INSTANCES // BATCH_SIZE


def row_in_fold(instance: int, fold: int) -> int:
    """Return where the instance stands among those that the fold trains on."""
    return sum(index % FOLDS != fold for index in range(instance))


def trained_on(instance: int) -> list[int]:
    return [fold for fold in range(FOLDS) if instance % FOLDS != fold]


def first_label(instance: int) -> np.ndarray:
    label = np.full(NUM_CLASSES, (1 - INITIAL) / (NUM_CLASSES - 1))
    label[instance % NUM_CLASSES] = INITIAL
    return label


def close(found: torch.Tensor, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(found.numpy(), wanted, rtol=0, atol=1e-6)


def normalised(values: np.ndarray) -> np.ndarray:
    return values / values.sum(-1, keepdims=True)


def test_replayed_label_is_the_mean_of_the_four_folds_at_their_visit_in_the_epoch(tmp_path: Path) -> None:
    inputs, values = fold_inputs(tmp_path, "instance")
    labels = averaged_labels(make_context(inputs))
    assert labels.align == "visit"
    for epoch in range(EPOCHS):
        wanted = []
        for instance in range(NUM_INSTANCES):
            own = [values[fold][epoch, row_in_fold(instance, fold)] for fold in trained_on(instance)]
            assert len(own) == FOLDS - 1
            wanted.append(np.mean(own, axis=0))
        for step in (0, STEPS - 1):  # the same wherever in the epoch this run visits it
            close(labels.at(ROWS, epoch, step), normalised(np.array(wanted)))
    shuffled = torch.tensor([31, 2, 17])
    assert torch.equal(labels.at(shuffled, 1, 0), labels.at(ROWS, 1, 0)[shuffled])


def test_all_folds_count_the_first_label_of_the_one_that_held_the_instance_out(tmp_path: Path) -> None:
    inputs, values = fold_inputs(tmp_path, "instance")
    labels = averaged_labels(make_context(inputs), folds="all")
    instance = 13
    own = [values[fold][1, row_in_fold(instance, fold)] for fold in trained_on(instance)]
    close(labels.at(torch.tensor([instance]), 1, 0)[0], normalised(np.mean([*own, first_label(instance)], axis=0)))


def test_mean_of_logits(tmp_path: Path) -> None:
    inputs, values = fold_inputs(tmp_path, "instance")
    labels = averaged_labels(make_context(inputs), mean="logit")
    instance = 8
    own = np.array([values[fold][2, row_in_fold(instance, fold)] for fold in trained_on(instance)])
    geometric = np.exp(np.log(np.maximum(own, 2.0**-24)).mean(0))
    close(labels.at(torch.tensor([instance]), 2, 0)[0], normalised(geometric))


def test_fraction_interpolates_between_visits_and_stretches_a_trajectory(tmp_path: Path) -> None:
    inputs, _ = fold_inputs(tmp_path, "instance")
    visits = averaged_labels(make_context(inputs))
    same = averaged_labels(make_context(inputs), align="fraction")
    # The middle of an epoch is where its visits are.
    torch.testing.assert_close(same.at(ROWS, 1, STEPS // 2), visits.at(ROWS, 1, 0))
    longer = averaged_labels(make_context(inputs, epochs=2 * EPOCHS), align="fraction")
    # Epoch 2 of 6, its last step: fraction 2.9 / 6, in visits 0.95 of the way from the first to the second.
    wanted = 0.05 * visits.at(ROWS, 0, 0) + 0.95 * visits.at(ROWS, 1, 0)
    torch.testing.assert_close(longer.at(ROWS, 2, STEPS - 1), wanted)
    torch.testing.assert_close(longer.at(ROWS, 0, 0), visits.at(ROWS, 0, 0))
    torch.testing.assert_close(longer.at(ROWS, 2 * EPOCHS - 1, STEPS - 1), visits.at(ROWS, EPOCHS - 1, 0))


def test_converged_is_the_last_epoch_or_the_mean_of_the_last(tmp_path: Path) -> None:
    inputs, _ = fold_inputs(tmp_path, "instance")
    labels = averaged_labels(make_context(inputs))
    last = [labels.at(ROWS, epoch, 0) for epoch in range(EPOCHS)]
    torch.testing.assert_close(labels.converged(1), last[-1])
    torch.testing.assert_close(labels.converged(2), (last[-1] + last[-2]) / 2)


def own_mass(found: torch.Tensor) -> np.ndarray:
    """Return the mass that the labels of one image of each class leave on it, (K,)."""
    torch.testing.assert_close(found.sum(1), torch.ones(NUM_CLASSES))
    return found.diagonal().numpy()


def test_class_labels_are_those_at_equal_fractions_of_training(tmp_path: Path) -> None:
    inputs, values = fold_inputs(tmp_path, "class")
    labels = averaged_labels(make_context(inputs))
    assert labels.align == "fraction"
    steps = values[0].shape[1]
    assert steps != STEPS
    for epoch, step in ((0, 0), (0, 3), (1, 2), (EPOCHS - 1, STEPS - 1)):
        # Step s stands for the fraction (s + 1/2) / steps; between two steps of a fold its numbers are interpolated.
        place = (epoch * STEPS + step + 0.5) / (EPOCHS * STEPS) * EPOCHS * steps - 0.5
        ends = np.arange(EPOCHS * steps)
        own = [[np.interp(place, ends, flat[:, k]) for k in range(NUM_CLASSES)] for flat in (v.reshape(-1, NUM_CLASSES) for v in values)]
        np.testing.assert_allclose(own_mass(labels.at(CLASSES, epoch, step)), 1.0 - np.mean(own, axis=0), atol=1e-6)


@pytest.mark.parametrize("mean", ["probability", "logit"])
def test_converged_class_labels_are_those_after_the_last_step(tmp_path: Path, mean: str) -> None:
    inputs, values = fold_inputs(tmp_path, "class")
    target = 1.0 - np.stack([v[-1, -1] for v in values])
    wanted = target.mean(0)
    if mean == "logit":
        on, off = np.exp(np.log(target).mean(0)), np.exp(np.log((1 - target) / (NUM_CLASSES - 1)).mean(0))
        wanted = on / (on + (NUM_CLASSES - 1) * off)
    np.testing.assert_allclose(own_mass(averaged_labels(make_context(inputs), mean=mean).converged(1)[CLASSES]), wanted, atol=1e-6)


def test_inputs_that_do_not_fit_are_named(tmp_path: Path) -> None:
    inputs, _ = fold_inputs(tmp_path, "instance")
    classes, _ = fold_inputs(tmp_path / "more", "class")

    def message(labels: tuple[InputRun, ...], **settings: str) -> str:
        with pytest.raises(UserError) as caught:
            averaged_labels(make_context(Inputs(labels)), **settings)
        return str(caught.value)

    assert "a fold is missing" in message(inputs.labels[:4])
    assert "8 of the 40 training images have a label in no input" in message(inputs.labels[:1])
    assert "some inputs have instance labels and some class labels" in message((*inputs.labels, classes.labels[0]))
    assert "method.align=visit: class labels can be aligned by fraction" in message(classes.labels, align="visit")
    short = tmp_path / "short"
    write_trajectory(short / "labels", "instance", np.full((2, 32, NUM_CLASSES), 0.2, np.float32), [i for i in range(40) if i % 5])
    seal(short)
    assert "input short has 2 epochs of labels, the first input 3" in message((*inputs.labels[1:], InputRun("short", short, fields())))


def test_folds_may_cover_more_than_the_run_trains_on(tmp_path: Path) -> None:
    """A run over a part of the images reads the labels of that part."""
    inputs, values = fold_inputs(tmp_path, "instance", num_folds=2)
    context = make_context(Inputs(inputs.labels[:1]))
    context.data.train_indices = np.array([3, 1, 39])
    part = make_context(Inputs(inputs.labels[:1]))
    part = type(part)(NUM_CLASSES, context.observed[[3, 1, 39]], part.device, 0, EPOCHS, 1, part.inputs, context.data)
    close(averaged_labels(part).at(torch.arange(3), 0, 0), normalised(values[0][0, [1, 0, 19]]))
