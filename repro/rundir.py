"""The run folder: its files, its lock, and the state it is in. Its layout is described in docs/run-folder.md.

Only the holder of the lock writes. A reader needs no lock, since every file is replaced whole (:mod:`repro.files`), and
``metrics.jsonl`` grows by whole lines.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import filelock

from repro.errors import UserError
from repro.files import jsonable, read_json, write_json, write_text
from repro.lease import Lease, Superseded, claim

#: The states of a run. ``queued`` has no folder yet, or was put back by :func:`requeue`; ``lost`` is concluded by a reader, never
#: written.
STATES = ("queued", "running", "done", "failed", "preempted", "lost")

#: A ``running`` whose last sign of life is older than this many heartbeat periods is ``lost``.
LOST_AFTER_PERIODS = 3


def now() -> str:
    """Return the present moment in UTC, to the second, as ISO 8601."""
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_state(folder: Path) -> str:
    """Return the state of the run in ``folder``: one of :data:`STATES`.

    A run that says ``running`` but whose heartbeat is three periods old, or whose process is gone from this host, is ``lost``.
    """
    try:
        status = read_json(folder / "status.json")
        state = str(status["state"])
    except FileNotFoundError:
        return "queued"
    except (ValueError, KeyError, TypeError):
        return "lost"
    if state != "running":
        return state
    beat = dt.datetime.fromisoformat(status["heartbeat"])
    age_s = (dt.datetime.now(dt.UTC) - beat).total_seconds()
    if age_s > LOST_AFTER_PERIODS * float(status["heartbeat_s"]):
        return "lost"
    if status["host"] == socket.gethostname() and not _process_exists(int(status["pid"])):
        return "lost"
    return "running"


def requeue(folder: Path) -> bool:
    """Put the failed or lost run in ``folder`` back into the state ``queued``, and say whether it was one; its checkpoints stay.

    A run whose lock is held is left alone: a process that looks lost may be suspended, or on a host whose clock is wrong.

    Raises:
        UserError: the folder cannot be written.
    """
    if read_state(folder) not in ("failed", "lost"):
        return False
    lock = filelock.FileLock(folder / ".lock", blocking=False)
    try:
        with lock:
            # Between the look and the lock it may have been started and have ended.
            state = read_state(folder)
            if state not in ("failed", "lost"):
                return False
            try:
                status = dict(read_json(folder / "status.json"))
            except (ValueError, TypeError):
                status = {"attempt": 0}
            write_json(folder / "status.json", status | {"state": "queued", "error": None, "traceback_tail": []})
            return True
    except filelock.Timeout:
        return False
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}. Make it writable to try its run again.") from error


def note_failure(folder: Path, error: str) -> bool:
    """Note that the run in ``folder`` has failed where its process could not say so itself, and return whether it was noted.

    The process must be known to have ended: should it live on, it is stopped. A run that is done or has noted its own failure, and one
    whose lock is held, are left alone.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(folder / ".lock", blocking=False):
            try:
                status = dict(read_json(folder / "status.json"))
            except (FileNotFoundError, ValueError, TypeError):
                status = vars(Status(attempt=1, heartbeat_s=0.0))
            if status.get("state") in ("done", "failed"):
                return False
            claim(folder)
            write_json(folder / "status.json", status | {"state": "failed", "error": error, "ended": now(), "slurm_job": slurm_job()})
            return True
    except filelock.Timeout:
        return False


