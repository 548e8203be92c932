"""Who a run is: pinned ids, what is part of an id and what is not, and a field that is added later."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from repro.config import identity
from repro.config.compose import compose
from repro.config.fields import setting
from repro.errors import UserError
from repro.files import write_json

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


def test_a_changed_default_is_another_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the overrides but what they resolve to makes the id."""
    fields = identity.scientific_fields(compose(["method=instance_labels", *DIGITS]))
    assert fields["method.initial_target_probability"] == 0.9
    assert "exec.device" not in fields
    assert fields["method.version"] == 1


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
