"""The run folder: its files, its lock, and the state it is in. Its layout is described in docs/run-folder.md.

Only the holder of the lock writes. A reader needs no lock, since every file is replaced whole (:mod:`repro.files`), and
``metrics.jsonl`` grows by whole lines.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from repro.errors import UserError
from repro.files import json_text, jsonable, read_json, write_bytes, write_json, write_text
from repro.lease import Lease, Superseded, claim
from repro.lock import HeldError, hold, process_exists
from repro.manifest import FILE as MANIFEST
from repro.manifest import DamagedError, Entry, Manifest, entry_of, open_manifest

logger = logging.getLogger(__name__)

#: The states of a run. ``queued`` has no folder yet, or was put back by :func:`requeue`; ``lost`` and ``damaged`` are concluded by a
#: reader, never written. Nothing trains a ``damaged`` run unasked: it may be a finished one.
STATES = ("queued", "running", "done", "failed", "preempted", "lost", "damaged")

#: The states that :func:`requeue` takes a run out of.
ENDED_BADLY = ("failed", "lost", "damaged")

#: What can be done about a finished run whose files are not what it wrote.
REMEDY = "Put it back from a copy; or move the folder away, and the same command trains the run again."

#: A ``running`` whose last sign of life is older than this many heartbeat periods is ``lost``.
LOST_AFTER_PERIODS = 3


def now() -> str:
    """Return the present moment in UTC, to the second, as ISO 8601."""
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_state(folder: Path) -> str:
    """Return the state of the run in ``folder``: one of :data:`STATES`.

    A run that says ``running`` but whose heartbeat is three periods old, or whose process is gone from this host, is ``lost``. One whose
    status.json cannot be read or lacks what its state needs is ``damaged``; so is one that says ``done`` but has no complete manifest, or
    not all of its files in their sizes. :func:`damage` says which.
    """
    return _look(folder)[0]


def damage(folder: Path) -> str | None:
    """Return what is wrong with the folder of a ``damaged`` run, and what can be done; ``None`` for any other.

    What its files hold is checked by whoever reads them, and by ``python -m sweeps verify``.
    """
    return _look(folder)[1]


def _look(folder: Path) -> tuple[str, str | None]:
    """Return the state of a run, and what is wrong if that is ``damaged``."""
    path = folder / "status.json"
    try:
        state = _state_of(read_json(path))
    except FileNotFoundError:
        return "queued", None
    except (OSError, ValueError, OverflowError, KeyError, TypeError, RecursionError):
        return "damaged", (
            f"{path} cannot be read or lacks what its state needs, so whether the run is done is not known. Restore it; or delete it, and "
            "the run is trained from its last checkpoint, or anew where it has none."
        )
    misfit = _misfit(folder) if state == "done" else None
    return (state, None) if misfit is None else ("damaged", misfit)


def _state_of(status: dict[str, Any]) -> str:
    state = status["state"]
    if state not in STATES:
        raise ValueError(state)
    if state != "running":
        return str(state)
    age_s = (dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(status["heartbeat"])).total_seconds()
    period_s, host, pid = float(status["heartbeat_s"]), status["host"], int(status["pid"])
    if not period_s >= 0.0 or pid < 1:
        raise ValueError(period_s, pid)
    gone = host == socket.gethostname() and not process_exists(pid)
    return "lost" if gone or age_s > LOST_AFTER_PERIODS * period_s else "running"


def _misfit(folder: Path) -> str | None:
    """Return what keeps the files of a run that says ``done`` from being a finished run's, by their sizes."""
    try:
        manifest = open_manifest(folder)
    except DamagedError as error:
        return str(error)
    if not manifest.complete:
        return f"{folder / 'status.json'} says done, but the run was not finished when {folder / MANIFEST} was written. {REMEDY}"
    misfit = manifest.first_misfit()
    return None if misfit is None else f"{folder} is not what the run wrote: {misfit}. {REMEDY}"


