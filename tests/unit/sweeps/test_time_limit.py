"""A call that has so much time: nothing begins when it is over, and what runs saves its state."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_plans import call, calls, plan_of, state, state_or_none

from repro.files import read_json
from sweeps.local.progress import Outcome
from sweeps.plan.plan import Plan


def call_until(plan: Plan, *running: str) -> Outcome:
    """A call whose time is over as soon as these runs are under way, however long that takes."""
    return call(plan, time_over=lambda: all(state_or_none(plan.folder, name) == "running" for name in running))


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


def test_without_time_nothing_begins(tmp_path: Path) -> None:
    assert call_until(plan_of(tmp_path, a="done")).exit_code == 124
    assert calls(tmp_path) == []


def test_a_run_that_does_not_stop_is_killed_and_goes_on_from_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeps.local.queue.PATIENCE_S", 0.1)
    outcome = call_until(plan_of(tmp_path, a="deaf"), "a")
    assert outcome.out_of_time
    assert plan_of(tmp_path, a="deaf").runs["a"].state == "lost"
    assert call(plan_of(tmp_path, a="done")).done == {"a"}
