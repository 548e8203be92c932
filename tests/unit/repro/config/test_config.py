"""What a user types: composed, checked, and answered with one readable message when it is wrong."""

from __future__ import annotations

import pytest

from repro.config import registry
from repro.config.compose import compose
from repro.config.schema import OptimConfig
from repro.engine.schedule import Schedule
from repro.errors import UserError

GOOD = ["method=instance_labels", "dataset=digits", "seed=0"]


def test_the_documented_command_composes() -> None:
    config = compose(GOOD)
    assert config.model.name == "digits_cnn"
    assert config.optim.name == "digits_cnn"
    assert config.split.meta_size == 100
    assert config.seed == 0


def test_a_dataset_brings_its_model_and_a_model_its_recipe() -> None:
    config = compose(["method=one_hot", "dataset=cifar100", "seed=0"])
    assert (config.model.name, config.augment.name) == ("resnet18", "crop_flip")
    assert (config.optim.learning_rate, config.optim.weight_decay, config.optim.epochs) == (0.4, 1e-3, 165)
    other = compose(["method=one_hot", "dataset=cifar100", "model=vgg16", "seed=0"])
    assert (other.optim.learning_rate, other.optim.weight_decay, other.optim.epochs) == (0.6, 5e-3, 300)
    wide = compose(["method=one_hot", "dataset=cifar10", "model=wrn_28_10", "seed=0"])
    assert (wide.optim.learning_rate, wide.optim.weight_decay, wide.optim.epochs) == (0.5, 1e-3, 120)


@pytest.mark.parametrize("group", ["method", "dataset", "model", "noise"])
def test_every_choice_composes(group: str) -> None:
    for name in registry.choices(group):
        overrides = [
            f"{key}={name}" if key == group else f"{key}={value}" for key, value in {"method": "one_hot", "dataset": "digits"}.items()
        ]
        if group in ("model", "noise"):
            overrides.append(f"{group}={name}")
        if group == "noise" and name != "none":
            overrides.append("noise.rate=0.4")
        config = compose([*overrides, "seed=1"])
        assert getattr(config, group).name == name


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["dataset=digits", "seed=0"], "method"),
        (["method=one_hot", "seed=0"], "dataset"),
        (["method=one_hot", "dataset=digits"], "not set: seed"),
        (["method=instnce_labels", "dataset=digits", "seed=0"], "Did you mean 'instance_labels'"),
        ([*GOOD, "model=resnet19"], "Did you mean 'resnet18'"),
        ([*GOOD, "optim=resnet_18"], "Did you mean 'resnet18'"),
        ([*GOOD, "optim.epochs=0"], "optim.epochs=0: must be at least 1"),
        ([*GOOD, "optim.learning_rate=-1"], "optim.learning_rate=-1.0: must be above 0"),
        ([*GOOD, "optim.momentum=1.0"], "optim.momentum=1.0: must be at least 0.0 and below 1.0"),
        ([*GOOD, "method.curriculum=entrpy"], "Did you mean 'entropy'"),
        ([*GOOD, "noise=uniform"], "noise.rate"),
        ([*GOOD, "optim.nesterov=true"], "optim.nesterov=true contradicts optim.momentum=0"),
        ([*GOOD, "split=fold"], "split.fold is not set"),
        ([*GOOD, "split=fold", "split.fold=5"], "split.fold=5: must be below split.num_folds=5"),
        ([*GOOD, "split.fold=1"], "split.fold=1 contradicts split=clean_meta"),
        ([*GOOD, "split=full"], "split=full contradicts method=instance_labels"),
        ([*GOOD, "split=fold", "split.fold=0", "noise=uniform", "noise.rate=0.2"], "contradicts split=fold"),
        ([*GOOD, "optim.drop_last=true"], "optim.drop_last=true contradicts method=instance_labels"),
        ([*GOOD, "optim.milestones=[5]"], "contradicts optim.schedule=constant"),
        ([*GOOD, "optim.schedule=step", "optim.milestones=[9,5]"], "must grow"),
        ([*GOOD, "seed=-1"], "seed=-1: must be at least 0"),
        ([*GOOD, "exec.device=tpu"], "exec.device=tpu: must be one of auto, cpu, cuda, mps"),
    ],
)
def test_one_readable_error(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        compose(overrides)
    assert message in str(caught.value), str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_all_problems_at_once() -> None:
    with pytest.raises(UserError) as caught:
        compose([*GOOD, "optim.epochs=0", "meta.batch_size=0", "split.fold=1"])
    assert len(str(caught.value).splitlines()) == 3


def recipe(**changes: object) -> OptimConfig:
    return OptimConfig(**{"name": "test", "epochs": 10, "learning_rate": 1.0, "weight_decay": 0.0, **changes})  # type: ignore[arg-type]


def test_schedules() -> None:
    step = recipe(milestones=[2, 4], gamma=0.1)
    assert [Schedule(step).learning_rate(epoch) for epoch in range(6)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    cosine = recipe(schedule="cosine")
    values = [Schedule(cosine).learning_rate(epoch) for epoch in range(10)]
    assert values[0] == 1.0
    assert values[5] == pytest.approx(0.5)
    assert values == sorted(values, reverse=True)
    warm = recipe(schedule="constant", warmup_epochs=4)
    assert [Schedule(warm).learning_rate(epoch) for epoch in range(6)] == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])
