from __future__ import annotations

import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import forkserver
from pathlib import Path

import pytest
from fake_workers import behave

import sweeps.local
from repro.files import read_json, write_json
from repro.rundir import RunFolder
from sweeps.local import Outcome, run_missing
from sweeps.plan import Plan, PlannedRun, planned_state
from sweeps.progress import Progress, completed_epochs

FAST = ("fake_workers",)


def planned(folder: Path, name: str, behaviour: str = "done") -> PlannedRun:
    overrides = (f"name={name}", f"behave={behaviour}")
    return PlannedRun(name, overrides, {"optim.epochs": 2}, planned_state(folder / name), (), ("fake",), f"fake: {name}")


def plan_of(folder: Path, **behaviours: str) -> Plan:
    folder.mkdir(exist_ok=True)
    return Plan(folder, (), {name: planned(folder, name, behaviour) for name, behaviour in behaviours.items()})


def call(plan: Plan, *, jobs: int = 2, retry: bool = False) -> Outcome:
    return run_missing(plan, jobs=jobs, retry=retry, worker=behave, preload=FAST)


def calls(folder: Path) -> list[list[str]]:
    """The worker processes there have been: name, threads, process id, process group."""
    path = folder / "calls.txt"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def state(folder: Path, name: str) -> str:
    return str(read_json(folder / name / "status.json")["state"])


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
    monkeypatch.setattr(sweeps.local, "_num_cores", lambda: 8)
    most = 0

    def watch(self: Progress, running: list[PlannedRun], elsewhere: list[PlannedRun]) -> None:
        nonlocal most
        most = max(most, len(running))

    monkeypatch.setattr(Progress, "refresh", watch)
    call(plan_of(tmp_path, a="done", b="done", c="done", d="done", e="done"), jobs=3)
    assert most == 3
    assert {threads for _, threads, *_ in calls(tmp_path)} == {"2"}


def test_a_failure_is_named_and_stops_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = call(plan_of(tmp_path, a="fail", b="done", c="quit"), jobs=1)
    assert outcome.exit_code == 1
    assert outcome.done == {"b"}
    assert outcome.failed["a"] == "ValueError: as it was told"
    assert outcome.failed["c"].startswith("exit code 2: error: the file is not there")
    assert "FAILED: fake: a (a): ValueError: as it was told" in capsys.readouterr().err
    assert "ValueError: as it was told" in (tmp_path / "logs" / "a.log").read_text()


def test_what_failed_before_is_tried_again_only_on_request(tmp_path: Path) -> None:
    call(plan_of(tmp_path, a="fail"))
    outcome = call(plan_of(tmp_path, a="done"))
    assert outcome.exit_code == 1
    assert outcome.failed == {"a": "ValueError: as it was told (failed before; --retry tries it again)"}
    assert len(calls(tmp_path)) == 1
    outcome = call(plan_of(tmp_path, a="done"), retry=True)
    assert outcome.exit_code == 0
    assert outcome.done == {"a"}


def test_a_killed_worker_is_named_and_the_next_call_goes_on(tmp_path: Path) -> None:
    outcome = call(plan_of(tmp_path, a="die", b="done"))
    assert outcome.done == {"b"}
    assert outcome.failed["a"].startswith("killed by signal 9 (SIGKILL)")
    plan = plan_of(tmp_path, a="die", b="done")
    assert plan.runs["a"].state == "lost"
    assert call(plan).done == {"a", "b"}


def test_a_resumed_run_keeps_its_number_of_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps.local, "_num_cores", lambda: 4)
    call(plan_of(tmp_path, a="die"), jobs=1)
    call(plan_of(tmp_path, a="die"), jobs=4)
    assert [threads for _, threads, *_ in calls(tmp_path)] == ["4", "4"]


def test_workers_outlive_the_process_that_forked_them(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, a="while", b="done")

    def kill_server() -> None:
        while state_or_none(tmp_path, "a") != "running":
            time.sleep(0.02)
        os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)  # type: ignore[attr-defined]

    killer = threading.Thread(target=kill_server)
    killer.start()
    outcome = call(plan, jobs=1)
    killer.join()
    assert outcome.done == {"a", "b"}


def state_or_none(folder: Path, name: str) -> str | None:
    try:
        return state(folder, name)
    except FileNotFoundError:
        return None


@pytest.mark.parametrize(("ended", "processes"), [("done", 0), ("preempted", 1)])
def test_a_run_that_another_process_trains_is_waited_for(tmp_path: Path, ended: str, processes: int) -> None:
    plan = plan_of(tmp_path, a="done")
    held = threading.Event()

    def train_elsewhere() -> None:
        with RunFolder(tmp_path / "a").hold(heartbeat_s=5, epochs=2) as folder:
            held.set()
            time.sleep(0.7)
            folder.end(ended)

    other = threading.Thread(target=train_elsewhere)
    other.start()
    held.wait()
    outcome = call(plan)
    other.join()
    assert outcome.done == {"a"}
    assert outcome.failed == {}
    assert len(calls(tmp_path)) == processes


