import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing import forkserver
from pathlib import Path

import pytest
from fake_workers import go_on
from made_plans import GRAPH, call, calls, driver, plan_of, state, state_or_none, wait_until

import sweeps.local.queue
import sweeps.local.worker
from repro.files import read_json
from repro.runs.folder import RunFolder
from sweeps.local.progress import Outcome, Progress
from sweeps.plan.plan import Plan, PlannedRun, planned_state


def test_every_run_gets_a_process_of_its_own_and_is_done_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = plan_of(tmp_path, a="done", b="done", c="done")
    outcome = call(plan)
    assert outcome.done == {"a", "b", "c"}
    assert outcome.exit_code == 0
    made = calls(tmp_path)
    assert sorted(name for name, *_ in made) == ["a", "b", "c"]
    processes = {int(pid) for _, _, pid, _ in made}
    assert len(processes | {os.getpid()}) == 4
    assert all(pid == group for _, _, pid, group in made)
    written = capsys.readouterr().err
    assert "[3/3] done in" in written
    assert call(plan_of(tmp_path, a="done", b="done", c="done")).done == {"a", "b", "c"}
    assert len(calls(tmp_path)) == 3
    assert capsys.readouterr().err == ""


def test_no_more_than_jobs_at_a_time_and_the_cores_are_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps.local.queue, "_num_cores", lambda: 8)
    most = 0

    def watch(self: Progress, running: Sequence[PlannedRun], elsewhere: Sequence[PlannedRun]) -> None:
        nonlocal most
        most = max(most, len(running))

    monkeypatch.setattr(Progress, "refresh", watch)
    call(plan_of(tmp_path, a="done", b="done", c="done", d="done", e="done"), jobs=3)
    assert most == 3
    assert {threads for _, threads, *_ in calls(tmp_path)} == {"2"}


def test_runs_side_by_side_share_what_a_gpu_costs(tmp_path: Path) -> None:
    call(plan_of(tmp_path, a="done", b="done", c="done", d="done"), jobs=3)
    call(plan_of(tmp_path / "alone", a="done"), jobs=3)
    hours = [read_json(tmp_path / name / "cost.json")["gpu_hours"] for name in ("a", "b", "c", "alone/a")]
    assert hours == [1 / 3, 1 / 3, 1 / 3, 1.0]


def test_a_failure_is_named_and_stops_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = call(plan_of(tmp_path, a="fail", b="done", c="quit"), jobs=1)
    assert outcome.exit_code == 1
    assert outcome.done == {"b"}
    assert outcome.failed["a"] == "ValueError: as it was told"
    assert outcome.failed["c"].startswith("exit code 2: error: the file is not there")
    assert "FAILED: fake: a (a): ValueError: as it was told" in capsys.readouterr().err
    assert "ValueError: as it was told" in (tmp_path / "logs" / "a.log").read_text()


def test_a_killed_worker_is_named_and_the_next_call_goes_on(tmp_path: Path) -> None:
    outcome = call(plan_of(tmp_path, a="die", b="done"))
    assert outcome.done == {"b"}
    assert outcome.failed["a"].startswith("killed by signal 9 (SIGKILL)")
    plan = plan_of(tmp_path, a="die", b="done")
    assert plan.runs["a"].state == "lost"
    assert call(plan).done == {"a", "b"}


def test_a_resumed_run_keeps_its_number_of_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps.local.queue, "_num_cores", lambda: 4)
    call(plan_of(tmp_path, a="die"), jobs=1)
    call(plan_of(tmp_path, a="die"), jobs=4)
    assert [threads for _, threads, *_ in calls(tmp_path)] == ["4", "4"]


def test_workers_outlive_the_process_that_forked_them(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, a="while", b="done")

    def kill_server() -> None:
        while state_or_none(tmp_path, "a") != "running":
            time.sleep(0.02)
        os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)
        go_on(tmp_path)

    killer = threading.Thread(target=kill_server)
    killer.start()
    outcome = call(plan, jobs=1)
    killer.join()
    assert outcome.done == {"a", "b"}


def test_a_server_that_is_killed_as_it_forks_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect, killed = forkserver.connect_to_new_process, []

    def connect_and_kill(fds: list[int]) -> tuple[int, int]:
        if killed:
            return connect(fds)
        server = forkserver._forkserver._forkserver_pid
        # Stopped first, so that it cannot fork before it is killed.
        os.kill(server, signal.SIGSTOP)
        found = connect(fds)
        os.kill(server, signal.SIGKILL)
        killed.append(server)
        return found

    monkeypatch.setattr(forkserver, "connect_to_new_process", connect_and_kill)
    outcome = call(plan_of(tmp_path, a="done", b="done"))
    assert len(killed) == 1
    assert (outcome.done, outcome.failed) == ({"a", "b"}, {})


def test_a_server_that_is_still_dying_is_given_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as the system has not ended it, multiprocessing takes it for alive, and it refuses connections."""
    connect, pauses = forkserver.connect_to_new_process, []

    def connect_later(fds: list[int]) -> tuple[int, int]:
        if len(pauses) < 3:
            raise ConnectionRefusedError
        return connect(fds)

    monkeypatch.setattr(forkserver, "connect_to_new_process", connect_later)
    monkeypatch.setattr(sweeps.local.worker.time, "sleep", pauses.append)
    process = sweeps.local.worker.start(sweeps.local.worker.start_server(()), len, [], tmp_path / "log", name="a")
    process.join()
    assert process.exitcode == 0
    assert pauses == pytest.approx([0.2, 0.4, 0.6])


@pytest.fixture
def waited_for(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when the planner waits for a run that another process trains."""
    seen = threading.Event()

    def refresh(self: Progress, running: Sequence[PlannedRun], elsewhere: Sequence[PlannedRun]) -> None:
        if elsewhere:
            seen.set()

    monkeypatch.setattr(Progress, "refresh", refresh)
    return seen


