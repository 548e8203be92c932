"""A status.json that was damaged is a state with a name: never a traceback, and never a reason to train a run again unasked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from made_plans import call, calls, plan_of

from repro.config.compose import compose
from repro.config.identity import run_id
from repro.errors import UserError
from repro.runs.state import Status, note_failure, read_state, requeue
from repro.training.run import execute
from slurm.jobs.states import JobStates

WHOLE = vars(Status(attempt=1, heartbeat_s=15.0))
DAMAGED = {
    "empty": "",
    "no JSON": "{",
    "a list": "[1]",
    "a number": "1",
    "too deep": "[" * 100_000,
    "no state": json.dumps({"attempt": 1}),
    "a state that does not exist": json.dumps(WHOLE | {"state": "finished"}),
    "a list as state": json.dumps(WHOLE | {"state": ["done"]}),
    **{
        f"no {key}": json.dumps({name: value for name, value in WHOLE.items() if name != key})
        for key in ("heartbeat", "heartbeat_s", "pid")
    },
    **{
        f"{key}: {value}": json.dumps(WHOLE | {key: value})
        for key, value in (
            *(("heartbeat", value) for value in (None, 3, "yesterday", "2020-01-01T00:00:00")),
            *(("heartbeat_s", value) for value in (None, "often", "NaN", -1, [])),
            *(("pid", value) for value in (None, "me", 10**30, -1)),
        )
    },
}


def damaged(folder: Path, content: str) -> None:
    folder.mkdir(parents=True)
    (folder / "status.json").write_text(content)


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_status_has_a_name_and_can_be_replaced(tmp_path: Path, what: str) -> None:
    damaged(tmp_path / "a", DAMAGED[what])
    assert read_state(tmp_path / "a") == "damaged"
    view = JobStates(tmp_path).view("a")
    assert view.state == "damaged"
    assert "status.json cannot be read" in view.why
    assert requeue(tmp_path / "a"), "whoever asks for it gets it trained again"
    assert read_state(tmp_path / "a") == "queued"
    damaged(tmp_path / "b", DAMAGED[what])
    assert note_failure(tmp_path / "b", "killed")
    assert read_state(tmp_path / "b") == "failed"


def test_something_else_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "a" / "status.json").mkdir(parents=True)
    assert read_state(tmp_path / "a") == "damaged"


def test_it_is_trained_again_only_when_asked_for(tmp_path: Path) -> None:
    damaged(tmp_path / "a", "{")
    outcome = call(plan_of(tmp_path, {"c": "a"}, a="done", b="done", c="done"))
    assert (outcome.done, set(outcome.failed), set(outcome.skipped)) == ({"b"}, {"a"}, {"c"})
    assert "status.json cannot be read" in outcome.failed["a"]
    assert [line[0] for line in calls(tmp_path)] == ["b"]
    assert call(plan_of(tmp_path, {"c": "a"}, a="done", b="done", c="done"), retry=True).done == set("abc")


def settings(folder: Path, *more: str) -> Any:
    return compose(["method=one_hot", "dataset=digits", "seed=0", "optim.epochs=1", "tracker=none", f"paths.runs={folder}", *more])


def test_a_run_does_not_start_over_it(tmp_path: Path) -> None:
    config = settings(tmp_path)
    damaged(tmp_path / run_id(config), "{")
    (tmp_path / run_id(config) / "identity.json").unlink(missing_ok=True)
    with pytest.raises(UserError, match=r"status\.json cannot be read.*delete it"):
        execute(config)
    assert (tmp_path / run_id(config) / "status.json").read_text() == "{"


@pytest.mark.parametrize("why", ["data", "device"])
def test_a_run_that_could_not_start_leaves_nothing_that_counts(tmp_path: Path, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    more = [f"paths.data={tmp_path / 'nowhere'}", "dataset=cifar10", "model=resnet18"] if why == "data" else ["exec.device=mps"]
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    config = settings(tmp_path, *more)
    folder = tmp_path / run_id(config)
    with pytest.raises(UserError):
        execute(config)
    assert {path.name for path in folder.glob("*")} <= {".lock"}
    # One that has begun before is not forgotten.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    monkeypatch.setattr("repro.training.run.check_same", lambda folder, config: None)
    (folder / "identity.json").write_text("{}")
    with pytest.raises(UserError):
        execute(config)
    assert read_state(folder) == "failed"
