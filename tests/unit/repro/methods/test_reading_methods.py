"""Methods that read other runs: replayed, fixed and distilled targets, and what they refuse."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from made_inputs import NUM_CLASSES, NUM_INSTANCES, batch_at, build_method, fold_inputs, made_data, make_context, make_network, teacher_run

from repro.engine.method import Batch, Method
from repro.errors import UserError
from repro.methods.shared.averaged_labels import AveragedLabelsConfig, averaged_labels
from repro.runs.inputs import Inputs

ROWS = torch.arange(NUM_INSTANCES)


def some_batch(method: Method, epoch: int = 0, step: int = 0) -> Batch:
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return batch_at(method, torch.tensor([4, 30, 11]), epoch=epoch, step=step, inputs=images)


@pytest.mark.parametrize("kind", ["instance", "class"])
def test_replay_trains_on_the_label_of_the_moment(tmp_path: Path, kind: str) -> None:
    context = make_context(fold_inputs(tmp_path, kind)[0])
    method, labels = build_method("replay", context), averaged_labels(context, AveragedLabelsConfig())
    torch.testing.assert_close(method.targets(ROWS), labels.at(ROWS, 0, 0))
    for epoch, step in ((0, 3), (2, 1)):
        batch = some_batch(method, epoch, step)
        torch.testing.assert_close(method.coefficients(batch), labels.at(batch.rows, epoch, step) / 3)
        torch.testing.assert_close(method.targets(ROWS), labels.at(ROWS, epoch, step))


def test_replay_of_another_length_is_refused_unless_stretched(tmp_path: Path) -> None:
    context = make_context(fold_inputs(tmp_path, "instance")[0], epochs=5)
    with pytest.raises(UserError, match=r"optim.epochs=5, but the labels were recorded over 3 epochs.*method.align=fraction"):
        build_method("replay", context)
    build_method("replay", context, align="fraction")
    with pytest.raises(UserError, match=r"method.last_epochs=4: must be at most the 3 epochs"):
        build_method("fixed_labels", context, last_epochs=4)


@pytest.mark.parametrize("temperature", [1.0, 0.25, 3.0])
@pytest.mark.parametrize("kind", ["instance", "class"])
def test_fixed_labels_are_the_converged_ones_tempered(tmp_path: Path, kind: str, temperature: float) -> None:
    context = make_context(fold_inputs(tmp_path, kind)[0])
    method = build_method("fixed_labels", context, temperature=temperature)
    wanted = averaged_labels(context, AveragedLabelsConfig()).converged(1) ** (1 / temperature)
    torch.testing.assert_close(method.targets(ROWS), wanted / wanted.sum(1, keepdim=True))
    batch = some_batch(method, 1, 1)
    torch.testing.assert_close(method.coefficients(batch), method.targets(batch.rows) / 3)


def teacher_predictions(images: torch.Tensor, temperature: float) -> torch.Tensor:
    return torch.softmax(make_network("teacher").eval()(images) / temperature, 1).detach()


@pytest.mark.parametrize("view", ["augmented", "clean"])
def test_distilled_targets_are_the_teacher_s_softened_predictions_for_the_view(tmp_path: Path, view: str) -> None:
    context = make_context(Inputs(teacher=teacher_run(tmp_path)))
    method = build_method("distillation", context, temperature=3.0, beta=0.7, target_view=view)
    batch, images = some_batch(method), made_data().train.images / 255.0
    hot = F.one_hot(context.observed, NUM_CLASSES)
    soft = teacher_predictions(batch.inputs if view == "augmented" else images[batch.rows], 3.0)
    coefficients = method.coefficients(batch)
    torch.testing.assert_close(coefficients, (0.3 * hot[batch.rows] + 0.7 * soft) / 3)
    assert not coefficients.requires_grad  # the teacher is not trained
    torch.testing.assert_close(method.targets(ROWS), 0.3 * hot + 0.7 * teacher_predictions(images, 3.0))
    assert method.state_dict() == {}  # and no part of the run's state


@pytest.mark.parametrize("settings", [{"student_temperature": 4.0}, {"student_temperature": 4.0, "scale_by_square": True}])
def test_loss_with_a_temperature_of_the_student(tmp_path: Path, settings: dict[str, Any]) -> None:
    method = build_method("distillation", make_context(Inputs(teacher=teacher_run(tmp_path))), temperature=4.0, beta=0.9, **settings)
    batch = some_batch(method)
    logits = torch.randn(3, NUM_CLASSES, generator=torch.Generator().manual_seed(5), requires_grad=True)
    taught = (teacher_predictions(batch.inputs, 4.0) * torch.log_softmax(logits / 4.0, 1)).sum(1).mean()
    wanted = 0.1 * F.cross_entropy(logits, batch.observed) - 0.9 * (16.0 if "scale_by_square" in settings else 1.0) * taught
    loss = method.loss(torch.log_softmax(logits, 1), batch)
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(*(torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (loss, wanted)))


def test_teachers_that_do_not_fit_are_named(tmp_path: Path) -> None:
    teacher = teacher_run(tmp_path)
    other = dataclasses.replace(teacher, fields={**teacher.fields, "augment.normalization": "cifar10"})
    with pytest.raises(UserError, match=r"augment.normalization=dataset, but the teacher one_hot-digits-teacher was trained with cifar10"):
        build_method("distillation", make_context(Inputs(teacher=other)))
    (teacher.folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"has no model.safetensors: it was trained with exec.save_model=false"):
        build_method("distillation", make_context(Inputs(teacher=teacher)))