def requeue(folder: Path) -> bool:
    """Put the failed, lost or damaged run in ``folder`` back into the state ``queued``, and say whether it was one; its checkpoints stay.

    A run whose lock is held is left alone: a process that looks lost may be suspended, or on a host whose clock is wrong.

    Raises:
        UserError: the folder cannot be written.
    """
    if read_state(folder) not in ENDED_BADLY:
        return False
    try:
        with hold(folder / ".lock"):
            # Between the look and the lock it may have been started and have ended.
            state = read_state(folder)
            if state not in ENDED_BADLY:
                return False
            try:
                status = dict(read_json(folder / "status.json"))
            except (ValueError, TypeError, RecursionError):
                status = {"attempt": 0}
            write_json(folder / "status.json", status | {"state": "queued", "error": None, "traceback_tail": []})
            return True
    except HeldError:
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
        with hold(folder / ".lock"):
            try:
                status = dict(read_json(folder / "status.json"))
            except (FileNotFoundError, ValueError, TypeError, RecursionError):
                status = vars(Status(attempt=1, heartbeat_s=0.0))
            if status.get("state") in ("done", "failed"):
                return False
            claim(folder)
            write_json(folder / "status.json", status | {"state": "failed", "error": error, "ended": now(), "slurm_job": slurm_job()})
            return True
    except HeldError:
        return False


