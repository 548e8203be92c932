"""Where the W&B client may write, the lock that lets one process at a time upload a run, and its errors in words; without ``wandb``."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path

from repro.runs.lock import acquire

#: Folder inside the run folder for everything that the client keeps beside its runs.
DATA = "wandb-data"

#: These would tie runs that share an environment, such as those of one sweep, to one W&B run or another folder.
_FOREIGN = ("WANDB_RUN_ID", "WANDB_RESUME", "WANDB_DIR", "WANDB_MODE", "WANDB_NAME")


def isolate(folder: Path) -> None:
    """Change this process's environment so that the client writes inside ``folder`` only, asks nothing and reports no errors."""
    # A silent client raises where it would ask for an API key; a training at a terminal must not wait for an answer.
    os.environ |= {"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"}
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        os.environ[name] = str(folder / DATA)
    for name in _FOREIGN:
        os.environ.pop(name, None)
    # The W&B service of a parent process: it may be gone, and would keep this run's id as in use when this process is killed. The
    # service that this process has started itself it also knows without the variable.
    os.environ.pop("WANDB_SERVICE", None)


def upload_lock(folder: Path, *, timeout_s: float = 0.0) -> AbstractContextManager[None]:
    """Hold the right to send a run to a server, as :func:`repro.runs.lock.acquire` does: two processes at once would log epochs twice."""
    return acquire(folder / "wandb" / ".writer.lock", timeout_s=timeout_s)


def described(error: Exception) -> str:
    """Return an error of the client, of its service or of its HTTP library on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".: ")
