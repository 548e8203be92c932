from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from repro import registry
from repro.compose import compose
from repro.config import Config
from repro.data.sources.digits import DigitsConfig
from repro.data.splits import make_split
from repro.files import write_json
from repro.identity import scientific_fields
from repro.manifest import seal
from repro.models.digits_cnn import MatrixConvolution
from sweeps.cost import ASSUMED_TFLOPS, COUNTED, FINISHED, MACS_FILE, Estimate, estimate
from sweeps.plan import Plan, PlannedRun

TABLES = yaml.safe_load(MACS_FILE.read_text())
COUNTS = [(entry["model"], entry["settings"], name, macs) for entry in TABLES["macs"] for name, macs in entry["images"].items()]

RESNET18_CIFAR100 = 555_468_800
ALEXNET_CIFAR100 = 14_980_096


@pytest.mark.parametrize(("model", "settings", "dataset", "macs"), COUNTS)
def test_listed_macs_are_those_that_pytorch_counts(
    model: str, settings: dict[str, Any], dataset: str, macs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The arithmetic of a convolution, not of how a small one is carried out.
    monkeypatch.setattr(MatrixConvolution, "SMALL", 0)
    choice, sizes = registry.get("model", model), TABLES["datasets"][dataset]
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network = choice.build(choice.config(name=model, **settings), num_classes=sizes["classes"], image_shape=tuple(sizes["image"]))
        network.eval()(torch.empty(1, *sizes["image"]))
    assert counter.get_total_flops() == 2 * macs


def test_every_model_is_listed_at_its_defaults_for_the_papers_datasets() -> None:
    listed = {(model, tuple(settings.items()), dataset) for model, settings, dataset, _ in COUNTS}
    for name, choice in registry.choices("model").items():
        config = choice.config(name=name)
        settings = tuple((key, value) for key, value in vars(config).items() if key != "name")
        for dataset in ("cifar10", "cifar100"):
            assert (name, settings, dataset) in listed, f"count model={name} for {dataset} and add it to {MACS_FILE}"


def test_the_sizes_of_digits_are_those_of_the_dataset() -> None:
    raw = registry.get("dataset", "digits").build(DigitsConfig(name="digits"), Path())
    sizes = TABLES["datasets"]["digits"]
    assert (len(raw.train.labels), len(raw.test.labels)) == (sizes["train"], sizes["test"])
    assert (list(raw.image_shape), raw.num_classes) == (sizes["image"], sizes["classes"])


def config_of(*overrides: str) -> Config:
    return compose(["seed=0", *overrides])


def planned(name: str, *overrides: str, state: str = "missing", **more: Any) -> PlannedRun:
    fields = scientific_fields(config_of(*overrides)) | more
    return PlannedRun(run_id=name, overrides=overrides, fields=fields, state=state, inputs=(), specs=("s",), place=name, stage=0)


def plan_of(folder: Path, *runs: PlannedRun) -> Plan:
    return Plan(folder=folder, specs=(), runs={run.run_id: run for run in runs})


def hours(flops: float) -> float:
    return flops / (ASSUMED_TFLOPS * 1e12) / 3600


def only(folder: Path, *overrides: str, **more: Any) -> Estimate:
    return estimate(plan_of(folder, planned("a", *overrides, **more)))["a"]


CIFAR = ("dataset=cifar100", "optim.epochs=10")


def test_a_plain_run_costs_three_units_an_image_and_its_evaluations(tmp_path: Path) -> None:
    found = only(tmp_path, "method=one_hot", "split=full", *CIFAR)
    assert found.basis == COUNTED
    assert found.gpu_hours == pytest.approx(hours(2 * RESNET18_CIFAR100 * (3 * 50_000 * 10 + 11 * 10_000)))


def test_a_meta_step_costs_thirteen_units_when_its_batch_is_twice_the_training_batch(tmp_path: Path) -> None:
    settings = ("method=class_labels", "split=fold", "split.fold=0", *CIFAR)
    evaluated = 11 * (10_000 + 10_000)
    found = only(tmp_path, *settings)
    assert found.gpu_hours == pytest.approx(hours(2 * RESNET18_CIFAR100 * (13 * 40_000 * 10 + evaluated)))
    every_other = only(tmp_path, *settings, "meta.interval=2")
    assert every_other.gpu_hours == pytest.approx(hours(2 * RESNET18_CIFAR100 * (8 * 40_000 * 10 + evaluated)))
    late = only(tmp_path, *settings, "method.warmup_epochs=4")
    assert late.gpu_hours == pytest.approx(hours(2 * RESNET18_CIFAR100 * (40_000 * (13 * 6 + 3 * 4) + evaluated)))


def test_a_stated_rate_takes_the_place_of_the_assumed_one(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, planned("a", "method=one_hot", "split=full", *CIFAR))
    assumed, stated = (estimate(plan, tflops=rate)["a"].gpu_hours for rate in (ASSUMED_TFLOPS, 2 * ASSUMED_TFLOPS))
    assert assumed == pytest.approx(2 * (stated or 0.0))


@pytest.mark.parametrize(("view", "predictions"), [("augmented", 11), ("clean", 1)])
def test_a_teacher_predicts_every_image(tmp_path: Path, view: str, predictions: int) -> None:
    teacher = planned("teacher", "method=one_hot", "split=full", "model=alexnet", "dataset=cifar100")
    student = planned("student", "method=distillation", "inputs.teacher=teacher", "split=full", f"method.target_view={view}", *CIFAR)
    student_macs = RESNET18_CIFAR100 * (3 * 50_000 * 10 + 11 * 10_000)
    found = estimate(plan_of(tmp_path, teacher, student))["student"]
    assert found.gpu_hours == pytest.approx(hours(2 * (student_macs + ALEXNET_CIFAR100 * predictions * 50_000)))
    assert estimate(plan_of(tmp_path, student))["student"] == Estimate(None, "the settings of its teacher teacher are not known")


def test_a_second_network_costs_as_much_as_the_first(tmp_path: Path) -> None:
    one, two = (only(tmp_path, f"method={name}", "split=full", *CIFAR).gpu_hours for name in ("one_hot", "co_teaching"))
    assert two == pytest.approx(2 * (one or 0.0))


def test_a_teacher_that_only_estimates_the_noise_predicts_once(tmp_path: Path) -> None:
    teacher = planned("teacher", "method=one_hot", "split=full", "model=alexnet", "dataset=cifar100")
    settings = ("method=forward_correction", "method.matrix=estimated", "inputs.teacher=teacher", "split=full")
    found = estimate(plan_of(tmp_path, teacher, planned("corrected", *settings, *CIFAR)))["corrected"]
    macs = RESNET18_CIFAR100 * (3 * 50_000 * 10 + 11 * 10_000) + ALEXNET_CIFAR100 * 50_000
    assert found.gpu_hours == pytest.approx(hours(2 * macs))


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
    found = only(tmp_path, "method=one_hot", "dataset=digits", "optim.epochs=1", *settings)
    assert found.gpu_hours == pytest.approx(hours(2 * 80_896 * (3 * train + 2 * (360 + 1437 - train))))


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"model.width": 7}, "model=resnet18 width=7 for cifar100 does not stand in sweeps/macs.yaml"),
        ({"dataset.name": "imagenet"}, "dataset=imagenet does not stand in sweeps/macs.yaml"),
        ({"dataset.num_classes": 8}, "dataset.num_classes=8 changes the number of images"),
        ({"dataset.num_classes": None}, COUNTED),
    ],
)
def test_what_is_not_listed_has_no_estimate_and_says_why(tmp_path: Path, more: dict[str, Any], why: str) -> None:
    found = only(tmp_path, "method=one_hot", "split=full", *CIFAR, **more)
    assert found.basis == why
    assert (found.gpu_hours is None) == (why != COUNTED)