def slurm_job() -> str | None:
    """Return the id of the SLURM job that this process belongs to, as squeue shows it (``12``, ``12_3``); ``None`` outside of one."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{part}") for part in ("JOB_ID", "TASK_ID"))
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


class FinishedError(Exception):
    """Another process has finished the run before this one held it."""


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
        self.manifest = Manifest(path, path.name)
        self._metrics: IO[str] | None = None
        self._metrics_sum, self._metrics_size = hashlib.sha256(), 0
        self._guard = threading.Lock()
        self._lease = Lease(path)
        self._superseded = False
        self._forgotten = False

    @contextlib.contextmanager
    def hold(self, *, heartbeat_s: float, epochs: int) -> Iterator[RunFolder]:
        """Take the lock, say ``running``, and beat until the block ends; the block's end does not change the state.

        Raises:
            UserError: another process holds the run, or the folder cannot be written.
            FinishedError: another process has held it and is done.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be made: {error.strerror}. Set paths.runs or $REPRO_RUNS to a folder you can write."
            ) from error
        lock = contextlib.ExitStack()
        try:
            lock.enter_context(hold(self.path / ".lock"))
        except HeldError as error:
            raise UserError(f"{self.path}: another process is training this run. Wait for it, or stop it first.") from error
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be written: {error.strerror}. Make it writable, or set paths.runs or $REPRO_RUNS elsewhere."
            ) from error
        stop = threading.Event()
        beat = threading.Thread(target=self._beat, args=(stop, heartbeat_s), daemon=True, name="heartbeat")
        try:
            if read_state(self.path) == "done":
                raise FinishedError
            try:
                self._lease.take()
            except FileNotFoundError as error:  # whoever else began without a lock has tidied up
                raise UserError(f"{self.path}: another process is training this run. Wait for it, or stop it first.") from error
            self._remove_leftovers()
            self._take_over_manifest()
            self.status = Status(attempt=self._attempts() + 1, heartbeat_s=heartbeat_s, epochs=epochs)
            self._write_status()
            beat.start()
            yield self
        finally:
            stop.set()
            if beat.ident is not None:
                beat.join()
            if self._forgotten:
                # The lock stays: a file that another process may hold by now must not go.
                for name in ("status.json", "lease.json"):
                    (self.path / name).unlink(missing_ok=True)
            self.close_metrics()
            lock.close()

    def _remove_leftovers(self) -> None:
        """Delete the temporary files of writes that a kill cut off; the lock says that nobody is writing them."""
        for leftover in self.path.glob("**/.*.tmp"):
            leftover.unlink(missing_ok=True)

    def _take_over_manifest(self) -> None:
        """Go on with what the manifest of the attempt before knows of its checkpoints and its cost, if there was one."""
        if not (self.path / MANIFEST).exists():
            return
        try:
            before = open_manifest(self.path)
        except DamagedError as error:
            logger.warning("%s Nothing that an earlier attempt left is used.", error)
            return
        self.manifest = replace(before, complete=False, files={})
        if before.complete:
            self.manifest.write()

    def _attempts(self) -> int:
        try:
            return int(read_json(self.path / "status.json")["attempt"])
        except (FileNotFoundError, ValueError, KeyError, TypeError, OverflowError):
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

    def forget(self) -> None:
        """Leave no state behind when the block of :meth:`hold` ends: the run has not begun."""
        self._forgotten = True

    def end(
        self, state: str, *, error: str | None = None, traceback_tail: list[str] | None = None, entries: Mapping[str, Entry] | None = None
    ) -> None:
        """Write the final state of this attempt: ``done``, ``failed`` or ``preempted``.

        Before ``done`` stands the complete manifest; ``entries`` are those of files that were not written by :meth:`write`.
        """
        assert self.status is not None
        assert state in STATES
        if state == "done":
            self._complete(entries or {})
        self.status.state = state
        self.status.ended = now()
        self.status.error = error
        self.status.traceback_tail = traceback_tail or []
        self._write_status()

    # -- files that are written once -----------------------------------------------------------------------------------------------

    def write(self, name: str, content: bytes) -> None:
        """Write a file of the run; the manifest will say what it was."""
        self.check_lease()
        write_bytes(self.path / name, content)
        self.manifest.files[name] = entry_of(content)

    def write_json(self, name: str, value: object) -> None:
        """Write ``value`` as a JSON file of the run, as :func:`repro.files.write_json` does."""
        self.write(name, json_text(value).encode())

    def _complete(self, entries: Mapping[str, Entry]) -> None:
        """Write the complete manifest: of what was written here, and of ``entries``."""
        self.close_metrics()
        metrics = {"metrics.jsonl": Entry(self._metrics_size, self._metrics_sum.hexdigest())} if self._metrics_size else {}
        # What it knows of checkpoints stays: they are there until the run says done.
        self.manifest = replace(self.manifest, complete=True, files={**self.manifest.files, **metrics, **entries})
        self.check_lease()
        self.manifest.write()

    # -- metrics.jsonl ---------------------------------------------------------------------------------------------------------

    def open_metrics(self, rows: list[dict[str, Any]]) -> None:
        """Let ``metrics.jsonl`` hold ``rows``, those that the checkpoint knows, and open it for more.

        A resumed run repeats the epochs after its checkpoint, so their rows are dropped; so is a line that a kill cut short.
        """
        path, text = self.path / "metrics.jsonl", metrics_text(rows)
        try:
            stored = path.read_bytes()
        except FileNotFoundError:
            stored = b""
        behind = parse_metrics(stored[len(text.encode()) :])
        if not stored.startswith(text.encode()) or any(row.get("epoch", 0) < len(rows) for row in behind):
            logger.warning("%s is not what the run wrote; its %d rows are written again from the checkpoint.", path, len(rows))
        write_text(path, text)
        self._metrics_sum, self._metrics_size = hashlib.sha256(text.encode()), len(text.encode())
        self._metrics = path.open("a")

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Append one evaluation to ``metrics.jsonl`` and force it to the disk."""
        assert self._metrics is not None
        self.check_lease()
        line = metrics_line(row)
        self._metrics_sum.update(line.encode())
        self._metrics_size += len(line.encode())
        self._metrics.write(line)
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
        before = self._cost_before()
        cost = {
            "wall_s": before["wall_s"] + wall_s,
            "gpu_hours": before["gpu_hours"] + (wall_s / 3600 if on_gpu else 0.0),
            "peak_gib": max(before["peak_gib"], peak_gib),
            "attempts": before["attempts"] + 1,
        }
        content = json_text(cost).encode()
        self.manifest.expect("cost.json", content)
        self.write("cost.json", content)

    def _cost_before(self) -> dict[str, Any]:
        """Return what the attempts before this one cost."""
        path = self.path / "cost.json"
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            content = b""
        if self.manifest.expects("cost.json", content):
            return dict(json.loads(content))
        if content or "cost.json" in self.manifest.changing:
            logger.warning("%s is not what the run wrote; what the attempts before this one cost is not counted.", path)
        return {"wall_s": 0.0, "gpu_hours": 0.0, "peak_gib": 0.0, "attempts": 0}


def metrics_text(rows: Iterable[dict[str, Any]]) -> str:
    """Return what ``metrics.jsonl`` holds for these evaluations."""
    return "".join(metrics_line(row) for row in rows)


def metrics_line(row: dict[str, Any]) -> str:
    """Return the line of ``metrics.jsonl`` for one evaluation."""
    return json.dumps(jsonable(row), sort_keys=True, allow_nan=False) + "\n"


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of ``metrics.jsonl``; a last line that a kill cut short is left out, a missing file is no rows."""
    try:
        return parse_metrics((folder / "metrics.jsonl").read_bytes())
    except FileNotFoundError:
        return []


def parse_metrics(content: bytes) -> list[dict[str, Any]]:
    """Return the rows in the ``content`` of a ``metrics.jsonl``, without damaged lines and a last one that a kill cut short."""
    rows = []
    for line in content.splitlines(keepends=True):
        if line.endswith(b"\n"):
            # Neither bytes that are no text nor lists within lists within lists end a look at how far a run is.
            with contextlib.suppress(ValueError, RecursionError):
                row = json.loads(line)
                if isinstance(row, dict):
                    rows.append(row)
    return rows


class Stopwatch:
    """Wall-clock seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def seconds(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self._start
