"""Settings of a run: what a choice brings along, what is refused and in which words, and that each value reaches its field."""

from pathlib import Path
from typing import Any

import pytest

import repro.conf
from repro.config import registry
from repro.config.compose import compose
from repro.errors import UserError

GOOD = ["method=instance_labels", "dataset=digits", "seed=0"]
PLAIN = ["method=one_hot", *GOOD[1:]]

#: Every choice there is, with what it needs besides.
CHOICES = [(group, name) for group in registry.GROUPS for name in registry.choices(group)]
CHOICES += [(path.parent.name, path.stem) for path in sorted(Path(repro.conf.__path__[0]).glob("*/*.yaml"))]
NEEDED = {name: ["noise.rate=0.4"] for name in ("uniform", "patrini", "flip", "flip2")} | {"fold": ["split.fold=0"]}
NEEDED |= {"human": ["noise.annotator=worst"], "image_folder": ["dataset.folder=mine"]}


@pytest.mark.parametrize(
    ("chosen", "model", "augment", "sizes", "recipe"),
    [
        (["dataset=digits"], "digits_cnn", "none", (100, 100), (0.1, 0.0, 60)),
        (["dataset=cifar10"], "resnet18", "crop_flip", (256, 1000), (0.4, 1e-3, 165)),
        (["dataset=cifar100", "model=vgg16"], "vgg16", "crop_flip", (256, 1000), (0.6, 5e-3, 300)),
        (["dataset=cifar10", "model=wrn_28_10", "optim=setting_a"], "wrn_28_10", "crop_flip", (256, 1000), (0.1, 5e-4, 40)),
    ],
)
def test_a_dataset_brings_its_model_and_a_model_its_recipe(
    chosen: list[str], model: str, augment: str, sizes: tuple[int, int], recipe: tuple[float, float, int]
) -> None:
    config = compose(["method=one_hot", *chosen, "seed=0"])
    assert (config.model.name, config.augment.name, config.seed) == (model, augment, 0)
    assert (config.meta.batch_size, config.split.meta_size) == sizes
    assert (config.optim.learning_rate, config.optim.weight_decay, config.optim.epochs) == recipe


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["dataset=digits", "seed=0"], "You must specify 'method'"),
        (["method=one_hot", "dataset=digits"], "not set: seed"),
        ([*GOOD, "~seed"], "not set: seed"),
        (["method=instnce_labels", "dataset=digits", "seed=0"], "Did you mean 'instance_labels'"),
        ([*GOOD, "optim=resnet_18"], "Did you mean 'resnet18'"),
        ([*GOOD, "optim.epoch=3"], "Key 'epoch' not in 'OptimConfig'. Did you mean 'optim.epochs'"),
        ([*GOOD, "sed=1"], "Did you mean 'seed'"),
        ([*GOOD, "optim.lr=3"], "`python -m repro --help` shows all settings"),
        ([*GOOD, "noise.rate=0.4"], "noise.rate is a setting of noise=flip, noise=flip2"),
        ([*GOOD, "+anything=3"], "anything: there is no such setting"),
        ([*GOOD, "++optim.epoch=3"], "optim.epoch: there is no such setting. Did you mean 'epochs'"),
        ([*GOOD, "optim.epochs=many"], "optim.epochs=many\nValue 'many' of type 'str' could not be converted to Integer"),
        ([*GOOD, "optim.epochs=3.5"], "could not be converted to Integer"),
        ([*GOOD, "optim.epochs=-1"], "optim.epochs=-1: must be at least 1 and at most 1000000."),
        ([*GOOD, "optim.learning_rate=-1"], "optim.learning_rate=-1.0: must be above 0.0."),
        ([*GOOD, "optim.schedule=step", "optim.milestones=[5,0]"], "optim.milestones=0: must be at least 1."),
        ([*GOOD, "noise=uniform", "noise.rate=40"], "noise.rate=40.0: must be at least 0.0 and at most 1.0."),
        ([*GOOD, "noise=uniform"], "not set: noise.rate"),
        ([*GOOD, "method.curriculum=entrpy"], "Did you mean 'entropy'"),
        ([*GOOD, "noise.name=uniform"], "Write noise=uniform"),
        ([*GOOD, "split=fold"], "split=fold split.fold=None: split=fold needs a number there"),
        ([*GOOD, "split=fold", "split.fold=5"], "split.fold=5: must be below split.num_folds=5"),
        ([*GOOD, "split.fold=1"], "split=clean_meta split.fold=1"),
        ([*GOOD, "split=full"], "split=full contradicts method=instance_labels"),
        ([*GOOD, "split=fold", "split.fold=0", "noise=uniform", "noise.rate=0.2"], "contradicts split=fold"),
        ([*GOOD, "optim.drop_last=true"], "optim.drop_last=true contradicts method=instance_labels"),
        ([*GOOD, "optim.milestones=[5]"], "contradicts optim.schedule=constant"),
        ([*GOOD, "optim.algorithm=adam", "optim.momentum=0.9"], "is a step of SGD"),
        ([*PLAIN, "optim.algorithm=adam"], "use optim.momentum=0.9"),
        ([*GOOD, "trajectory.gradient=true", "exec.compile=true"], "trajectory.gradient=true contradicts exec.compile"),
    ],
)
def test_refused_in_few_lines(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        compose(overrides)
    lines = str(caught.value).splitlines()
    assert message in str(caught.value)
    assert len(lines) <= 4
    assert not any("object_type" in line or "append to your config" in line for line in lines)


def test_all_problems_at_once() -> None:
    with pytest.raises(UserError) as caught:
        compose([*GOOD, "optim.epochs=0", "meta.batch_size=0"])
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_choice_composes(group: str, name: str) -> None:
    section = getattr(compose([*PLAIN, f"{group}={name}", *NEEDED.get(name, [])]), group)
    assert name.startswith(section.name)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("optim.learning_rate=1", 1.0),
        ("optim.nesterov=true", True),
        ("inputs.labels=[a,b]", ["a", "b"]),
        ("exec.threads=null", None),
        ("paths.data='a, b'", "a, b"),
        ("optim.epochs=${meta.batch_size}", 100),
    ],
)
def test_values(text: str, value: Any) -> None:
    section, _, name = text.partition("=")[0].partition(".")
    composed = getattr(getattr(compose([*GOOD, text]), section), name)
    assert composed == value
    # An int in place of a float would be another run id.
    assert type(composed) is type(value)


def test_the_later_of_two_wins() -> None:
    assert compose([*GOOD, "seed=3"]).seed == 3


def test_the_folders_are_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPRO_RUNS", "/elsewhere/runs")
    assert compose(GOOD).paths.runs == "/elsewhere/runs"


def test_an_unknown_choice_is_named_with_the_nearest() -> None:
    with pytest.raises(UserError, match="method=one_hots: there is no such method. Did you mean 'one_hot'"):
        registry.get("method", "one_hots")