def call_while_held(folder: Path, monkeypatch: pytest.MonkeyPatch, heartbeat_s: float, meanwhile: Callable[[RunFolder], object]) -> None:
    """Train run a while another holds it and does ``meanwhile``; it must be done in the end."""
    monkeypatch.setattr(sweeps.local.queue, "TRY_AGAIN_S", 0.3)
    plan, held = plan_of(folder, a="done"), threading.Event()

    def train_elsewhere() -> None:
        with RunFolder(folder / "a").hold(heartbeat_s=heartbeat_s, epochs=2) as other:
            held.set()
            meanwhile(other)

    thread = threading.Thread(target=train_elsewhere)
    thread.start()
    held.wait()
    outcome = call(plan)
    thread.join()
    assert (outcome.done, outcome.failed) == ({"a"}, {})


@pytest.mark.parametrize(("ended", "processes"), [("done", 0), ("preempted", 1)])
def test_a_run_that_another_process_trains_is_waited_for(
    tmp_path: Path, ended: str, processes: int, waited_for: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    call_while_held(tmp_path, monkeypatch, 5, lambda other: (waited_for.wait(300), other.end(ended)))
    assert read_json(tmp_path / "a" / "status.json")["attempt"] == 1 + processes
    # One that comes before the other has given its lock back tries again.
    assert len(calls(tmp_path)) >= processes
    assert ended != "done" or calls(tmp_path) == []


def test_a_lock_that_shows_no_sign_of_life_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def silently(other: RunFolder) -> None:
        # As a process that was suspended, or that has the lock but has not said so yet.
        (tmp_path / "a" / "status.json").unlink()
        log = tmp_path / "logs" / "a.log"
        wait_until(lambda: log.exists() and "another process is training" in log.read_text())

    call_while_held(tmp_path, monkeypatch, 100, silently)
    assert len(calls(tmp_path)) > 1


def test_a_worker_that_another_process_replaced_has_not_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps.local.queue, "TRY_AGAIN_S", 0.1)
    outcome = call(plan_of(tmp_path, a="taken", b="done"))
    assert (outcome.done, outcome.failed) == ({"a", "b"}, {})
    assert read_json(tmp_path / "a" / "status.json")["attempt"] == 2


@pytest.mark.parametrize(
    ("number", "whole_group"), [(signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGTERM, True), (signal.SIGHUP, False)]
)
def test_a_stop_signal_lets_the_workers_save_and_the_next_call_goes_on(tmp_path: Path, number: int, whole_group: bool) -> None:
    process = driver(tmp_path, "slow", "abc")
    wait_until(lambda: [state_or_none(tmp_path, name) for name in "ab"] == ["running", "running"])
    # Ctrl-C in a terminal reaches every process of the foreground group.
    (os.killpg if whole_group else os.kill)(process.pid, number)
    written, _ = process.communicate(timeout=300)
    assert process.returncode == 128 + number, written
    assert "stopping: 2 runs save their state" in written
    for name in "ab":
        status = read_json(tmp_path / name / "status.json")
        assert status["state"] == "preempted"
        assert status["error"] == f"stopped by [{int(signal.SIGTERM)}]"
    assert state_or_none(tmp_path, "c") is None
    outcome = call(plan_of(tmp_path, a="done", b="done", c="done"))
    assert outcome.done == {"a", "b", "c"}


@pytest.mark.parametrize("inputs", [{}, {"c": "ab", "d": "ab", "g": "cf", "h": "g"}])
def test_two_planners_train_every_run_once(tmp_path: Path, inputs: dict[str, str]) -> None:
    names = "abcdefgh"
    both = [driver(tmp_path, "done", names, inputs=inputs) for _ in range(2)]
    for process in both:
        written, _ = process.communicate(timeout=300)
        assert process.returncode == 0, written
        assert f"{sorted(names)} {{}}" in written
    assert [read_json(tmp_path / name / "status.json")["attempt"] for name in names] == [1] * len(names)


@pytest.mark.parametrize(("names", "inputs"), [("ab", {}), ("abcd", GRAPH)])
def test_a_killed_planner_leaves_runs_that_the_next_one_waits_for(
    tmp_path: Path, names: str, inputs: dict[str, str], waited_for: threading.Event
) -> None:
    process = driver(tmp_path, "while", names, inputs=inputs)
    wait_until(lambda: [state_or_none(tmp_path, name) for name in "ab"] == ["running", "running"])
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    ender = threading.Thread(target=lambda: (waited_for.wait(300), go_on(tmp_path)))
    ender.start()
    assert call(plan_of(tmp_path, inputs, **dict.fromkeys(names, "while"))).done == set(names)
    ender.join()
    assert [read_json(tmp_path / name / "status.json")["attempt"] for name in names] == [1] * len(names)
    process.communicate()


def test_a_planner_and_workers_that_were_all_killed_go_on(tmp_path: Path) -> None:
    process = driver(tmp_path, "while", "abcd", inputs=GRAPH)
    wait_until(lambda: [state_or_none(tmp_path, name) for name in "ab"] == ["running", "running"])
    os.kill(process.pid, signal.SIGKILL)
    for _, _, pid, _ in calls(tmp_path):
        os.kill(int(pid), signal.SIGKILL)
    process.communicate()
    wait_until(lambda: [planned_state(tmp_path / name) for name in "abc"] == ["lost", "lost", "missing"])
    plan = plan_of(tmp_path, GRAPH, a="while", b="while", c="done", d="done")
    assert call(plan).done == set("abcd")
    assert [read_json(tmp_path / name / "status.json")["attempt"] for name in "abcd"] == [2, 2, 1, 1]


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
