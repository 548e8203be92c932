"""Methods that read other runs: replayed, fixed and distilled targets, and what they refuse."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from made_inputs import (
    EPOCHS,
    NUM_CLASSES,
    NUM_INSTANCES,
    batch_at,
    build_method,
    fields,
    fold_inputs,
    made_data,
    make_context,
    write_teacher,
)
from made_models import build_model
from sealed import seal

from repro.config.compose import compose
from repro.config.identity import run_id
from repro.engine.method import Batch, Context, Method
from repro.errors import UserError
from repro.files import write_json
from repro.methods.fixed.distillation import Distillation
from repro.methods.fixed.fixed_labels import tempered
from repro.methods.shared.averaged_labels import averaged_labels
from repro.runs.inputs import Inputs, open_inputs

ROWS = torch.arange(NUM_INSTANCES)


def some_batch(method: Method, epoch: int = 0, step: int = 0) -> Batch:
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    scores = torch.full((3, NUM_CLASSES), 0.2).log()
    return batch_at(method, torch.tensor([4, 30, 11]), scores, epoch=epoch, step=step, inputs=images)


@pytest.mark.parametrize("kind", ["instance", "class"])
def test_replay_trains_on_the_label_of_the_moment(tmp_path: Path, kind: str) -> None:
    context = make_context(fold_inputs(tmp_path, kind)[0])
    method, labels = build_method("replay", context), averaged_labels(context)
    torch.testing.assert_close(method.targets(ROWS), labels.at(ROWS, 0, 0))
    for epoch, step in ((0, 3), (2, 1)):
        batch = some_batch(method, epoch, step)
        torch.testing.assert_close(method.coefficients(batch), labels.at(batch.rows, epoch, step) / 3)
        torch.testing.assert_close(method.targets(ROWS), labels.at(ROWS, epoch, step))
    assert method.trajectory is None
    assert not method.uses_meta


def test_replay_of_another_length_is_refused_unless_stretched(tmp_path: Path) -> None:
    context = make_context(fold_inputs(tmp_path, "instance")[0], epochs=5)
    with pytest.raises(UserError, match=r"optim.epochs=5, but the labels were recorded over 3 epochs.*method.align=fraction"):
        build_method("replay", context)
    build_method("replay", context, align="fraction")
    build_method("fixed_labels", context)


@pytest.mark.parametrize("kind", ["instance", "class"])
def test_fixed_labels_are_the_converged_ones_tempered(tmp_path: Path, kind: str) -> None:
    context = make_context(fold_inputs(tmp_path, kind)[0])
    last = averaged_labels(context).converged(1)
    torch.testing.assert_close(build_method("fixed_labels", context).targets(ROWS), last)
    for temperature in (0.25, 3.0):
        wanted = last ** (1 / temperature)
        found = build_method("fixed_labels", context, temperature=temperature)
        torch.testing.assert_close(found.targets(ROWS), wanted / wanted.sum(1, keepdim=True))
        batch = some_batch(found, 1, 1)
        torch.testing.assert_close(found.coefficients(batch), found.targets(batch.rows) / 3)
    with pytest.raises(UserError, match=r"method.last_epochs=4: must be at most the 3 epochs"):
        build_method("fixed_labels", context, last_epochs=EPOCHS + 1)


def test_tempering_keeps_zeros_and_sharpens_below_one() -> None:
    rows = torch.tensor([[0.5, 0.5, 0.0], [0.9, 0.1, 0.0]])
    torch.testing.assert_close(tempered(rows, 2.0)[0], rows[0])
    assert tempered(rows, 0.25)[1, 0] > 0.99
    assert (tempered(rows, 7.0)[:, 2] == 0).all()


def distilled(tmp_path: Path, **settings: Any) -> tuple[Distillation, Context]:
    context = make_context(Inputs(teacher=write_teacher(tmp_path)))
    method = build_method("distillation", context, **settings)
    return method, context


def teacher_logits(tmp_path: Path, images: torch.Tensor) -> torch.Tensor:
    from safetensors.torch import load_file

    model = build_model("digits_cnn", (1, 8, 8), NUM_CLASSES, width=4)
    model.load_state_dict(load_file(tmp_path / "one_hot-digits-teacher" / "model.safetensors"))
    logits: torch.Tensor = model.eval()(images)
    return logits.detach()


def test_distilled_targets_are_the_teacher_s_softened_predictions_for_the_student_s_view(tmp_path: Path) -> None:
    method, context = distilled(tmp_path, temperature=3.0, beta=0.7)
    batch = some_batch(method)
    soft = torch.softmax(teacher_logits(tmp_path, batch.inputs) / 3.0, 1)
    hot = F.one_hot(batch.observed, NUM_CLASSES).float()
    found = method.coefficients(batch)
    torch.testing.assert_close(found, (0.3 * hot + 0.7 * soft) / 3)
    assert not found.requires_grad  # the teacher is not trained
    images = made_data().train.images / 255.0
    clean = torch.softmax(teacher_logits(tmp_path, images) / 3.0, 1)
    torch.testing.assert_close(method.targets(ROWS), 0.3 * F.one_hot(context.observed, NUM_CLASSES) + 0.7 * clean)


def test_the_clean_view_is_predicted_once_for_each_image(tmp_path: Path) -> None:
    method, _ = distilled(tmp_path, target_view="clean")
    batch = some_batch(method)
    torch.testing.assert_close(method.coefficients(batch), method.targets(batch.rows) / 3)


@pytest.mark.parametrize(
    "settings", [{"student_temperature": 4.0}, {"scale_by_square": True}, {"student_temperature": 4.0, "scale_by_square": True}]
)
def test_loss_with_a_temperature_of_the_student(tmp_path: Path, settings: dict[str, Any]) -> None:
    method, _ = distilled(tmp_path, temperature=4.0, beta=0.9, **settings)
    batch = some_batch(method)
    logits = torch.randn(3, NUM_CLASSES, generator=torch.Generator().manual_seed(5), requires_grad=True)
    soft = torch.softmax(teacher_logits(tmp_path, batch.inputs) / 4.0, 1)
    own = torch.log_softmax(logits / settings.get("student_temperature", 1.0), 1)
    factor = 16.0 if "scale_by_square" in settings else 1.0
    wanted = 0.1 * F.cross_entropy(logits, batch.observed) - 0.9 * factor * (soft * own).sum(1).mean()
    found = method.loss(torch.log_softmax(logits, 1), batch)
    torch.testing.assert_close(found, wanted)
    slopes = [torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (found, wanted)]
    torch.testing.assert_close(slopes[0], slopes[1])


def test_teachers_that_do_not_fit_are_named(tmp_path: Path) -> None:
    teacher = write_teacher(tmp_path, normalization="cifar10")
    with pytest.raises(UserError, match=r"augment.normalization=dataset, but the teacher one_hot-digits-teacher was trained with cifar10"):
        build_method("distillation", make_context(Inputs(teacher=teacher)))
    wider = dataclasses.replace(teacher, fields={**teacher.fields, "model.width": 8, "augment.normalization": "dataset"})
    with pytest.raises(UserError, match=r"model.safetensors cannot be used"):
        build_method("distillation", make_context(Inputs(teacher=wider)))
    (teacher.folder / "model.safetensors").unlink()
    seal(teacher.folder)
    fits = dataclasses.replace(wider, fields={**wider.fields, "model.width": 4})
    with pytest.raises(UserError, match=r"has no model.safetensors: it was trained with exec.save_model=false"):
        build_method("distillation", make_context(Inputs(teacher=fits)))


def config(tmp_path: Path, *more: str) -> Any:
    return compose(["dataset=digits", "split=full", "seed=0", "tracker=none", f"paths.runs={tmp_path}", *more])


def finished(tmp_path: Path, name: str, *, accuracy: float | str = 0.9, state: str = "done", **more: Any) -> None:
    folder = tmp_path / name
    folder.mkdir()
    write_json(folder / "status.json", {"state": state})
    write_json(folder / "identity.json", {"run_id": name, "fields": fields(**more)})
    write_json(folder / "final.json", {"test/accuracy": {"last": accuracy}})
    seal(folder)


def refused(tmp_path: Path, *more: str) -> str:
    with pytest.raises(UserError) as caught:
        open_inputs(config(tmp_path, *more))
    return str(caught.value)


def test_inputs_are_opened_in_their_order_and_refused_with_a_reason(tmp_path: Path) -> None:
    for name in ("b", "a"):
        finished(tmp_path, name)
    opened = open_inputs(config(tmp_path, "method=replay", "inputs.labels=[b,a]"))
    assert [run.run_id for run in opened.labels] == ["b", "a"]
    assert opened.all == opened.labels
    assert "inputs.labels=['a', 'a']: a run is given twice" in refused(tmp_path, "method=replay", "inputs.labels=[a,a]")
    assert "method=replay reads other runs: set inputs.labels" in refused(tmp_path, "method=replay")
    assert "method=distillation reads other runs: set inputs.teacher" in refused(tmp_path, "method=distillation")
    assert "inputs.teacher is set, but method=one_hot" in refused(tmp_path, "method=one_hot", "inputs.teacher=a")
    assert "input c: there is no such run" in refused(tmp_path, "method=distillation", "inputs.teacher=c")
    finished(tmp_path, "failed", state="failed")
    assert "input failed is failed, not done" in refused(tmp_path, "method=distillation", "inputs.teacher=failed")
    finished(tmp_path, "diverged", accuracy="NaN")
    assert "input diverged has diverged" in refused(tmp_path, "method=distillation", "inputs.teacher=diverged")
    finished(tmp_path, "other", **{"dataset.name": "cifar10"})
    assert "input other was trained on cifar10, not on dataset=digits" in refused(tmp_path, "method=distillation", "inputs.teacher=other")
    (tmp_path / "a" / "final.json").write_text("{")
    assert "a/final.json is not what the run wrote" in refused(tmp_path, "method=distillation", "inputs.teacher=a")


def test_a_run_whose_input_is_missing_leaves_no_folder(tmp_path: Path) -> None:
    from repro.training.run import execute

    with pytest.raises(UserError, match="there is no such run"):
        execute(config(tmp_path, "method=replay", "inputs.labels=[a,b]"))
    assert list(tmp_path.iterdir()) == []


def test_inputs_and_their_order_are_part_of_the_id(tmp_path: Path) -> None:
    assert len({run_id(config(tmp_path, "method=replay", f"inputs.labels={labels}")) for labels in ("[a,b]", "[a,c]", "[b,a]")}) == 3
