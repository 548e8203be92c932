"""Saving and finding the state of an unfinished run.

Two generations are kept: a checkpoint that cannot be read is named and the one before it is used. Files hold tensors and plain
numbers only and are read with ``weights_only=True``: a checkpoint cannot run code.
"""

from __future__ import annotations

import io
import logging
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from repro.files import write_bytes

logger = logging.getLogger(__name__)

SCHEMA = 2
NAMES = ("checkpoint.pt", "checkpoint.previous.pt")


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write ``state`` as the newest checkpoint of the run in ``folder``; the one it replaces becomes the previous one."""
    newest, previous = (folder / name for name in NAMES)
    waiting = folder / ".checkpoint.new.tmp"
    # Through memory: on a full disk torch.save itself ends in an error that hides the reason.
    content = io.BytesIO()
    torch.save({"schema": SCHEMA, **state}, content)
    write_bytes(waiting, content.getvalue())
    if newest.exists():
        os.replace(newest, previous)
    os.replace(waiting, newest)


def load(folder: Path, run_id: str) -> dict[str, Any] | None:
    """Return the newest readable checkpoint of the run ``run_id`` in ``folder``, on the CPU, or ``None``.

    A truncated, corrupt or foreign file is named in a warning and passed over; it is never deleted.
    """
    for name in NAMES:
        path = folder / name
        if not path.exists():
            continue
        problem, state = _read(path)
        if state is not None and state.get("run_id") != run_id:
            problem = f"it belongs to run {state.get('run_id')}"
        elif state is not None and state.get("schema") != SCHEMA:
            problem = f"its schema is {state.get('schema')}, this version reads {SCHEMA}"
        if problem is None:
            return state
        logger.warning("%s is not used: %s.", path, problem)
    return None


def _read(path: Path) -> tuple[str | None, dict[str, Any] | None]:
    """Return (problem, None) or (None, state)."""
    try:
        # torch.load does not check the archive's checksums, so a flipped bit would go unnoticed.
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken is not None:
            return f"its part {broken} is corrupt", None
        return None, torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, zipfile.BadZipFile, RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        return f"it cannot be read ({first_line})", None


def remove(folder: Path) -> None:
    """Delete the checkpoints of a finished run."""
    for name in NAMES:
        (folder / name).unlink(missing_ok=True)