def test_a_run_that_fails_elsewhere_has_failed(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, a="done")
    with RunFolder(tmp_path / "a").hold(heartbeat_s=5, epochs=2) as folder:
        timer = threading.Timer(0.5, folder.end, ("failed",), {"error": "ValueError: elsewhere"})
        timer.start()
        outcome = call(plan)
        timer.join()
    assert outcome.failed == {"a": "ValueError: elsewhere"}
    assert outcome.exit_code == 1


def test_a_lock_that_shows_no_sign_of_life_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps.local, "TRY_AGAIN_S", 0.3)
    plan = plan_of(tmp_path, a="done")
    held = threading.Event()

    def hold_silently() -> None:
        with RunFolder(tmp_path / "a").hold(heartbeat_s=100, epochs=2):
            # As a process that was suspended, or that has the lock but has not said so yet.
            (tmp_path / "a" / "status.json").unlink()
            held.set()
            time.sleep(1.0)

    other = threading.Thread(target=hold_silently)
    other.start()
    held.wait()
    outcome = call(plan)
    other.join()
    assert outcome.done == {"a"}
    assert outcome.failed == {}
    assert len(calls(tmp_path)) > 1


def driver(folder: Path, behaviour: str, names: str, jobs: int = 2) -> subprocess.Popen[str]:
    """Another planner, as a process of its own in a process group of its own, as a shell would start it."""
    code = (
        "import sys; from pathlib import Path; from test_local_queue import call, plan_of\n"
        "if __name__ == '__main__':\n"
        f"    outcome = call(plan_of(Path({str(folder)!r}), **dict.fromkeys({names!r}, {behaviour!r})), jobs={jobs})\n"
        "    print(sorted(outcome.done), outcome.failed)\n"
        "    sys.exit(outcome.exit_code)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def wait_until(condition: object, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("number", "whole_group"), [(signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGTERM, True), (signal.SIGHUP, False)]
)
def test_a_stop_signal_lets_the_workers_save_and_the_next_call_goes_on(tmp_path: Path, number: int, whole_group: bool) -> None:
    process = driver(tmp_path, "slow", "abc")
    wait_until(lambda: [state_or_none(tmp_path, name) for name in "ab"] == ["running", "running"])
    # Ctrl-C in a terminal reaches every process of the foreground group.
    (os.killpg if whole_group else os.kill)(process.pid, number)
    written, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + number, written
    assert "stopping: 2 runs save their state" in written
    for name in "ab":
        status = read_json(tmp_path / name / "status.json")
        assert status["state"] == "preempted"
        assert status["error"] == f"stopped by [{int(signal.SIGTERM)}]"
    assert state_or_none(tmp_path, "c") is None
    outcome = call(plan_of(tmp_path, a="done", b="done", c="done"))
    assert outcome.done == {"a", "b", "c"}


def test_two_planners_train_every_run_once(tmp_path: Path) -> None:
    names = "abcdefgh"
    both = [driver(tmp_path, "done", names) for _ in range(2)]
    for process in both:
        written, _ = process.communicate(timeout=60)
        assert process.returncode == 0, written
        assert f"{sorted(names)} {{}}" in written
    assert [read_json(tmp_path / name / "status.json")["attempt"] for name in names] == [1] * len(names)


def test_a_killed_planner_leaves_runs_that_the_next_one_waits_for(tmp_path: Path) -> None:
    process = driver(tmp_path, "while", "ab")
    wait_until(lambda: [state_or_none(tmp_path, name) for name in "ab"] == ["running", "running"])
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert call(plan_of(tmp_path, a="while", b="while")).done == {"a", "b"}
    assert [read_json(tmp_path / name / "status.json")["attempt"] for name in "ab"] == [1, 1]
    process.communicate()


def test_completed_epochs_are_read_from_whole_lines(tmp_path: Path) -> None:
    assert completed_epochs(tmp_path) == 0
    rows = [json.dumps({"epoch": epoch, "much": "x" * 9000}) + "\n" for epoch in range(20)]
    (tmp_path / "metrics.jsonl").write_text("".join(rows))
    assert completed_epochs(tmp_path) == 19
    (tmp_path / "metrics.jsonl").write_text("".join(rows)[:-5])
    assert completed_epochs(tmp_path) == 18


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_line_on_a_terminal_counts_runs_and_epochs(tmp_path: Path) -> None:
    runs = [planned(tmp_path, name) for name in "abc"]
    for run, epoch in zip(runs, (0, 1, 0), strict=True):
        (tmp_path / run.run_id).mkdir()
        (tmp_path / run.run_id / "metrics.jsonl").write_text(json.dumps({"epoch": epoch}) + "\n")
    screen = Terminal()
    progress = Progress(runs, tmp_path, total=4, finished=1, failed=0, stream=screen)
    progress.finished(runs[0], "in 1 s")
    progress.failed(runs[2], "ValueError: no")
    progress.refresh([runs[1]], [])
    progress.close()
    shown = screen.getvalue()
    assert "2/4 runs done, 1 running, 1 failed" in shown
    assert "| 3/6 " in shown
    assert "FAILED: fake: c (c): ValueError: no" in shown


def test_an_unreadable_status_is_no_traceback(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {})
    assert sweeps.local._last_error(tmp_path / "nowhere") == "its status.json cannot be read"
    assert multiprocessing.active_children() == []
