"""Saving and finding the state of an unfinished run.

Two generations are kept, and the manifest knows their sha256: a checkpoint that is not as it was written is named and the one before it is
used. Files hold tensors and plain values only and are read with ``weights_only=True``: a checkpoint cannot run code.
"""

from __future__ import annotations

import io
import logging
import os
import pickle
from pathlib import Path
from typing import Any

import torch

from repro.files import write_bytes
from repro.runs.manifest import Manifest

logger = logging.getLogger(__name__)

SCHEMA = 3
NAMES = ("checkpoint.pt", "checkpoint.previous.pt")


def save(manifest: Manifest, state: dict[str, Any]) -> None:
    """Write ``state`` as the newest checkpoint of the run of ``manifest``; the one it replaces becomes the previous one."""
    newest, previous = (manifest.folder / name for name in NAMES)
    waiting = manifest.folder / ".checkpoint.new.tmp"
    # Through memory: on a full disk torch.save itself ends in an error that hides the reason.
    content = io.BytesIO()
    torch.save({"schema": SCHEMA, **state}, content)
    write_bytes(waiting, content.getvalue())
    manifest.expect(NAMES[0], content.getvalue())
    if newest.exists():
        os.replace(newest, previous)
    os.replace(waiting, newest)


def load(manifest: Manifest) -> dict[str, Any] | None:
    """Return the newest checkpoint of the run of ``manifest`` that is as it was written, on the CPU, or ``None``.

    A damaged or foreign file is named in a warning and passed over; it is never deleted.
    """
    paths = [manifest.folder / name for name in NAMES if (manifest.folder / name).exists()]
    for path in paths:
        try:
            content = path.read_bytes()
            problem = None if manifest.expects(NAMES[0], content) else "it is not what the run wrote"
            state = {} if problem else torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
            problem, state = f"it cannot be read ({(str(error) or type(error).__name__).splitlines()[0]})", {}
        if problem is None and state.get("run_id") != manifest.run_id:
            problem = f"it belongs to run {state.get('run_id')}"
        elif problem is None and state.get("schema") != SCHEMA:
            problem = f"its schema is {state.get('schema')}, this version reads {SCHEMA}"
        if problem is None:
            return dict(state)
        logger.warning("%s is not used: %s.", path, problem)
    if paths:
        logger.warning("%s: no checkpoint is left that could be used; the run begins anew.", manifest.folder)
    return None


def remove(folder: Path) -> None:
    """Delete the checkpoints of a finished run."""
    for name in NAMES:
        (folder / name).unlink(missing_ok=True)
