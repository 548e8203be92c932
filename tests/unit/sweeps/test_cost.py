from pathlib import Path
from typing import Any

import pytest

from repro.config import registry
from repro.config.compose import compose
from repro.config.identity import scientific_fields
from repro.config.schema import Config
from repro.data.sources.digits import DigitsConfig
from repro.data.splits import make_split
from repro.files import write_json
from repro.runs.manifest import seal
from repro.training import guard
from sweeps.plan.cost import ASSUMED_REACHED, COUNTED, FINISHED, Estimate, estimate
from sweeps.plan.counting import count_forward, count_step
from sweeps.plan.gpus import AUDIT, GPUS, Execution, auto
from sweeps.plan.plan import Plan, PlannedRun
from sweeps.plan.roofline import Counted, Work, seconds
from sweeps.report import print_basis

A100 = GPUS["a100"]


def test_the_sizes_of_digits_are_those_of_the_dataset() -> None:
    raw = registry.get("dataset", "digits").build(DigitsConfig(name="digits"), Path())
    size = registry.get("dataset", "digits").size
    assert size == registry.DatasetSize(len(raw.train.labels), len(raw.test.labels), raw.image_shape, raw.num_classes)


def test_every_dataset_that_comes_with_the_suite_has_its_size() -> None:
    assert [name for name, choice in registry.choices("dataset").items() if choice.size is None] == []


def config_of(*overrides: str) -> Config:
    return compose(["seed=0", *overrides])


def planned(name: str, *overrides: str, state: str = "missing", **more: Any) -> PlannedRun:
    fields = scientific_fields(config_of(*overrides)) | more
    return PlannedRun(run_id=name, overrides=overrides, fields=fields, state=state, inputs=(), specs=("s",), place=name, stage=0)


def plan_of(folder: Path, *runs: PlannedRun) -> Plan:
    return Plan(folder=folder, specs=(), runs={run.run_id: run for run in runs})


def hours(*parts: tuple[float, Counted]) -> float:
    return sum(times * seconds(counted, A100, auto(A100)).whole for times, counted in parts) / 3600 / ASSUMED_REACHED


def step(model: str, *, meta_batch: int = 0) -> Counted:
    """A step of 128 images of CIFAR-100."""
    return count_step(model, _SETTINGS[model], (3, 32, 32), 100, batch=128, **({"meta_batch": meta_batch} if meta_batch else {}))


def evaluation(model: str) -> Counted:
    """1000 images of CIFAR-100."""
    return count_forward(model, _SETTINGS[model], (3, 32, 32), 100, images=1000)


_SETTINGS = {"alexnet": "{}", "resnet18": '{"width": 64}'}


def only(folder: Path, *overrides: str, **more: Any) -> Estimate:
    return estimate(plan_of(folder, planned("a", *overrides, **more))).runs["a"]


CIFAR = ("dataset=cifar100", "optim.epochs=10")


def test_a_plain_run_is_its_steps_and_its_evaluations(tmp_path: Path) -> None:
    found = only(tmp_path, "method=one_hot", "split=full", *CIFAR)
    assert found.basis == COUNTED
    assert found.gpu_hours == pytest.approx(hours((50_000 * 10 / 128, step("resnet18")), (11 * 10, evaluation("resnet18"))))


def test_a_run_that_learns_labels_looks_ahead_where_it_learns(tmp_path: Path) -> None:
    settings = ("method=class_labels", "split=fold", "split.fold=0", *CIFAR)
    evaluated, steps = (11 * (10 + 10), evaluation("resnet18")), 40_000 / 128
    look, plain = step("resnet18", meta_batch=256), step("resnet18")
    assert only(tmp_path, *settings).gpu_hours == pytest.approx(hours((10 * steps, look), evaluated))
    every_other = only(tmp_path, *settings, "meta.interval=2")
    assert every_other.gpu_hours == pytest.approx(hours((5 * steps, look), (5 * steps, plain), evaluated))
    late = only(tmp_path, *settings, "method.warmup_epochs=4")
    assert late.gpu_hours == pytest.approx(hours((6 * steps, look), (4 * steps, plain), evaluated))


def test_learned_labels_lie_in_the_memory_of_the_gpu(tmp_path: Path) -> None:
    settings = ("split=fold", "split.fold=0", *CIFAR)
    instance, classes = (only(tmp_path, f"method={name}", *settings).work for name in ("instance_labels", "class_labels"))
    assert instance.label_bytes == 4 * 40_000 * 100
    assert classes.label_bytes == 0


