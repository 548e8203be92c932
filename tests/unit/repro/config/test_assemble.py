"""Settings put together without Hydra are those that Hydra composes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from repro.config import registry
from repro.config.assemble import PRESETS, REGISTERED, assemble
from repro.config.compose import compose_tree, to_config
from repro.errors import UserError

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
    assert found is not None
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
