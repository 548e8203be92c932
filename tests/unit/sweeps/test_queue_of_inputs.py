"""Runs that read other runs, in the local queue."""

import dataclasses
import shutil
import threading
from pathlib import Path

import pytest
from made_plans import GRAPH, call, calls, plan_of, state_or_none

from repro.files import write_json
from repro.runs.folder import RunFolder


def test_inputs_are_trained_before_their_readers_whatever_their_order(tmp_path: Path) -> None:
    # Readers stand first in this plan; a worker whose input is not done fails.
    plan = plan_of(tmp_path, GRAPH, a="done", b="done", c="done", d="done", e="done")
    plan = dataclasses.replace(plan, runs=dict(reversed(plan.runs.items())))
    outcome = call(plan, jobs=3)
    assert outcome.done == set("abcde")
    assert (outcome.failed, outcome.skipped, outcome.exit_code) == ({}, {}, 0)


def test_of_the_runs_that_may_begin_the_earlier_in_the_plan_comes_first(tmp_path: Path) -> None:
    call(plan_of(tmp_path, {"b": "a"}, a="done", b="done", c="done", d="done"), jobs=1)
    assert [name for name, *_ in calls(tmp_path)] == ["a", "b", "c", "d"]


def test_what_depends_on_a_failed_run_is_skipped_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = call(plan_of(tmp_path, {**GRAPH, "f": "e"}, a="fail", b="done", c="done", d="done", e="done", f="done"))
    assert outcome.exit_code == 1
    assert outcome.done == {"b", "e", "f"}
    assert list(outcome.failed) == ["a"]
    assert outcome.skipped == {"c": "its input a failed", "d": "a failed, which its input c needs"}
    assert dataclasses.replace(outcome, failed={}).exit_code == 1
    written = capsys.readouterr().err
    assert "skipped: fake: c (c): its input a failed" in written
    assert "skipped: fake: d (d): a failed, which its input c needs" in written
    assert state_or_none(tmp_path, "c") is None


def test_a_run_that_failed_before_holds_its_readers_up_until_it_is_tried_again(tmp_path: Path) -> None:
    call(plan_of(tmp_path, a="fail"))
    everything = {"b": "done", "c": "done", "d": "done"}
    outcome = call(plan_of(tmp_path, GRAPH, a="done", **everything))
    assert outcome.exit_code == 1
    assert outcome.done == {"b"}
    assert outcome.failed == {"a": "ValueError: as it was told (failed before; --retry tries it again)"}
    assert outcome.skipped == {"c": "its input a failed", "d": "a failed, which its input c needs"}
    assert [name for name, *_ in calls(tmp_path)] == ["a", "b"]
    outcome = call(plan_of(tmp_path, GRAPH, a="done", **everything), retry=True)
    assert outcome.done == set("abcd")
    assert outcome.skipped == {}


def test_a_reader_that_is_done_needs_its_input_no_more(tmp_path: Path) -> None:
    call(plan_of(tmp_path, {"b": "a"}, a="done", b="done"))
    write_json(tmp_path / "a" / "status.json", {"state": "failed", "error": "ValueError: later"})
    outcome = call(plan_of(tmp_path, {"b": "a"}, a="done", b="done"))
    assert outcome.done == {"b"}
    assert outcome.skipped == {}


def test_an_input_that_is_gone_is_the_failure_of_its_reader(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, {"b": "a", "c": "b"}, a="done", b="done", c="done")
    runs = plan.runs | {"a": dataclasses.replace(plan.runs["a"], state="done")}
    outcome = call(dataclasses.replace(plan, runs=runs))
    assert list(outcome.failed) == ["b"]
    assert outcome.failed["b"].startswith("exit code 2: error: input a is queued, not done.")
    assert outcome.skipped == {"c": "its input b failed"}


@pytest.mark.parametrize("ended", ["done", "failed"])
def test_an_input_that_another_process_trains_is_waited_for(tmp_path: Path, ended: str) -> None:
    plan = plan_of(tmp_path, {"b": "a"}, a="done", b="done")
    with RunFolder(tmp_path / "a").hold(heartbeat_s=5, epochs=2) as folder:
        timer = threading.Timer(0.5, folder.end, (ended,), {"error": "ValueError: elsewhere" if ended == "failed" else None})
        timer.start()
        outcome = call(plan)
        timer.join()
    assert [name for name, *_ in calls(tmp_path)] == (["b"] if ended == "done" else [])
    assert outcome.done == ({"a", "b"} if ended == "done" else set())
    assert outcome.failed == ({} if ended == "done" else {"a": "ValueError: elsewhere"})
    assert outcome.skipped == ({} if ended == "done" else {"b": "its input a failed"})


def test_an_input_that_only_a_finished_run_reads_is_not_trained(tmp_path: Path) -> None:
    call(plan_of(tmp_path, a="done", b="done", inputs={"b": "a"}))
    shutil.rmtree(tmp_path / "a")
    assert call(plan_of(tmp_path, a="done", b="done", inputs={"b": "a"})).exit_code == 0
    assert [name for name, *_ in calls(tmp_path)] == ["a", "b"]
    # Another reader that is not done needs it.
    call(plan_of(tmp_path, a="done", b="done", c="done", inputs={"b": "a", "c": "a"}))
    assert [name for name, *_ in calls(tmp_path)] == ["a", "b", "a", "c"]
