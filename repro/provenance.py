"""Where a result comes from: code, versions, machine, data."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import platform
import socket
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from repro.files import read_json

PACKAGES = ("soft-labels-repro", "torch", "torchvision", "numpy", "scikit-learn", "hydra-core", "omegaconf", "wandb")


#: Stands at the root of a copy of the code: the state of the checkout it was copied from, and the sha256 of the copied files.
SNAPSHOT_FILE = "snapshot.json"


@functools.cache
def git_state() -> dict[str, str | None]:
    """Return the commit of the code and the sha256 of its uncommitted changes; ``None`` where there is no repository or change.

    A copy of the code that was made for a job says what it is a copy of, and the sha256 of its files as ``snapshot``.
    """
    folder = Path(__file__).resolve().parent
    with contextlib.suppress(FileNotFoundError):
        copied = read_json(folder.parent / SNAPSHOT_FILE)
        return {**copied["git"], "snapshot": copied["sha256"]}

    def git(*arguments: str) -> str | None:
        try:
            result = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=30, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return result.stdout if result.returncode == 0 else None

    sha, difference = git("rev-parse", "HEAD"), git("diff", "HEAD")
    return {
        "sha": sha.strip() if sha else None,
        "dirty_sha256": hashlib.sha256(difference.encode()).hexdigest() if difference else None,
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def device_name(device: torch.device) -> str:
    """Return the model of the GPU or processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({_processor()})"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def provenance(device: torch.device, hashes: dict[str, str], *, effective_noise_rate: float) -> dict[str, Any]:
    """Return what ``provenance.json`` holds; ``hashes`` are the sha256 of dataset, split and noise."""
    return {
        "git": git_state(),
        "versions": versions(),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "sha256": hashes,
        "effective_noise_rate": effective_noise_rate,
    }
