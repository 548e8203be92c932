"""A call that has so much time: nothing begins when it is over, and what runs saves its state."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from fake_workers import behave
from made_plans import FAST, call, calls, plan_of, state, state_or_none

from repro.files import read_json
from sweeps.local import Outcome, TimeLimit, run_missing
from sweeps.plan import Plan
from sweeps.worker import Worker


def call_for(plan: Plan, seconds: float, *, patience_s: float = 300.0, jobs: int = 2, worker: Worker = behave) -> Outcome:
    return run_missing(plan, jobs=jobs, limit=TimeLimit(time.monotonic() + seconds, patience_s), worker=worker, preload=FAST)


def call_until(plan: Plan, *running: str, patience_s: float = 300.0) -> Outcome:
    """A call whose time is over as soon as these runs are under way, however long that takes."""

    class Until(TimeLimit):
        @property
        def over(self) -> bool:
            return [state_or_none(plan.folder, name) for name in running] == ["running"] * len(running)

    return run_missing(plan, jobs=2, limit=Until(0.0, patience_s), worker=behave, preload=FAST)


def test_what_runs_saves_its_state_nothing_begins_and_the_next_call_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = call_until(plan_of(tmp_path, {"d": "ab"}, a="done", b="slow", c="slow", d="done"), "b", "c")
    assert outcome.out_of_time
    assert outcome.exit_code == 124
    assert outcome.done == {"a"}
    assert (outcome.failed, outcome.skipped) == ({}, {})
    assert [state(tmp_path, name) for name in "bc"] == ["preempted", "preempted"]
    assert state_or_none(tmp_path, "d") is None
    said = capsys.readouterr().err
    assert "the time is over: 2 runs save their state and stop; 1 of 4 runs are done." in said
    assert "Ctrl-C" not in said
    after = call(plan_of(tmp_path, {"d": "ab"}, a="done", b="done", c="done", d="done"))
    assert after.done == set("abcd")
    assert [read_json(tmp_path / name / "status.json")["attempt"] for name in "abcd"] == [1, 2, 2, 1]


def test_time_that_is_enough_changes_nothing(tmp_path: Path) -> None:
    outcome = call_for(plan_of(tmp_path, a="done", b="fail"), 600.0)
    assert not outcome.out_of_time
    assert outcome.exit_code == 1
    assert outcome.done == {"a"}


def test_without_time_nothing_begins(tmp_path: Path) -> None:
    assert call_for(plan_of(tmp_path, a="done"), 0.0).exit_code == 124
    assert calls(tmp_path) == []


def test_a_run_that_does_not_stop_is_killed_and_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    outcome = call_until(plan_of(tmp_path, a="deaf"), "a", patience_s=0.1)
    assert outcome.out_of_time
    assert plan_of(tmp_path, a="deaf").runs["a"].state == "lost"
    assert call(plan_of(tmp_path, a="done")).done == {"a"}