def finished(folder: Path, name: str, gpu_hours: float, *overrides: str, epochs: int = 10, state: str = "done", **more: Any) -> None:
    """A run folder as a finished run leaves it."""
    (folder / name).mkdir()
    fields = scientific_fields(config_of(*overrides)) | more
    write_json(folder / name / "cost.json", {"gpu_hours": gpu_hours})
    write_json(folder / name / "status.json", {"state": state, "epoch": epochs})
    write_json(folder / name / "identity.json", {"run_id": name, "fields": fields})
    seal(folder / name)


def test_finished_runs_of_the_kind_come_before_counting(tmp_path: Path) -> None:
    plain = ("method=one_hot", "split=full", *CIFAR)
    run = planned("a", "method=label_smoothing", "split=fold", "split.fold=1", "dataset=cifar100", "optim.epochs=20")
    for index, spent in enumerate((1.0, 30.0)):
        finished(tmp_path, f"b{index}", spent, *plain, f"noise.seed={index}")
    # A run that diverged after one of its ten epochs took a tenth of the time.
    finished(tmp_path, "diverged", 0.2, *plain, epochs=1)
    per_epoch_and_image = 2.0 / 10 / 50_000
    assert estimate(plan_of(tmp_path, run))["a"] == Estimate(pytest.approx(per_epoch_and_image * 20 * 40_000), FINISHED)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"overrides": ("method=class_labels", "split=clean_meta", *CIFAR)},
        {"optim.batch_size": 64},
        {"model.width": 32},
        {"model.name": "vgg16"},
        {"dataset.name": "cifar10"},
        {"gpu_hours": 0.0},
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
    assert estimate(plan_of(tmp_path, run))["a"].basis == COUNTED


