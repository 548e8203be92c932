"""Two locks in a run folder.

The *owner* is the live attempt whose offline files lie there; nobody else touches them. The *writer* is whoever sends the run to a
server: an online attempt, ``sync`` or ``publish``. Two of them at once would log epochs twice.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from repro.lock import HeldError, hold
from repro.rundir import read_state


def owner_lock(folder: Path, *, timeout_s: float = 0.0) -> AbstractContextManager[None]:
    """Hold the lock of a live attempt, as :func:`repro.lock.hold` does."""
    return hold(folder / "wandb" / ".owner.lock", timeout_s=timeout_s)


def writer_lock(folder: Path, *, timeout_s: float = 0.0) -> AbstractContextManager[None]:
    """Hold the lock of whoever sends the run to a server, as :func:`repro.lock.hold` does."""
    return hold(folder / "wandb" / ".writer.lock", timeout_s=timeout_s)


def lives(folder: Path) -> bool:
    """Say whether an attempt of the run is under way, here or, as its heartbeat tells, on another host."""
    if read_state(folder) == "running":
        return True
    try:
        with owner_lock(folder):
            return False
    except HeldError:
        return True
