"""What a call on a rented machine is made of: how its time is divided, commands that may take so long, and what machine it is."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

#: Seconds between two looks at a command.
POLL_S = 0.2

#: Seconds that a command has to end after it was asked to.
GRACE_S = 5.0


@dataclass(frozen=True)
class Shares:
    """How the seconds of a call are divided; what a step does not use, training gets.

    Attributes:
        numerics: at most so many for the golden tests.
        measure: at most so many for all measurements together.
        patience: that runs have to save their state.
        packing: to pack the evidence.
    """

    total: float
    numerics: float
    measure: float
    patience: float
    packing: float

    @property
    def reserve(self) -> float:
        """Seconds before the end at which runs are asked to stop."""
        return self.patience + self.packing


def divide(minutes: float, skip: Sequence[str]) -> Shares:
    """Return the shares of a call of so many ``minutes`` that leaves out the steps in ``skip``."""
    total = 60.0 * minutes
    return Shares(
        total=total,
        numerics=0.0 if "numerics" in skip else min(240.0, 0.2 * total),
        measure=0.0 if "measure" in skip else min(600.0, 0.25 * total),
        patience=min(120.0, 0.08 * total),
        packing=min(60.0, 0.04 * total),
    )


@dataclass(frozen=True)
class Ended:
    """How a command ended: ``ok``, ``failed``, ``out of time`` or ``stopped``, with its exit code and seconds."""

    state: str
    code: int | None
    seconds: float


def environment() -> dict[str, str]:
    """Return the environment of the commands: this checkout's code, also where it is not installed."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def start(
    command: Sequence[str], *, out: Path, errors: Path, more: dict[str, str] | None = None, folder: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start a command in ``folder``, in a session of its own, that appends to the files ``out`` and ``errors``."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("ab") as first, errors.open("ab") as second:
        return subprocess.Popen(
            list(command), cwd=folder, env={**environment(), **(more or {})}, stdout=first, stderr=second, start_new_session=True
        )


def run_for(
    command: Sequence[str],
    seconds: float,
    *,
    out: Path,
    errors: Path,
    stopped: Callable[[], bool],
    more: dict[str, str] | None = None,
    folder: Path | None = None,
) -> Ended:
    """Run a command for at most ``seconds``, or until ``stopped``; then it and all it started are asked to end, and killed."""
    began = time.monotonic()
    process = start(command, out=out, errors=errors, more=more, folder=folder)
    while process.poll() is None and not stopped() and time.monotonic() - began < seconds:
        time.sleep(POLL_S)
    if process.poll() is None:
        state = "stopped" if stopped() else "out of time"
        signal_group(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=GRACE_S)
        signal_group(process, signal.SIGKILL)
        process.wait()
        return Ended(state, None, time.monotonic() - began)
    return Ended("ok" if process.returncode == 0 else "failed", process.returncode, time.monotonic() - began)


def signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send a signal to a command and all it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def ask_twice(process: subprocess.Popen[bytes]) -> None:
    """Let a sweep stop its runs, and kill those that do not stop: asked a second time, it kills them itself."""
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=GRACE_S)
    signal_group(process, signal.SIGKILL)
    process.wait()


def describe() -> dict[str, Any]:
    """Return what PyTorch says of itself and of the first GPU."""
    import torch

    there = torch.cuda.is_available()
    first = torch.cuda.get_device_properties(0) if there else None
    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "gpu": first.name if first else None,
        "gpus": torch.cuda.device_count() if there else 0,
        "memory_gib": round(first.total_memory / 2**30, 1) if first else None,
        "capability": f"{first.major}.{first.minor}" if first else None,
    }


def describe_machine(device: str) -> dict[str, Any]:
    """Return the versions, the GPU and the state of the code.

    For ``cuda`` another process asks PyTorch: this one must not hold memory of the GPU.

    Raises:
        RuntimeError: PyTorch cannot be imported or fails on the GPU, with what it says.
    """
    from repro.provenance import git_state

    return {
        **(_described_elsewhere() if device == "cuda" else describe()),
        "python": sys.version.split()[0],
        "cores": os.cpu_count(),
        "git": git_state(),
    }


def _described_elsewhere() -> dict[str, Any]:
    code = "import json; from benchmarks.rent_steps import describe; print(json.dumps(describe()))"
    found = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=300, check=False)
    if found.returncode != 0:
        raise RuntimeError((found.stderr.strip().splitlines() or ["no message"])[-1])
    return dict(json.loads(found.stdout))