@pytest.mark.parametrize(
    ("settings", "predictions"),
    [
        (("method=distillation", "method.target_view=augmented"), 11),
        (("method=distillation", "method.target_view=clean"), 1),
        (("method=forward_correction", "method.matrix=estimated"), 1),
    ],
)
def test_a_teacher_predicts_every_image(tmp_path: Path, settings: tuple[str, ...], predictions: int) -> None:
    teacher = planned("teacher", "method=one_hot", "split=full", "model=alexnet", "dataset=cifar100")
    student = planned("student", *settings, "inputs.teacher=teacher", "split=full", *CIFAR)
    own = (50_000 * 10 / 128, step("resnet18")), (11 * 10, evaluation("resnet18"))
    found = estimate(plan_of(tmp_path, teacher, student)).runs["student"]
    assert found.gpu_hours == pytest.approx(hours(*own, (predictions * 50, evaluation("alexnet"))))
    assert estimate(plan_of(tmp_path, student)).runs["student"] == Estimate(None, "the settings of its teacher teacher are not known")


def test_a_second_network_costs_as_much_as_the_first(tmp_path: Path) -> None:
    one, two = (only(tmp_path, f"method={name}", "split=full", *CIFAR).gpu_hours for name in ("one_hot", "co_teaching"))
    assert two == pytest.approx(2 * (one or 0.0))


@pytest.mark.parametrize(
    "settings",
    [
        ("split=full",),
        ("split=fold", "split.fold=0"),
        ("split=fold", "split.fold=4", "split.validation_size=100"),
        ("split=clean_meta_100",),
        ("split=clean_meta_100", "split.validation_size=50"),
    ],
)
def test_training_images_are_counted_as_the_split_cuts_them(tmp_path: Path, settings: tuple[str, ...]) -> None:
    config = config_of("method=one_hot", "dataset=digits", "optim.epochs=1", *settings)
    labels = registry.get("dataset", "digits").build(DigitsConfig(name="digits"), Path()).train.labels
    train = len(make_split(config.split, labels, 0).train)
    found = only(tmp_path, "method=one_hot", "dataset=digits", "optim.epochs=1", *settings).work
    assert [times for times, _ in found.parts] == pytest.approx([train / 64, 2 * (360 + 1437 - train) / 1000])


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"dataset.name": "imagenet"}, "dataset=imagenet was registered without its size"),
        ({"model.name": "none", "model.width": 7}, "the network none cannot be counted: "),
        ({"model.width": 7}, COUNTED),
        ({"dataset.num_classes": None}, COUNTED),
    ],
)
def test_what_cannot_be_counted_has_no_estimate_and_says_why(tmp_path: Path, more: dict[str, Any], why: str) -> None:
    found = only(tmp_path, "method=one_hot", "split=full", *CIFAR, **more)
    assert found.basis.startswith(why)
    assert (found.gpu_hours is None) == (why != COUNTED)


def test_a_part_of_a_dataset_has_fewer_and_smaller_images(tmp_path: Path) -> None:
    plain = ("method=one_hot", "split=full", "model=small_cnn", "optim.epochs=10")
    half = only(tmp_path, *plain, "dataset=cifar100", "dataset.side=16", "dataset.num_classes=10", "dataset.test_size=200")
    settings = '{"batch_norm": true, "block": "none", "width": 16}'
    counted = (
        count_step("small_cnn", settings, (3, 16, 16), 10, batch=128),
        count_forward("small_cnn", settings, (3, 16, 16), 10, images=1000),
    )
    assert half.gpu_hours == pytest.approx(hours((5000 * 10 / 128, counted[0]), (11 * 0.2, counted[1])))


def finished(
    folder: Path,
    name: str,
    gpu_hours: float,
    *overrides: str,
    epochs: int = 10,
    state: str = "done",
    device: str = "NVIDIA A100-SXM4-80GB",
    execution: dict[str, Any] | None = None,
    **more: Any,
) -> None:
    """A run folder as a finished run leaves it."""
    (folder / name).mkdir()
    fields = scientific_fields(config_of(*overrides)) | more
    write_json(folder / name / "cost.json", {"gpu_hours": gpu_hours})
    write_json(folder / name / "provenance.json", {"device": device, "execution": execution or {}})
    write_json(folder / name / "status.json", {"state": state, "epoch": epochs})
    write_json(folder / name / "identity.json", {"run_id": name, "fields": fields})
    seal(folder / name)


def on_a_cpu(folder: Path, name: str, *overrides: str) -> None:
    finished(folder, name, 0.0, *overrides)
    write_json(folder / name / "cost.json", {"gpu_hours": 0.0, "wall_s": 360.0})
    write_json(folder / name / "provenance.json", {"device": "cpu", "threads": 2})
    seal(folder / name)


