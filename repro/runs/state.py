"""The state of a run, as its folder says it: read by anybody, changed only by whoever holds the run's lock."""

from __future__ import annotations

import datetime as dt
import os
import socket
from pathlib import Path
from typing import Any

from repro.errors import UserError
from repro.files import read_json, write_json
from repro.runs.lock import HeldError, acquire
from repro.runs.manifest import CorruptedError, listed_files

#: Every state of a run, in the order of its life. A folder tells those of :data:`FOLDER_STATES`. A plan knows ``missing``, that is without
#: one, and ``changed``, made by a different version of the code; a SLURM queue knows ``starting`` and ``cancelled``.
STATES = ("missing", "queued", "starting", "running", "preempted", "cancelled", "lost", "failed", "corrupted", "changed", "done")

#: ``queued`` has no folder yet, or was put back by :func:`requeue`; ``lost`` and ``corrupted`` are concluded by a reader, never written.
FOLDER_STATES = ("queued", "running", "preempted", "lost", "failed", "corrupted", "done")

#: The states that :func:`requeue` takes a run out of. Nothing trains a ``corrupted`` run unasked: it may be a finished one.
ENDED_BADLY = ("failed", "lost", "corrupted")

#: A ``running`` whose last heartbeat is older than this many periods is ``lost``.
LOST_AFTER_PERIODS = 3


class TrainedElsewhereError(UserError):
    """Another process trains the run."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"{folder}: another process is training this run. Wait for it, or stop it first.")


def now() -> str:
    """Return the present moment in UTC, to the second, as ISO 8601."""
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_state(folder: Path) -> str:
    """Return the state of the run in ``folder``: one of :data:`FOLDER_STATES`.

    A run that says ``running`` but whose heartbeat is three periods old, or whose process is gone from this host, is ``lost``. One whose
    status.json cannot be read is ``corrupted``; so is one that says ``done`` and lacks a file. :func:`corruption` says which.
    """
    return _look(folder)[0]


def corruption(folder: Path) -> str | None:
    """Return what is wrong with the folder of a ``corrupted`` run, and what can be done; ``None`` for any other.

    What its files hold is checked by whoever reads them, and by :func:`repro.runs.manifest.verify`.
    """
    return _look(folder)[1]


def read_status(folder: Path) -> dict[str, Any]:
    """Return what ``status.json`` of a run holds; nothing where it is missing or cannot be read."""
    try:
        return dict(read_json(folder / "status.json"))
    except (OSError, ValueError, TypeError, RecursionError):
        return {}


def _look(folder: Path) -> tuple[str, str | None]:
    path = folder / "status.json"
    if not path.exists():
        return "queued", None
    try:
        state = _state_of(read_status(folder))
    except (ValueError, OverflowError, KeyError, TypeError):
        return "corrupted", (
            f"{path} cannot be read, so whether the run is done is not known. Put it back from a copy; or delete it, and the run "
            "resumes from its last checkpoint."
        )
    if state == "done":
        try:
            missing = [name for name in listed_files(folder) if not (folder / name).is_file()]
        except CorruptedError as error:
            return "corrupted", str(error)
        if missing:
            return "corrupted", str(CorruptedError(folder / missing[0], "it is missing"))
    return state, None


def _state_of(status: dict[str, Any]) -> str:
    state = str(status["state"])
    if state not in FOLDER_STATES:
        raise ValueError(state)
    if state == "running":
        age_s = (dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(status["heartbeat"])).total_seconds()
        process_ended = status["host"] == socket.gethostname() and not _process_exists(int(status["pid"]))
        if process_ended or age_s > LOST_AFTER_PERIODS * float(status["heartbeat_s"]):
            return "lost"
    return state


def _process_exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def requeue(folder: Path) -> bool:
    """Put the failed, lost or corrupted run in ``folder`` back into the state ``queued``, and say whether it was one; its checkpoints stay.

    A run whose lock is held is left alone: a process that looks lost may be suspended, or on a host whose clock is wrong.

    Raises:
        UserError: the folder cannot be written.
    """
    if read_state(folder) not in ENDED_BADLY:
        return False
    try:
        with acquire(folder / ".lock"):
            # Between the look and the lock it may have been started and have ended.
            if read_state(folder) not in ENDED_BADLY:
                return False
            write_json(folder / "status.json", read_status(folder) | {"state": "queued", "error": None, "traceback_tail": []})
            return True
    except HeldError:
        return False
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}. Make it writable to try its run again.") from error
