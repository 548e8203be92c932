"""The state of a run, as its folder says it: read by anybody, changed only by whoever holds the run's lock."""

from __future__ import annotations

import datetime as dt
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repro.errors import UserError
from repro.files import read_json, write_json
from repro.runs.lease import claim
from repro.runs.lock import HeldError, hold, process_exists
from repro.runs.manifest import FILE as MANIFEST
from repro.runs.manifest import DamagedError, open_manifest

#: Every state of a run, in the order of its life. A folder tells those of :data:`FOLDER_STATES`. A plan knows ``missing``, that is without
#: one, and ``changed``, which holds what other code has made; a SLURM queue knows ``starting`` and ``cancelled``.
STATES = ("missing", "queued", "starting", "running", "preempted", "cancelled", "lost", "failed", "damaged", "changed", "done")

#: ``queued`` has no folder yet, or was put back by :func:`requeue`; ``lost`` and ``damaged`` are concluded by a reader, never written.
#: Nothing trains a ``damaged`` run unasked: it may be a finished one.
FOLDER_STATES = ("queued", "running", "preempted", "lost", "failed", "damaged", "done")

#: The states that :func:`requeue` takes a run out of.
ENDED_BADLY = ("failed", "lost", "damaged")

#: What can be done about a finished run whose files are not what it wrote.
REMEDY = "Put it back from a copy; or move the folder away, and the same command trains the run again."

#: A ``running`` whose last sign of life is older than this many heartbeat periods is ``lost``.
LOST_AFTER_PERIODS = 3


class TrainedElsewhereError(UserError):
    """Another process holds the run."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"{folder}: another process is training this run. Wait for it, or stop it first.")


def now() -> str:
    """Return the present moment in UTC, to the second, as ISO 8601."""
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_state(folder: Path) -> str:
    """Return the state of the run in ``folder``: one of :data:`FOLDER_STATES`.

    A run that says ``running`` but whose heartbeat is three periods old, or whose process is gone from this host, is ``lost``. One whose
    status.json cannot be read or lacks what its state needs is ``damaged``; so is one that says ``done`` but has no complete manifest, or
    not all of its files in their sizes. :func:`damage` says which.
    """
    return _look(folder)[0]


def read_status(folder: Path) -> dict[str, Any] | None:
    """Return what ``status.json`` of a run holds: nothing where it cannot be read, ``None`` where it is not there."""
    try:
        return dict(read_json(folder / "status.json"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, RecursionError):
        return {}


def damage(folder: Path) -> str | None:
    """Return what is wrong with the folder of a ``damaged`` run, and what can be done; ``None`` for any other.

    What its files hold is checked by whoever reads them, and by ``python -m sweeps verify``.
    """
    return _look(folder)[1]


def _look(folder: Path) -> tuple[str, str | None]:
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
    if state not in FOLDER_STATES:
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
            write_json(folder / "status.json", _stored_status(folder) | {"state": "queued", "error": None, "traceback_tail": []})
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
            status = _stored_status(folder)
            if status.get("state") in ("done", "failed"):
                return False
            claim(folder)
            write_json(folder / "status.json", status | {"state": "failed", "error": error, "ended": now(), "slurm_job": slurm_job()})
            return True
    except HeldError:
        return False


def _stored_status(folder: Path) -> dict[str, Any]:
    """Return what status.json holds, or that of a first attempt where it cannot be read."""
    try:
        return dict(read_json(folder / "status.json"))
    except (FileNotFoundError, ValueError, TypeError, RecursionError):
        return vars(Status(attempt=1, heartbeat_s=0.0))


def slurm_job() -> str | None:
    """Return the id of the SLURM job that this process belongs to, as squeue shows it (``12``, ``12_3``); ``None`` outside of one."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{part}") for part in ("JOB_ID", "TASK_ID"))
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


@dataclass
class Status:
    """What ``status.json`` holds: the state, who runs it, and how far it is; ``gpus`` is its share of a GPU."""

    attempt: int
    heartbeat_s: float
    state: str = "running"
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    slurm_job: str | None = field(default_factory=slurm_job)
    node: str | None = field(default_factory=lambda: os.environ.get("SLURMD_NODENAME"))
    gpu: str | None = field(default_factory=lambda: os.environ.get("CUDA_VISIBLE_DEVICES"))
    gpus: float = 0.0
    started: str = field(default_factory=now)
    heartbeat: str = field(default_factory=now)
    ended: str | None = None
    epoch: int = 0
    epochs: int = 0
    error: str | None = None
    traceback_tail: list[str] = field(default_factory=list)
