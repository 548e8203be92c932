"""Who may write a run folder, which state it is in, and what its attempts cost."""

import datetime as dt
import errno
import fcntl
import json
import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from repro.errors import Interrupted, UserError
from repro.files import read_json, write_json
from repro.runs import folder as folder_module
from repro.runs.folder import GPU_SHARE, FinishedError, RunFolder, parse_metrics
from repro.runs.lock import HeldError, acquire
from repro.runs.manifest import verify
from repro.runs.state import TrainedElsewhereError, corruption, now, read_state, requeue


def run_folder(path: Path, **more: Any) -> RunFolder:
    return RunFolder(path, heartbeat_s=1000, epochs=3, **more)


def status(**more: Any) -> dict[str, Any]:
    """The status of a run on another host that has just written its heartbeat."""
    return {"state": "running", "host": "elsewhere", "pid": 1, "heartbeat": now(), "heartbeat_s": 15.0, "token": "x"} | more


def ended_process() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that answers every lock with an error."""

    def refuse(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with run_folder(tmp_path).acquire() as folder:
        assert read_state(tmp_path) == "running"
        with pytest.raises(TrainedElsewhereError, match="another process is training this run"), run_folder(tmp_path).acquire():
            pass
        with pytest.raises(HeldError, match="another process holds this lock"), acquire(tmp_path / ".lock", timeout_s=0.01):
            pass
        folder.end("failed")
        assert not requeue(tmp_path), "its lock is held"
    assert requeue(tmp_path)
    assert read_state(tmp_path) == "queued"
    assert not requeue(tmp_path)


def test_a_finished_run_is_left_alone(tmp_path: Path) -> None:
    with run_folder(tmp_path).acquire() as folder:
        folder.begin_rows([{"epoch": 0}])
        folder.append_row({"epoch": 1, "train/loss": float("nan")})
        folder.write("final.json", b"{}")
        folder.finish()
    assert (read_state(tmp_path), verify(tmp_path)) == ("done", [])
    assert parse_metrics((tmp_path / "metrics.jsonl").read_bytes() + b'{"epoch": 2') == [{"epoch": 0}, {"epoch": 1, "train/loss": "NaN"}]
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(FinishedError), run_folder(tmp_path).acquire():
        pass
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    (tmp_path / "final.json").unlink()
    assert read_state(tmp_path) == "corrupted"
    assert "final.json is not what the run wrote (it is missing)" in str(corruption(tmp_path))
    assert requeue(tmp_path), "whoever asks for it gets it trained again"


def test_an_orphan_writes_nothing_more(tmp_path: Path) -> None:
    """As on a node that was given up and comes back, where locks end at the border of a machine."""
    with run_folder(tmp_path).acquire() as orphan:
        orphan.begin_rows([])
        write_json(tmp_path / "status.json", status())
        for write in (lambda: orphan.append_row({"epoch": 0}), lambda: orphan.write("final.json", b"{}"), orphan.finish):
            with pytest.raises(TrainedElsewhereError):
                write()
    assert read_json(tmp_path / "status.json")["token"] == "x"
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "status.json", "metrics.jsonl"}
    assert (tmp_path / "metrics.jsonl").read_text() == ""


@pytest.mark.parametrize("lives", [True, False])
@pytest.mark.usefixtures("no_locks")
def test_without_a_lock_the_heartbeat_of_another_host_decides(
    tmp_path: Path, lives: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / ".half.tmp").touch()
    heartbeat = "2999-01-01T00:00:00Z"
    write_json(tmp_path / "status.json", status(heartbeat_s=1000.0 if lives else 0.01, heartbeat=heartbeat))

    def sleep(seconds: float) -> None:
        write_json(tmp_path / "status.json", status(heartbeat_s=1000.0, heartbeat=heartbeat.replace("00Z", "01Z") if lives else heartbeat))

    monkeypatch.setattr(folder_module.time, "sleep", sleep)
    if lives:
        with pytest.raises(TrainedElsewhereError), run_folder(tmp_path).acquire():
            pass
    else:
        with run_folder(tmp_path).acquire() as folder:
            assert folder.status["attempt"] == 1
            assert not (tmp_path / ".half.tmp").exists()
    assert "this file system has no locks (No locks available)" in caplog.text


@pytest.mark.parametrize(
    ("error", "state", "message"),
    [
        (Interrupted(15), "preempted", "stopped by signal 15; the same command resumes"),
        (KeyboardInterrupt(), "preempted", "stopped at once by a second Ctrl-C"),
        (UserError("no such thing"), "failed", "UserError: no such thing"),
        (RuntimeError("singular"), "failed", "RuntimeError: singular"),
    ],
)
def test_how_an_attempt_ended(tmp_path: Path, error: BaseException, state: str, message: str) -> None:
    with pytest.raises(type(error)), run_folder(tmp_path).acquire():
        raise error
    stored = read_json(tmp_path / "status.json")
    assert (read_state(tmp_path), stored["error"].startswith(message)) == (state, True)
    assert bool(stored["traceback_tail"]) == (type(error) is RuntimeError)


def test_the_heartbeat_goes_on_and_notes_what_the_run_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(GPU_SHARE, "2")
    folder = RunFolder(tmp_path, heartbeat_s=0.01, epochs=3, on_gpu=True, peak_gib=lambda: 2.0)
    with folder.acquire():
        folder._began, folder._cpu_began = folder._began - 3600.0, folder._cpu_began - 7200.0
        while not folder.status["cost"]["wall_s"] > 3600.0:
            pass
    killed = read_json(tmp_path / "status.json")
    assert killed["state"] == "running"
    # One that was killed counts up to its last heartbeat.
    write_json(tmp_path / "status.json", killed | {"pid": ended_process()})
    with run_folder(tmp_path).acquire() as folder:
        folder._began, folder._cpu_began = folder._began - 1800.0, folder._cpu_began - 1800.0
        folder.finish()
    cost = read_json(tmp_path / "cost.json")
    assert (round(cost["wall_s"] / 60), round(cost["cpu_s"] / 60), round(cost["gpu_hours"], 2)) == (90, 150, 0.5)
    assert (cost["peak_gib"], cost["attempts"]) == (2.0, 2)


HERE = {"host": socket.gethostname()}


@pytest.mark.parametrize(
    ("stored", "state"),
    [
        (None, "queued"),
        (lambda: status(), "running"),
        (lambda: status(**HERE, pid=os.getpid()), "running"),
        (lambda: status(**HERE, pid=os.getppid()), "running"),
        (lambda: status(heartbeat=(dt.datetime.now(dt.UTC) - dt.timedelta(seconds=50)).isoformat()), "lost"),
        (lambda: status(state="preempted"), "preempted"),
        (lambda: status(state="done"), "corrupted"),
        (lambda: status(state="finished"), "corrupted"),
        (lambda: status(heartbeat=None), "corrupted"),
        (lambda: status(heartbeat="2020-01-01T00:00:00"), "corrupted"),
        (lambda: status(heartbeat_s="often"), "corrupted"),
        (lambda: status(**HERE, pid=10**30), "corrupted"),
        ([1], "corrupted"),
        ({}, "corrupted"),
        ("{", "corrupted"),
        ("[" * 100_000, "corrupted"),
    ],
)
def test_the_state_of_a_folder(tmp_path: Path, stored: Any, state: str) -> None:
    # Made only now: a heartbeat ages.
    stored = stored() if callable(stored) else stored
    if stored is not None:
        (tmp_path / "status.json").write_text(stored if isinstance(stored, str) else json.dumps(stored))
    assert read_state(tmp_path) == state
    assert (corruption(tmp_path) is not None) == (state == "corrupted")
    assert requeue(tmp_path) == (state in ("lost", "corrupted"))


def test_a_process_that_has_ended_on_this_host_is_lost_at_once(tmp_path: Path) -> None:
    write_json(tmp_path / "status.json", status(**HERE, pid=ended_process()))
    assert read_state(tmp_path) == "lost"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text("{")
    (tmp_path / ".lock").mkdir()
    with pytest.raises(UserError, match=f"{tmp_path} cannot be written: .*Make it writable"):
        requeue(tmp_path)
