"""Settings of a run: composed, checked, put together without Hydra, and who the run is by them."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from repro.config import identity, registry
from repro.config.assemble import PRESETS, REGISTERED, assemble
from repro.config.compose import compose, compose_tree, to_config
from repro.config.fields import setting
from repro.errors import UserError
from repro.files import write_json

GOOD = ["method=instance_labels", "dataset=digits", "seed=0"]


@pytest.mark.parametrize(
    ("chosen", "model", "augment", "sizes", "recipe"),
    [
        (["dataset=digits"], "digits_cnn", "none", (100, 100), (0.1, 0.0, 60)),
        (["dataset=cifar10"], "resnet18", "crop_flip", (256, 1000), (0.4, 1e-3, 165)),
        (["dataset=cifar100"], "resnet18", "crop_flip", (256, 1000), (0.4, 1e-3, 165)),
        (["dataset=cifar100", "model=vgg16"], "vgg16", "crop_flip", (256, 1000), (0.6, 5e-3, 300)),
        (["dataset=cifar10", "model=wrn_28_10"], "wrn_28_10", "crop_flip", (256, 1000), (0.5, 1e-3, 120)),
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


BASE: dict[str, Any] = {"method": "one_hot", "dataset": "digits", "seed": 3}
OPTIONS = [
    *((group, name) for group in REGISTERED for name in registry.choices(group)),
    *((group, path.stem) for group in PRESETS for path in sorted((registry.CONF / group).glob("*.yaml"))),
]


def overrides(given: dict[str, Any]) -> list[str]:
    return [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in given.items()]


def by_hydra(given: dict[str, Any]) -> Any:
    from omegaconf import OmegaConf

    return OmegaConf.to_object(compose_tree(overrides(given)))


@pytest.mark.parametrize(("group", "name"), OPTIONS)
def test_every_choice(group: str, name: str) -> None:
    given = BASE | {group: name}
    if group == "noise" and name != "none":
        assert assemble(given) is None  # the rate has no default
        given["noise.rate"] = 0.4
    assert assemble(given) == by_hydra(given)
    if group in REGISTERED:
        compose(overrides(given))


@pytest.mark.parametrize(
    "values",
    [
        {"optim.epochs": 3, "optim.learning_rate": 1, "optim.milestones": [1, 2], "meta.batch_size": 7},
        {"split.validation_size": 50, "noise": "uniform", "noise.rate": 0, "optim.milestones": []},
        {"method": "instance_labels", "method.curriculum": "entropy", "dataset": "cifar100", "model": "wrn_28_10"},
        {"inputs.labels": ["a", "b"], "inputs.teacher": "c", "method": "replay"},
        {"dataset": "fashion_mnist", "optim": "standard", "trajectory.gradient": True, "tracker.entity": None},
    ],
)
def test_values(values: dict[str, Any]) -> None:
    given = BASE | values
    found = assemble(given)
    assert found == by_hydra(given)
    # Equal, but another identity: 1 and 1.0, True and 1.
    assert repr(found) == repr(by_hydra(given))


def test_the_folders_are_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPRO_RUNS", "/elsewhere/runs")
    monkeypatch.setenv("REPRO_SCRATCH", "/local/me")
    found = assemble(BASE)
    assert found.paths.runs == "/elsewhere/runs"
    assert found == to_config(compose_tree(overrides(BASE)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"optim.epoch": 3},
        {"optim": "nowhere"},
        {"method": "one_hots"},
        {"optim.epochs": 3.5},
        {"optim.epochs": True},
        {"optim.nesterov": 1},
        {"model.name": "alexnet"},
        {"noise.rate": 0.4},
        {"optim.epochs": "${seed}"},
        {"optim": {"epochs": 3}},
        {"meta": 3},
        {"optim.learning_rate": None},
    ],
)
def test_what_does_not_fit_is_left_to_hydra(wrong: dict[str, Any]) -> None:
    assert assemble(BASE | wrong) is None


@pytest.mark.parametrize("missing", ["method", "dataset", "seed"])
def test_what_is_missing_is_left_to_hydra(missing: str) -> None:
    given = {key: value for key, value in BASE.items() if key != missing}
    assert assemble(given) is None
    with pytest.raises(UserError):
        to_config(compose_tree(overrides(given)))


DIGITS = ["dataset=digits", "seed=0"]

#: As they are typed; tests/golden/run_ids.txt has those of every spec.
PINNED = {
    "one_hot-digits-f2e7a3fb9af7": "method=one_hot dataset=digits seed=0",
    "instance_labels-digits-76999dd31447": "method=instance_labels dataset=digits seed=2 noise=uniform noise.rate=0.4",
    "class_labels-cifar10-040c2db4233d": "method=class_labels dataset=cifar10 model=vgg16 split=fold split.fold=4 seed=1",
    "instance_labels-cifar10-ed51c892c7db": "method=instance_labels dataset=cifar10 model=wrn_28_10 optim=setting_a"
    " augment=reflect_crop_flip noise=uniform noise.rate=0.6 seed=0",
}


@pytest.mark.parametrize("wanted", PINNED)
def test_pinned_ids(wanted: str) -> None:
    assert identity.run_id(compose(PINNED[wanted].split())) == wanted


def run_id(*overrides: str) -> str:
    return identity.run_id(compose(["method=instance_labels", *DIGITS, *overrides]))


def test_execution_is_no_part_of_it() -> None:
    assert run_id() == run_id("exec.threads=1", "exec.device=cpu", "tracker=none", "paths.runs=/elsewhere", "exec.checkpoint_interval_s=1")


def test_order_and_spelling_are_no_part_of_it() -> None:
    assert run_id("optim.epochs=3", "meta.interval=2") == run_id("meta.interval=2", "optim.epochs=3")
    assert run_id("optim.learning_rate=1") == run_id("optim.learning_rate=1.0")
    assert run_id("optim.learning_rate=0.1") == run_id()


@pytest.mark.parametrize(
    "change", ["seed=1", "optim.epochs=61", "meta.augment=false", "trajectory.when=before", "split.seed=0", "method.curriculum=entropy"]
)
def test_everything_scientific_is_part_of_it(change: str) -> None:
    assert run_id(change) != run_id()


def test_the_version_of_a_method_is_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from repro.config import registry

    before = run_id()
    choice = registry.get("method", "instance_labels")
    monkeypatch.setitem(registry._choices["method"], "instance_labels", dataclasses.replace(choice, version=2))
    assert run_id() != before


def test_a_later_field_at_its_neutral_value_keeps_the_id() -> None:
    @dataclasses.dataclass
    class Later:
        old: float = 1.0
        new: str = setting("as before", help="added later", neutral="as before")

    def flat(settings: Later) -> dict[str, Any]:
        found: dict[str, Any] = {}
        identity._flatten("method", settings, {}, found)
        return found

    assert flat(Later()) == {"method.old": 1.0}
    assert flat(Later(new="otherwise")) == {"method.old": 1.0, "method.new": "otherwise"}


def test_another_run_in_the_folder_is_named_by_field(tmp_path: Path) -> None:
    there, here = (compose(["method=one_hot", *DIGITS, f"optim.epochs={epochs}"]) for epochs in (3, 4))
    write_json(tmp_path / "identity.json", identity.identity_document(there))
    identity.check_same(tmp_path, there)
    with pytest.raises(UserError, match="optim.epochs: there 3, here 4"):
        identity.check_same(tmp_path, here)
    document = identity.identity_document(there)
    del document["fields"]["meta.interval"]
    write_json(tmp_path / "identity.json", document)
    with pytest.raises(UserError, match="meta.interval: there 'absent', here 1"):
        identity.check_same(tmp_path, there)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_unreadable_identity_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "identity.json").write_text(content)
    with pytest.raises(UserError, match="identity.json cannot be read"):
        identity.check_same(tmp_path, compose(["method=one_hot", *DIGITS]))
