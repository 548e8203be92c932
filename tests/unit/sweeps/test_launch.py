import math
import os
import signal
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
from fake_workers import begin, finish
from made_plans import call, calls, plan_of, trained

from repro.files import write_json

#: Two folds, a student of both, and a student of that.
GRAPH = {"c": "ab", "d": "c"}


@pytest.fixture(autouse=True)
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeps.launch.PRELOAD", ("sweeps.launch", "fake_workers"))


def test_inputs_come_first_and_a_second_call_finds_everything_done(tmp_path: Path) -> None:
    behaviours = dict.fromkeys("abcde", "done")
    outcome = call(plan_of(tmp_path, GRAPH, **behaviours))
    assert set(outcome.done) == set("abcde")
    assert outcome.exit_code == 0
    order = trained(tmp_path)
    assert max(order.index("a"), order.index("b")) < order.index("c") < order.index("d")
    assert set(call(plan_of(tmp_path, GRAPH, **behaviours)).done) == set("abcde")
    assert trained(tmp_path) == order


def test_what_fails_is_named_stops_its_readers_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = plan_of(tmp_path, GRAPH, a="done", b="fail", c="done", d="done", e="die", f="quit", g="done", h="mute")
    outcome = call(plan)
    assert set(outcome.done) == {"a", "g"}
    assert outcome.failed["b"] == "as it was told"
    assert outcome.failed["e"].startswith("killed by SIGKILL")
    assert "error: the file is not there" in outcome.failed["f"]
    assert "is the disk full?" in outcome.failed["h"]
    assert outcome.skipped == {"c": "its input b is not done", "d": "its input c is not done"}
    assert outcome.exit_code == 1
    assert "failed: fake: b (b): as it was told" in capsys.readouterr().err
    again = call(plan_of(tmp_path, GRAPH, a="done", b="done", c="done", d="done", e="die", f="done", g="done"))
    assert set(again.done) == {"a", "e", "f", "g"}
    assert again.failed == {"b": "as it was told --retry tries it again."}
    behaviours = {"a": "done", "b": "done", "c": "done", "d": "done"}
    assert set(call(plan_of(tmp_path, GRAPH, **behaviours), retry=True).done) == set("abcd")


@pytest.mark.parametrize("behaviour", ["wait", "deaf"])
def test_a_signal_stops_the_runs_and_a_second_one_kills_them(behaviour: str, tmp_path: Path) -> None:
    outcome = call(plan_of(tmp_path, a=behaviour, b="done"), jobs=1)
    assert (outcome.stopped_by, outcome.exit_code) == (signal.SIGINT, 130)
    assert trained(tmp_path) == "a"
    assert not outcome.done
    assert not outcome.failed
    assert set(call(plan_of(tmp_path, a=behaviour, b="done"), jobs=1).done) == {"a", "b"}
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_after_the_deadline_nothing_begins(tmp_path: Path) -> None:
    outcome = call(plan_of(tmp_path, a="done"), deadline=-math.inf)
    assert (outcome.out_of_time, outcome.exit_code) == (True, 124)
    assert not calls(tmp_path)


def test_a_run_that_another_process_trains_is_waited_for(tmp_path: Path) -> None:
    begin(tmp_path / "a")
    outcome = call(plan_of(tmp_path, {"c": "a"}, a="fail", b="a", c="done"), jobs=1)
    assert set(outcome.done) == set("abc")
    assert trained(tmp_path) == "bc"


@pytest.mark.parametrize(
    ("mode", "done", "left", "expected"), [("refuse", "", "a", ""), ("accept", "ab", "", "b"), ("retrain", "ab", "", "ab")]
)
def test_what_a_different_version_of_the_code_made(mode: str, done: str, left: str, expected: str, tmp_path: Path) -> None:
    finish(tmp_path / "a")
    outcome = call(plan_of(tmp_path, {"b": "a"}, changed="a", a="done", b="done"), changed_code=mode)
    assert (set(outcome.done), set(outcome.changed)) == (set(done), set(left))
    assert trained(tmp_path) == expected
    assert all(f"exec.on_changed_code={mode}" in overrides for overrides in calls(tmp_path))


def test_what_only_finished_runs_read_is_not_trained(tmp_path: Path) -> None:
    finish(tmp_path / "c")
    outcome = call(plan_of(tmp_path, GRAPH, a="done", b="done", c="done", d="done"))
    assert (set(outcome.done), set(outcome.spared)) == ({"c", "d"}, {"a", "b"})
    assert outcome.exit_code == 0


def test_the_command_line_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    write_json(tmp_path / "b" / "provenance.json", {"threads": 7})
    call(plan_of(tmp_path, a="done", b="done"), jobs=2, settings=["exec.device=cpu"])
    first, second = sorted(calls(tmp_path))
    assert f"exec.threads={max(1, len(os.sched_getaffinity(0)) // 2)}" in first
    assert "exec.threads=7" in second, "a resumed run repeats its bits only with as many threads as before"
    assert first[-1] == "exec.device=cpu"


def test_a_run_that_cannot_be_forked_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(process: ForkServerProcess) -> None:
        raise EOFError

    monkeypatch.setattr(ForkServerProcess, "start", broken)
    outcome = call(plan_of(tmp_path, a="done", b="done"))
    assert outcome.failed.keys() == {"a", "b"}
    assert "was killed" in outcome.failed["a"]
