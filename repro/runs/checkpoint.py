"""Saving and finding the state of an unfinished run.

Two generations are kept. Each begins with the sha256 of the run's id and of what follows, so one that was cut, corrupted or belongs to
another run is known; it is named, and the one before it is used. Files hold tensors and plain values only and are read with
``weights_only=True``: a checkpoint cannot run code.
"""

from __future__ import annotations

import io
import logging
import os
from pathlib import Path
from typing import Any

import torch

from repro.files import write_bytes
from repro.runs.manifest import sha256

logger = logging.getLogger(__name__)

NAMES = ("checkpoint.pt", "checkpoint.previous.pt")


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write ``state`` as the newest checkpoint of the run in ``folder``; the one it replaces becomes the previous one."""
    newest, previous = (folder / name for name in NAMES)
    # Through memory: on a full disk torch.save itself ends in an error that hides the reason.
    content = io.BytesIO()
    torch.save(state, content)
    if newest.exists():
        os.replace(newest, previous)
    write_bytes(newest, _digest(folder, content.getvalue()) + content.getvalue())


def load(folder: Path) -> dict[str, Any] | None:
    """Return the newest checkpoint of the run in ``folder`` that is as it was written, on the CPU, or ``None``."""
    paths = [folder / name for name in NAMES if (folder / name).exists()]
    for path in paths:
        content = path.read_bytes()
        digest, stored = content[:64], content[64:]
        if digest == _digest(folder, stored):
            return dict(torch.load(io.BytesIO(stored), map_location="cpu", weights_only=True))
        logger.warning("%s is not used: it is not what this run wrote.", path)
    if paths:
        logger.warning("%s: no checkpoint is left that could be used; the run begins again.", folder)
    return None


def remove(folder: Path) -> None:
    """Delete the checkpoints of a finished run."""
    for name in NAMES:
        (folder / name).unlink(missing_ok=True)


def _digest(folder: Path, content: bytes) -> bytes:
    return sha256(folder.name.encode() + content).encode()
