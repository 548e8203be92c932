"""The GPUs of this machine, and a worker of the local queue that has one of them for itself."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from repro.errors import UserError
from repro.runs.folder import GPU_SHARE
from repro.runs.lock import HeldError, hold
from sweeps.local.worker import train


def visible_gpus() -> tuple[str, ...]:
    """Return the GPUs of this machine that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return tuple(part.strip() for part in given.split(",") if part.strip() and part.strip() != "-1")
    try:
        result = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(line.strip() for line in result.stdout.splitlines() if line.strip().isdigit()) if result.returncode == 0 else ()


@dataclass(frozen=True)
class OnOneGpu:
    """A worker that takes one free GPU of this machine and keeps it as long as it lives; each has a lock in the folder ``locks``."""

    gpus: tuple[str, ...]
    locks: Path

    def __call__(self, overrides: Sequence[str]) -> int:
        """Train the run on a GPU of its own and return the exit code."""
        deadline = time.monotonic() + 3600
        while time.monotonic() < deadline:
            for gpu in self.gpus:
                with contextlib.suppress(HeldError), hold(self.locks / f"{gpu}.lock"):
                    # PyTorch is imported already, but looks for GPUs only when the first tensor goes there.
                    os.environ |= {"CUDA_VISIBLE_DEVICES": gpu, GPU_SHARE: "1"}
                    return train(overrides)
            time.sleep(1.0)
        raise UserError(f"no GPU of {', '.join(self.gpus)} was free for an hour.")