def slurm_job() -> str | None:
    """Return the id of the SLURM job that this process belongs to, as squeue shows it (``12``, ``12_3``); ``None`` outside of one."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{part}") for part in ("JOB_ID", "TASK_ID"))
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def _process_exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@dataclass
class Status:
    """What ``status.json`` holds: the state, who runs it, and how far it is."""

    attempt: int
    heartbeat_s: float
    state: str = "running"
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    slurm_job: str | None = field(default_factory=lambda: slurm_job())
    node: str | None = field(default_factory=lambda: os.environ.get("SLURMD_NODENAME"))
    gpu: str | None = field(default_factory=lambda: os.environ.get("CUDA_VISIBLE_DEVICES"))
    started: str = field(default_factory=now)
    heartbeat: str = field(default_factory=now)
    ended: str | None = None
    epoch: int = 0
    epochs: int = 0
    error: str | None = None
    traceback_tail: list[str] = field(default_factory=list)


class RunFolder:
    """A run folder held by this process. Use as ``with RunFolder(path).hold(heartbeat_s=15) as folder``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.status: Status | None = None
        self._metrics: IO[str] | None = None
        self._guard = threading.Lock()
        self._lease = Lease(path)
        self._superseded = False

    @contextlib.contextmanager
    def hold(self, *, heartbeat_s: float, epochs: int) -> Iterator[RunFolder]:
        """Take the lock, say ``running``, and beat until the block ends; the block's end does not change the state.

        Raises:
            UserError: another process holds the run, or the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be made: {error.strerror}. Set paths.runs or $REPRO_RUNS to a folder you can write."
            ) from error
        lock = filelock.FileLock(self.path / ".lock", blocking=False)
        try:
            lock.acquire()
        except filelock.Timeout as error:
            raise UserError(f"{self.path}: another process is training this run. Wait for it, or stop it first.") from error
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be written: {error.strerror}. Make it writable, or set paths.runs or $REPRO_RUNS elsewhere."
            ) from error
        stop = threading.Event()
        beat = threading.Thread(target=self._beat, args=(stop, heartbeat_s), daemon=True, name="heartbeat")
        try:
            self._lease.take()
            self._remove_leftovers()
            self.status = Status(attempt=self._attempts() + 1, heartbeat_s=heartbeat_s, epochs=epochs)
            self._write_status()
            beat.start()
            yield self
        finally:
            stop.set()
            if beat.ident is not None:
                beat.join()
            self.close_metrics()
            lock.release()

    def _remove_leftovers(self) -> None:
        """Delete the temporary files of writes that a kill cut off; the lock says that nobody is writing them."""
        for leftover in self.path.glob("**/.*.tmp"):
            leftover.unlink(missing_ok=True)

    def _attempts(self) -> int:
        try:
            return int(read_json(self.path / "status.json")["attempt"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return 0

    def _beat(self, stop: threading.Event, period_s: float) -> None:
        while not stop.wait(period_s):
            # A full disk shows up in the loop's own writes, which stop the run; a missed heartbeat alone must not.
            try:
                self._write_status()
            except Superseded:
                self._superseded = True
                return
            except OSError:
                continue

    def check_lease(self, *, read: bool = True) -> None:
        """Check that nobody has taken the run over; without ``read``, go by what the last heartbeat found.

        Raises:
            Superseded: somebody has.
        """
        if self._superseded:
            raise Superseded(self.path)
        if read:
            self._lease.check()

    def _write_status(self) -> None:
        with self._guard:
            assert self.status is not None
            self.check_lease()
            self.status.heartbeat = now()
            write_json(self.path / "status.json", vars(self.status))

    def progress(self, epoch: int) -> None:
        """Note the number of completed epochs; it is written with the next heartbeat."""
        assert self.status is not None
        self.status.epoch = epoch

    def end(self, state: str, *, error: str | None = None, traceback_tail: list[str] | None = None) -> None:
        """Write the final state of this attempt: ``done``, ``failed`` or ``preempted``."""
        assert self.status is not None
        assert state in STATES
        self.status.state = state
        self.status.ended = now()
        self.status.error = error
        self.status.traceback_tail = traceback_tail or []
        self._write_status()

    # -- metrics.jsonl ---------------------------------------------------------------------------------------------------------

    def open_metrics(self, *, up_to_epoch: int | None) -> list[dict[str, Any]]:
        """Keep the rows of ``metrics.jsonl`` up to and including ``up_to_epoch`` (``None``: none), and open it for more.

        A resumed run repeats the epochs after its checkpoint, so their rows are dropped; so is a line that a kill cut short.
        """
        rows = [] if up_to_epoch is None else [row for row in read_metrics(self.path) if row["epoch"] <= up_to_epoch]
        path = self.path / "metrics.jsonl"
        write_text(path, "".join(metrics_line(row) for row in rows))
        self._metrics = path.open("a")
        return rows

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Append one evaluation to ``metrics.jsonl`` and force it to the disk."""
        assert self._metrics is not None
        self.check_lease()
        self._metrics.write(metrics_line(row))
        self._metrics.flush()
        os.fsync(self._metrics.fileno())

    def close_metrics(self) -> None:
        """Close ``metrics.jsonl``."""
        if self._metrics is not None:
            with contextlib.suppress(OSError):  # every row was flushed when it was written
                self._metrics.close()
            self._metrics = None

    # -- cost.json -------------------------------------------------------------------------------------------------------------

    def add_cost(self, *, wall_s: float, on_gpu: bool, peak_gib: float) -> None:
        """Add this attempt's cost to ``cost.json``: summed wall time and GPU-hours, highest memory (GiB)."""
        self.check_lease()
        path = self.path / "cost.json"
        try:
            before = read_json(path)
        except (FileNotFoundError, ValueError):
            before = {"wall_s": 0.0, "gpu_hours": 0.0, "peak_gib": 0.0, "attempts": 0}
        write_json(
            path,
            {
                "wall_s": before["wall_s"] + wall_s,
                "gpu_hours": before["gpu_hours"] + (wall_s / 3600 if on_gpu else 0.0),
                "peak_gib": max(before["peak_gib"], peak_gib),
                "attempts": before["attempts"] + 1,
            },
        )


def metrics_line(row: dict[str, Any]) -> str:
    """Return the line of ``metrics.jsonl`` for one evaluation."""
    return json.dumps(jsonable(row), sort_keys=True, allow_nan=False) + "\n"


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of ``metrics.jsonl``; a last line that a kill cut short is left out, a missing file is no rows."""
    try:
        text = (folder / "metrics.jsonl").read_text()
    except FileNotFoundError:
        return []
    rows = []
    for line in text.splitlines(keepends=True):
        if line.endswith("\n"):
            with contextlib.suppress(ValueError):
                rows.append(json.loads(line))
    return rows


class Stopwatch:
    """Wall-clock seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def seconds(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self._start
