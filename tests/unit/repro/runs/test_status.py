"""A damaged status.json is a state with a name, never a reason to train a run again unasked; what a run costs, attempt by attempt."""

import json
import shutil
from pathlib import Path

import pytest
from made_plans import call, calls, plan_of
from real_runs import tiny

from repro.config.identity import run_id
from repro.errors import UserError
from repro.files import read_json, write_json
from repro.runs.folder import GPU_SHARE, RunFolder
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


def test_a_run_does_not_start_over_it(tmp_path: Path) -> None:
    config = tiny(tmp_path)
    damaged(tmp_path / run_id(config), "{")
    (tmp_path / run_id(config) / "identity.json").unlink(missing_ok=True)
    with pytest.raises(UserError, match=r"status\.json cannot be read.*delete it"):
        execute(config)
    assert (tmp_path / run_id(config) / "status.json").read_text() == "{"


@pytest.mark.parametrize("why", ["data", "device"])
def test_a_run_that_could_not_start_leaves_nothing_that_counts(tmp_path: Path, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    more = [f"paths.data={tmp_path / 'nowhere'}", "dataset=cifar10", "model=resnet18"] if why == "data" else ["exec.device=mps"]
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    config = tiny(tmp_path, *more)
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


def attempt(folder: Path, *, wall_s: float, on_gpu: bool) -> None:
    with RunFolder(folder).hold(heartbeat_s=1000, epochs=1) as held:
        held.add_cost(wall_s=wall_s, on_gpu=on_gpu, peak_gib=1.0)


def test_runs_that_share_a_gpu_pay_for_it_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(GPU_SHARE, "3")
    attempt(tmp_path, wall_s=3600.0, on_gpu=True)
    monkeypatch.delenv(GPU_SHARE)
    attempt(tmp_path, wall_s=7200.0, on_gpu=True)
    monkeypatch.setenv(GPU_SHARE, "2")
    attempt(tmp_path, wall_s=3600.0, on_gpu=False)
    assert read_json(tmp_path / "cost.json") == {"wall_s": 14400.0, "gpu_hours": 1 / 3 + 2.0, "peak_gib": 1.0, "attempts": 3}


@pytest.mark.parametrize("given", ["0", "", "-2", "two", "1.5", "²"])
def test_what_is_no_number_of_runs_is_said(
    tmp_path: Path, given: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(GPU_SHARE, given)
    attempt(tmp_path, wall_s=3600.0, on_gpu=True)
    assert read_json(tmp_path / "cost.json")["gpu_hours"] == 1.0
    assert f"REPRO_GPU_SHARE={given} is no number of runs" in caplog.text


def ended_hard(folder: Path, *, lived_s: int, gpu_share: int = 0) -> None:
    """An attempt that was killed ``lived_s`` seconds after its start, by its last heartbeat."""
    with RunFolder(folder).hold(heartbeat_s=1000, epochs=1) as held:
        write_json(folder / "identity.json", {})
        if gpu_share:
            held.use_gpu()
    status = read_json(folder / "status.json")
    assert status["state"] == "running"
    status |= {"started": "2026-01-01T00:00:00Z", "heartbeat": f"2026-01-01T{lived_s // 3600:02d}:{lived_s // 60 % 60:02d}:00Z"}
    write_json(folder / "status.json", status)


def test_an_attempt_that_ended_hard_is_counted_by_its_heartbeats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended_hard(tmp_path, lived_s=600)
    monkeypatch.setenv(GPU_SHARE, "2")
    ended_hard(tmp_path, lived_s=7200, gpu_share=2)
    monkeypatch.delenv(GPU_SHARE)
    attempt(tmp_path, wall_s=1800.0, on_gpu=True)
    expected = {"wall_s": 600.0 + 7200.0 + 1800.0, "gpu_hours": 1.0 + 0.5, "peak_gib": 1.0, "attempts": 3}
    assert read_json(tmp_path / "cost.json") == expected
    # What an attempt has counted itself is not counted again, though it went on to say running.
    attempt(tmp_path, wall_s=1800.0, on_gpu=False)
    assert read_json(tmp_path / "cost.json") == expected | {"wall_s": 11400.0, "attempts": 4}


def test_an_attempt_before_the_run_has_an_identity_costs_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    for _ in range(2):
        ended_hard(tmp_path, lived_s=600)
        (tmp_path / "identity.json").unlink()
        assert not (tmp_path / "cost.json").exists()
    with RunFolder(tmp_path).hold(heartbeat_s=1000, epochs=1) as held:
        write_json(tmp_path / "identity.json", {})
        held.add_cost(wall_s=5.0, on_gpu=False, peak_gib=1.0)
    assert read_json(tmp_path / "cost.json") == {"wall_s": 5.0, "gpu_hours": 0.0, "peak_gib": 1.0, "attempts": 3}


def test_attempts_are_counted_on_where_status_json_was_deleted(tmp_path: Path) -> None:
    write_json(tmp_path / "identity.json", {})
    attempt(tmp_path, wall_s=5.0, on_gpu=False)
    (tmp_path / "status.json").unlink()
    attempt(tmp_path, wall_s=5.0, on_gpu=False)
    assert read_json(tmp_path / "cost.json") == {"wall_s": 10.0, "gpu_hours": 0.0, "peak_gib": 1.0, "attempts": 2}
    # Whoever notes a failure where there is no status.json begins with 1.
    write_json(tmp_path / "status.json", vars(Status(attempt=1, heartbeat_s=1.0, state="failed")))
    attempt(tmp_path, wall_s=5.0, on_gpu=False)
    assert read_json(tmp_path / "cost.json")["attempts"] == 3
