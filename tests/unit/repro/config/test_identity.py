"""Who a run is by its settings."""

import dataclasses
from pathlib import Path

import pytest

from repro.config import registry
from repro.config.compose import compose
from repro.config.identity import check_same, identity_document, run_id
from repro.errors import UserError
from repro.files import write_json

#: As they are typed; tests/golden/run_ids.txt has those of every spec.
PINNED = {
    "one_hot-digits-f2e7a3fb9af7": "method=one_hot dataset=digits seed=0",
    "instance_labels-digits-76999dd31447": "method=instance_labels dataset=digits seed=2 noise=uniform noise.rate=0.4",
    "class_labels-cifar10-040c2db4233d": "method=class_labels dataset=cifar10 model=vgg16 split=fold split.fold=4 seed=1",
    "instance_labels-cifar10-ed51c892c7db": "method=instance_labels dataset=cifar10 model=wrn_28_10 optim=setting_a"
    " augment=reflect_crop_flip noise=uniform noise.rate=0.6 seed=0",
}


@pytest.mark.parametrize("expected", PINNED)
def test_pinned_ids(expected: str) -> None:
    assert run_id(compose(PINNED[expected].split())) == expected


def id_of(*overrides: str) -> str:
    return run_id(compose(["method=instance_labels", "dataset=digits", "seed=0", *overrides]))


@pytest.mark.parametrize(
    "same",
    [
        ["exec.threads=1", "exec.device=cpu", "tracker=none", "paths.runs=/elsewhere", "exec.checkpoint_interval_s=1"],
        ["optim.learning_rate=0.1", "trajectory.dtype=float16", "meta.interval=1"],
    ],
)
def test_execution_order_and_defaults_are_no_part_of_it(same: list[str]) -> None:
    assert id_of(*same) == id_of(*reversed(same)) == id_of()


@pytest.mark.parametrize(
    "change",
    [
        "seed=1",
        "optim.epochs=61",
        "meta.augment=false",
        "trajectory.dtype=float32",
        "method.momentum=0.5",
        "inputs.labels=[a]",
    ],
)
def test_everything_scientific_is_part_of_it(change: str) -> None:
    assert id_of(change) != id_of()


def test_the_version_of_a_method_is_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = id_of()
    choice = registry.get("method", "instance_labels")
    monkeypatch.setitem(registry._choices["method"], "instance_labels", dataclasses.replace(choice, version=2))
    assert id_of() != before


def test_another_run_in_the_folder_is_named_by_field(tmp_path: Path) -> None:
    three, four = (compose(["method=one_hot", "dataset=digits", "seed=0", f"optim.epochs={epochs}"]) for epochs in (3, 4))
    write_json(tmp_path / "identity.json", identity_document(three))
    check_same(tmp_path, three)
    with pytest.raises(UserError, match=r"optim\.epochs is 3, not 4\."):
        check_same(tmp_path, four)
    write_json(tmp_path / "identity.json", {"run_id": "an older one", "fields": {"seed": 0}})
    with pytest.raises(UserError, match="meta.interval is absent, not 1"):
        check_same(tmp_path, three)