def test_finished_runs_of_the_kind_come_before_counting(tmp_path: Path) -> None:
    plain = ("method=one_hot", "split=full", *CIFAR)
    run = planned("a", "method=label_smoothing", "split=fold", "split.fold=1", "dataset=cifar100", "optim.epochs=20")
    for index, spent in enumerate((1.0, 30.0)):
        finished(tmp_path, f"b{index}", spent, *plain, f"noise.seed={index}")
    # A run that diverged after one of its ten epochs took a tenth of the time.
    finished(tmp_path, "diverged", 0.2, *plain, epochs=1)
    per_epoch_and_image = 2.0 / 10 / 50_000
    assert estimate(plan_of(tmp_path, run)).runs["a"] == Estimate(pytest.approx(per_epoch_and_image * 20 * 40_000), FINISHED)


@pytest.mark.parametrize(
    "change",
    [
        {"overrides": ("method=class_labels", "split=clean_meta", *CIFAR)},
        {"optim.batch_size": 64},
        {"model.width": 32},
        {"model.name": "vgg16"},
        {"dataset.name": "cifar10"},
        {"gpu_hours": 0.0},
        {"device": "NVIDIA H100 80GB HBM3"},
        {"device": "NVIDIA GeForce RTX 4090"},
        {"state": "preempted"},
        {"method.name": "of_another_version"},
        {"broken": True},
    ],
)
def test_runs_of_another_kind_or_not_finished_tell_nothing(tmp_path: Path, change: dict[str, Any]) -> None:
    run = planned("a", "method=one_hot", "split=full", *CIFAR)
    kept: dict[str, Any] = {"gpu_hours": 1.0, "overrides": ("method=one_hot", "split=full", *CIFAR), "state": "done"} | change
    broken = kept.pop("broken", False)
    finished(tmp_path, "b", kept.pop("gpu_hours"), *kept.pop("overrides"), **kept)
    if broken:
        (tmp_path / "b" / "cost.json").write_text("[")
    assert estimate(plan_of(tmp_path, run), gpu=A100).runs["a"].basis == COUNTED


def test_learning_runs_are_compared_with_those_of_the_same_meta_step(tmp_path: Path) -> None:
    settings = ("method=class_labels", "split=fold", "split.fold=0", *CIFAR)
    finished(tmp_path, "b", 3.0, *settings)
    runs = [planned("same", *settings, "method.learning_rate=7"), planned("other", *settings, "meta.interval=2")]
    found = estimate(plan_of(tmp_path, *runs)).runs
    assert found["same"] == Estimate(pytest.approx(3.0), FINISHED)
    assert found["other"].basis == COUNTED


def test_of_the_runs_of_the_plan_only_done_ones_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ("method=one_hot", "split=full", *CIFAR)
    plan = plan_of(tmp_path, planned("a", *settings), planned("b", *settings, state="done"))
    finished(tmp_path, "b", 5.0, *settings)
    # Left by an attempt that has not finished.
    finished(tmp_path, "a", 99.0, *settings, epochs=1, state="preempted")
    read: list[str] = []
    monkeypatch.setattr("sweeps.plan.cost.peek", lambda path, key: read.append(path.parent.name))
    estimate(plan)
    assert set(read) == {"b"}


def test_cpu_hours_come_from_finished_runs_on_a_cpu_whatever_part_of_a_dataset_they_had(tmp_path: Path) -> None:
    part = ("dataset=cifar100", "dataset.side=16", "dataset.train_size=5000", "optim.epochs=10")
    on_a_cpu(tmp_path, "b", "method=one_hot", "split=full", *part)
    finished(tmp_path, "unknown", 1.0, "method=one_hot", "split=full", "dataset=digits", "dataset.num_classes=8")
    settings = ("split=fold", "split.fold=0", *part)
    costs = estimate(plan_of(tmp_path, planned("fold", "method=one_hot", *settings), planned("c", "method=class_labels", *settings)))
    found = costs.runs
    assert costs.gpu == A100
    assert found["fold"].cpu_hours == pytest.approx(0.2 * 0.8)
    assert found["c"].cpu_hours is None
    assert (found["fold"].basis, found["c"].basis) == (COUNTED, COUNTED)


PLAIN = ("method=one_hot", "split=full", *CIFAR)
LEARNS = ("method=class_labels", "split=fold", "split.fold=0", *CIFAR)


def test_without_a_name_the_gpu_is_that_of_finished_runs_else_an_a100(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, planned("a", *PLAIN))
    costs = estimate(plan)
    assert (costs.gpu, costs.reached, costs.measured, costs.on_gpu) == (A100, ASSUMED_REACHED, 0, 0)
    for index, device in enumerate(("NVIDIA H200", "NVIDIA L40S", "NVIDIA H200")):
        finished(tmp_path, f"b{index}", 1.0, *PLAIN, device=device)
    finished(tmp_path, "c", 1.0, *PLAIN, device="NVIDIA GeForce RTX 4090")
    costs = estimate(plan)
    assert (costs.gpu, costs.measured, costs.on_gpu, dict(costs.others)) == (GPUS["h200"], 2, 2, {"NVIDIA GeForce RTX 4090": 1})
    assert estimate(plan, gpu=GPUS["v100"]).runs["a"].basis == COUNTED


