"""Nothing that is typed for a run is ignored: unknown names however they are written, wrong kinds of values, references, odd text."""

import dataclasses
from typing import Any

import pytest

from repro.config import identity, registry
from repro.config.compose import _fixed_keys, _known_keys, compose
from repro.config.nearest import _FIELDS, _SECTIONS, nearest, nearest_of_some
from repro.config.schema import check
from repro.errors import UserError

GOOD = ["method=one_hot", "dataset=digits", "seed=0"]


def refusal(*overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        compose([*GOOD, *overrides])
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 1000
    assert "append to your config" not in message
    return message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("+noise.rate=0.4", ["noise=none has no setting 'rate'", "uniform"]),
        ("++noise.rate=0.4", ["noise=none has no setting 'rate'"]),
        ("noise.rate=0.4", ["noise=none has no setting 'rate'", "patrini, uniform have it"]),
        ("+optim.epoch=3", ["+optim.epoch=3", "Did you mean 'optim.epochs'?"]),
        ("++optim.epoch=3", ["Did you mean 'optim.epochs'?"]),
        ("~optim.epoch", ["Did you mean 'optim.epochs'?"]),
        ("+anything=3", ["+anything=3", "there is no setting 'anything'"]),
        ("+foo@bar=1", ["there is no setting 'foo'"]),
        ("+optim.epochs=3", ["there is nothing to add", "Write optim.epochs=3."]),
        ("++optim.epochs=3", ["there is nothing to add", "Write optim.epochs=3."]),
        ("+noise=uniform", ["there is nothing to add", "Write noise=uniform."]),
        ("~optim.momentum", ["nothing can be taken out", "optim.momentum=VALUE"]),
        ("~noise", ["nothing can be taken out", "noise=VALUE"]),
        ("~noise=none", ["nothing can be taken out", "noise=VALUE"]),
        ("noise@optim=none", ["Write noise=none."]),
        ("+noise@model.noise=none", ["Write noise=none."]),
        ("hydra.run.dir=/elsewhere", ["hydra.run.dir=/elsewhere", "paths.runs"]),
        ("++hydra.sweep.dir=/elsewhere", ["Hydra itself has no settings here"]),
        ("hydra/launcher=basic", ["Hydra itself has no settings here"]),
        ("~hydra.job", ["Hydra itself has no settings here"]),
        ("optim={epochs: 3, epoch: 4}", ["optim has no setting 'epoch'", "Did you mean 'optim.epochs'?"]),
        ("optim={epochs: 3}", ["Give each by itself, as optim.epochs=VALUE"]),
        ("meta={batch_size: 3}", ["Give each by itself, as meta.batch_size=VALUE"]),
        ("meta=3", ["meta holds several settings"]),
        ("noise=null", ["there is no noise of that name", "uniform"]),
        ("noise=[none,uniform]", ["there is no noise of that name"]),
        ("schema=1", ["there is no setting 'schema'"]),
        ("seed=0,1", ["several values", "-m"]),
        ("seed=range(0,3)", ["several values"]),
    ],
)
def test_no_form_is_ignored(text: str, words: list[str]) -> None:
    message = refusal(text)
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("group", "name"), [("noise", "uniform"), ("method", "focal"), ("dataset", "cifar10"), ("model", "vgg16"), ("optim", "l2rw")]
)
def test_a_choice_is_not_made_by_the_field_of_its_name(group: str, name: str) -> None:
    assert f"Write {group}={name}" in refusal(f"{group}.name={name}")


@pytest.mark.parametrize(
    ("typed", "meant"),
    {
        "optim.lr": "optim.learning_rate",
        "lr": "optim.learning_rate",
        "optim.wd": "optim.weight_decay",
        "optim.weightdecay": "optim.weight_decay",
        "optim.bs": "optim.batch_size",
        "optim.batchsize": "optim.batch_size",
        "optim.n_epochs": "optim.epochs",
        "num_epochs": "optim.epochs",
        "epochs": "optim.epochs",
        "optim.mom": "optim.momentum",
        "optim.scheduler": "optim.schedule",
        "optim.warmup": "optim.warmup_epochs",
        "optimizer.lr": "optim.learning_rate",
        "method.lr": "method.learning_rate",
        "meta.bs": "meta.batch_size",
        "noise.ratio": "noise.rate",
        "exec.gpu": "exec.device",
        "wandb.project": "tracker.project",
        "random_seed": "seed",
        "arch": "model",
        "data": "dataset",
        "data_dir": "paths.data",
        "optim.foo_learning_rate": "optim.learning_rate",
        "Optim.Epochs": "optim.epochs",
    }.items(),
)
def test_the_usual_words_lead_to_the_field(typed: str, meant: str) -> None:
    assert f"Did you mean '{meant}'?" in refusal(f"{typed}=1")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("optim.epochs=true", "must be a whole number, not true or false"),
        ("optim.epochs=3.0", "must be a whole number, not a number"),
        ("optim.epochs='3'", "must be a whole number, not text"),
        ("optim.epochs=null", "null is not allowed"),
        ("optim.epochs=1e1", "must be a whole number"),
        ("optim.epochs=[3]", "must be a whole number, not a list"),
        ("optim.epochs=" + "1" * 30, "must be at most 9223372036854775807"),
        ("optim.epochs=" + "1" * 400, "must be at most 9223372036854775807"),
        ("optim.epochs=" + "1" * 5000, "not understood"),
        ("optim.epochs=" + "[" * 900, "a [ is there without its ]"),
        ("optim.milestones=1]", "a ] is there without its ["),
        ("optim.milestones={1", "a { is there without its }"),
        ("seed='0", "a quote ' is not closed"),
        ("seed=", "seed=: there is no value after the =. Write seed=VALUE."),
        ("optim.learning_rate=", "there is no value after the ="),
        ("exec.device=gpu", "Did you mean 'cuda'?"),
        ("optim.epochs=" + "1" * 20000, "20013 characters"),
        ("optim.nesterov=1", "must be true or false, not a whole number"),
        ("optim.nesterov=yes", "must be true or false, not text"),
        ("optim.learning_rate=true", "must be a number, not true or false"),
        ("optim.learning_rate=" + "1" * 400, "too large for a float64"),
        ("optim.learning_rate=9007199254740993", "more digits than a float64 can hold"),
        ("optim.learning_rate=inf", "must be a finite number"),
        ("optim.learning_rate=-inf", "must be a finite number"),
        ("optim.learning_rate=1e308", "must be at most 1e+30"),
        ("optim.weight_decay=-0.0", "must be written 0"),
        ("optim.milestones=5", "must be a list"),
        ("optim.milestones=[true]", "must be a whole number"),
        ("inputs.labels=[1]", "must be text, not a whole number"),
        ("paths.runs=1e3", "must be text, not a number"),
        ("tracker.project=true", "must be text, not true or false"),
        ("tracker.project=", "must not be empty"),
        ("tracker.project='a\nb'", "without line breaks"),
        ("tracker.project='a\x00b'", "control characters"),
        ("tracker.project='a\udcffb'", "UTF-8"),
        ("exec.heartbeat_s=1e10", "exec.heartbeat_s=10000000000.0: must be at least 0.01 and at most 86400.0"),
        ("exec.threads=1000000", "must be at least 1 and at most 1024"),
        ("=3", "not understood"),
        ("", "there is no = and no value"),
        ("optim.epochs", "there is no = and no value"),
        ("optim.epochs==3", "not understood"),
    ],
)
def test_values_of_another_kind(text: str, words: str) -> None:
    message = refusal(text)
    assert words in message, message


