"""Two locks in a run folder, freed by the system when their holder dies.

The *owner* is the live attempt whose offline files lie there; nobody else touches them. The *writer* is whoever sends the run to a
server: an online attempt, ``sync`` or ``publish``. Two of them at once would log epochs twice.
"""

from __future__ import annotations

from pathlib import Path

import filelock

from repro.rundir import read_state


def owner_lock(folder: Path) -> filelock.BaseFileLock:
    """Return the lock that a live attempt holds."""
    return filelock.FileLock(folder / "wandb" / ".owner.lock", blocking=False)


def writer_lock(folder: Path) -> filelock.BaseFileLock:
    """Return the lock of whoever sends the run to a server."""
    return filelock.FileLock(folder / "wandb" / ".writer.lock", blocking=False)


def lives(folder: Path) -> bool:
    """Say whether an attempt of the run is under way, here or, as its heartbeat tells, on another host."""
    if read_state(folder) == "running":
        return True
    try:
        with owner_lock(folder).acquire(timeout=0):
            return False
    except filelock.Timeout:
        return True