def test_where_finished_runs_of_the_kind_are_on_cpus_only_no_gpu_is_planned_for(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, planned("a", *PLAIN), planned("b", *LEARNS))
    on_a_cpu(tmp_path, "other", "method=one_hot", "split=full", "dataset=digits")
    assert estimate(plan).gpu == A100
    on_a_cpu(tmp_path, "c", *PLAIN)
    costs = estimate(plan)
    assert costs.gpu is None
    assert costs.runs == {"a": Estimate(None, "no GPU was named", pytest.approx(0.2)), "b": Estimate(None, "no GPU was named")}
    named = estimate(plan, gpu=A100)
    assert named.gpu == A100
    assert named.runs["a"].gpu_hours is not None
    finished(tmp_path, "d", 1.0, *LEARNS)
    assert estimate(plan).gpu == A100


@pytest.mark.parametrize(
    ("settings", "execution"),
    [
        ({}, AUDIT),
        ({"precision": "float32", "allow_tf32": True, "cuda_graphs": True}, Execution("tf32", graphs=True)),
        ({"precision": "bfloat16", "allow_tf32": True, "cuda_graphs": False, "compile": True}, Execution("bfloat16", graphs=True)),
    ],
)
def test_the_fraction_is_that_of_finished_runs_as_they_were_executed(
    tmp_path: Path, settings: dict[str, Any], execution: Execution
) -> None:
    learns = planned("a", *LEARNS)
    counted = Work(((50_000 * 10 / 128, step("resnet18")), (110, evaluation("resnet18")))).hours(A100, execution)
    # Together, so that many small runs say no more than they took: (1 + 1) of (5 + 3) parts.
    finished(tmp_path, "b", 5 * counted, *PLAIN, execution=settings)
    finished(tmp_path, "c", 3 * counted, *PLAIN, "noise.seed=1", execution=settings)
    costs = estimate(plan_of(tmp_path, learns))
    assert (costs.reached, costs.measured) == (pytest.approx(0.25), 2)
    assert costs.runs["a"].gpu_hours == pytest.approx(
        hours((40_000 * 10 / 128, step("resnet18", meta_batch=256)), (220, evaluation("resnet18"))) * ASSUMED_REACHED / 0.25
    )
    named = estimate(plan_of(tmp_path, learns), reached=0.8)
    assert (named.reached, named.measured) == (0.8, 0)
    assert estimate(plan_of(tmp_path, learns), gpu=GPUS["h100"]).reached == ASSUMED_REACHED


def test_a_gpu_without_tensor_cores_for_it_has_multiplied_in_float32(tmp_path: Path) -> None:
    finished(tmp_path, "b", 1.0, *PLAIN, device="Tesla V100-SXM2-32GB", execution={"allow_tf32": True})
    counted = Work(((50_000 * 10 / 128, step("resnet18")), (110, evaluation("resnet18")))).hours(GPUS["v100"], AUDIT)
    assert estimate(plan_of(tmp_path, planned("a", *PLAIN))).reached == pytest.approx(counted)


@pytest.mark.parametrize(
    ("chosen", "execution"),
    [
        ("TensorFloat-32", Execution("tf32", graphs=True)),
        ("bfloat16, label gradient in TensorFloat-32", Execution("tf32", graphs=True)),
        ("float32, one operation after another", AUDIT),
        ("bfloat16", Execution("bfloat16", graphs=True)),
    ],
)
def test_a_run_costs_what_the_way_costs_that_was_chosen_for_its_kind(
    tmp_path: Path, chosen: str, execution: Execution, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = config_of(*LEARNS, "seed=3", "split.fold=2")
    for gpu in ("NVIDIA A100-SXM4-80GB", "NVIDIA H200"):
        way = chosen if "A100" in gpu else "float32"
        guard.compared(kept, [way], tmp_path / "guard" / gpu, gpu, lambda _: pytest.fail("compared"))
    for index, path in enumerate(tmp_path.glob("guard/*/*.json")):
        path.rename(tmp_path / "guard" / f"{index}.json")
    (tmp_path / "guard" / "broken.json").write_text("{")
    costs = estimate(plan_of(tmp_path, planned("a", *LEARNS), planned("b", *LEARNS, "meta.batch_size=64")), gpu=A100)
    assert [costs.runs[name].execution for name in "ab"] == [execution, Execution("bfloat16", graphs=True)]
    work = costs.runs["a"].work
    assert costs.runs["a"].gpu_hours == work.hours(A100, execution) / ASSUMED_REACHED
    print_basis(costs, ("a", "b"), gpu="named", reached="assumed")
    said = f"as exec=auto chose there for runs of the kind: 1 run in {execution}\n"
    assert (said in capsys.readouterr().out) == (chosen != "bfloat16")