@pytest.mark.parametrize(
    "text",
    [
        "optim.epochs=${nope}",
        "optim.epochs=${optim}",
        "optim.epochs=${optim.epochs}",
        "optim.batch_size=${optim.epochs}x",
        "tracker.project=${oc.env:NO_SUCH_VARIABLE}",
        "tracker.project=${no_such_resolver:1}",
        "optim.milestones=[${nope}]",
        "optim.epochs=${optim.learning_rate}",
        "optim.milestones=\\${seed}",
        "optim.milestones=${tracker.name}",
    ],
)
def test_references_that_lead_nowhere(text: str) -> None:
    message = refusal(text)
    assert message.startswith(text), message


def test_a_reference_has_its_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_PROJECT", "labels")
    config = compose([*GOOD, "optim.epochs=${optim.batch_size}", "optim.batch_size=7", "tracker.project=${oc.env:SOME_PROJECT}"])
    assert (config.optim.epochs, config.tracker.project) == (7, "labels")


def test_of_two_values_in_a_program_the_later_one_counts() -> None:
    """``--set`` of a grid is put on top of its spec so."""
    assert compose([*GOOD, "optim.epochs=3", "optim.epochs=4"]).optim.epochs == 4


def changed(section: str, **values: Any) -> Any:
    config = compose(GOOD)
    return dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **values)})


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [("optim", "weight_decay", -0.0), ("optim", "learning_rate", 1e308), ("tracker", "project", "a\x00b"), ("paths", "runs", "")],
)
def test_the_check_of_a_composed_run_is_as_strict(section: str, field: str, value: Any) -> None:
    """The planner puts values into composed runs without typing them."""
    with pytest.raises(UserError, match=rf"{section}\.{field}="):
        check(changed(section, **{field: value}))


def test_choices_are_composed_once_and_never_shared() -> None:
    first, second = compose([*GOOD, "optim.epochs=3", "optim.milestones=[1]", "optim.schedule=step"]), compose(GOOD)
    assert (first.optim.epochs, second.optim.epochs) == (3, 60)
    assert second.optim.milestones == []
    assert identity.run_id(second) == "one_hot-digits-f2e7a3fb9af7"


def test_every_size_of_a_network_has_a_limit() -> None:
    """Beyond it PyTorch fails with an error of its own."""
    for choice in registry.choices("model").values():
        for field in dataclasses.fields(choice.config):
            if field.type == "int":
                assert "at_most" in field.metadata, f"{choice.name}.{field.name}"
    assert "at most 1024" in refusal("model.width=9223372036854775807")
    assert "at most 100000" in refusal("method=meta_weight_net", "method.hidden=9223372036854775807")


def test_the_nearest_of_the_fixed_settings_is_the_nearest_of_all() -> None:
    """A misspelt name is answered without the files of the methods where that makes no difference."""
    fixed, known = _fixed_keys(), _known_keys()
    usual = [word for table in (_FIELDS, _SECTIONS) for words in table.values() for word in words.split()]
    right = [*usual, *(name.rpartition(".")[2] for name in known if not name.endswith("name"))]
    typed = [*right, *(word[:-1] for word in right), *(word[1:] for word in right)]
    typed = [*typed, *(f"{section}.{word}" for section in ("optim", "exec", "split") for word in typed)]
    answers = {word: nearest_of_some(word, fixed) for word in typed if word not in known}
    found = {word: answer for word, answer in answers.items() if answer}
    assert found == {word: nearest(word, known) for word in found}
    assert {"lr", "see", "optim.lr", "exec.devic"} <= found.keys()