def test_learning_runs_are_compared_with_those_of_the_same_meta_step(tmp_path: Path) -> None:
    settings = ("method=class_labels", "split=fold", "split.fold=0", *CIFAR)
    finished(tmp_path, "b", 3.0, *settings)
    runs = [planned("same", *settings, "method.learning_rate=7"), planned("other", *settings, "meta.interval=2")]
    found = estimate(plan_of(tmp_path, *runs))
    assert found["same"] == Estimate(pytest.approx(3.0), FINISHED)  # type: ignore[arg-type]
    assert found["other"].basis == COUNTED


def test_of_the_runs_of_the_plan_only_done_ones_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ("method=one_hot", "split=full", *CIFAR)
    plan = plan_of(tmp_path, planned("a", *settings), planned("b", *settings, state="done"))
    finished(tmp_path, "b", 5.0, *settings)
    # Left by an attempt that has not finished.
    finished(tmp_path, "a", 99.0, *settings, epochs=1, state="preempted")
    read: list[str] = []
    monkeypatch.setattr("sweeps.cost._read", lambda path, key: read.append(path.parent.name))
    estimate(plan)
    assert set(read) == {"b"}


def test_cpu_hours_come_from_finished_runs_on_a_cpu_whatever_part_of_a_dataset_they_had(tmp_path: Path) -> None:
    part = ("dataset=cifar100", "dataset.side=16", "dataset.train_size=5000", "optim.epochs=10")
    finished(tmp_path, "b", 0.0, "method=one_hot", "split=full", *part)
    write_json(tmp_path / "b" / "cost.json", {"gpu_hours": 0.0, "wall_s": 360.0})
    write_json(tmp_path / "b" / "provenance.json", {"threads": 2})
    seal(tmp_path / "b")
    finished(tmp_path, "unknown", 1.0, "method=one_hot", "split=full", "dataset=digits", "dataset.num_classes=8")
    runs = [
        planned("fold", "method=one_hot", "split=fold", "split.fold=0", *part),
        planned("c", "method=class_labels", "split=fold", "split.fold=0", *part),
    ]
    found = estimate(plan_of(tmp_path, *runs))
    assert found["fold"].cpu_hours == pytest.approx(0.2 * 0.8)
    assert found["c"].cpu_hours is None
    assert found["fold"].gpu_hours is None
    assert found["fold"].basis == "dataset.side=16 stands nowhere in sweeps/macs.yaml"
    whole = planned(
        "whole", "method=one_hot", "split=full", "dataset=cifar10", "dataset.train_size=5000", "dataset.test_size=1000", "optim.epochs=10"
    )
    macs = TABLES["macs"][[item["model"] for item in TABLES["macs"]].index("resnet18")]["images"]["cifar10"]
    assert estimate(plan_of(tmp_path, whole))["whole"].gpu_hours == pytest.approx(hours(2 * macs * (3 * 5000 * 10 + 11 * 1000)))
