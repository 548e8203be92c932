"""Where a result comes from: code, versions, machine, data."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import socket
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from repro.code import imported_files
from repro.config import Config
from repro.files import read_json

PACKAGES = ("soft-labels-repro", "torch", "torchvision", "numpy", "scikit-learn", "hydra-core", "omegaconf", "wandb")


#: Stands at the root of a copy of the code: the state of the checkout it was copied from, and the sha256 of the copied files.
SNAPSHOT_FILE = "snapshot.json"


#: Where the presets of the command line lie.
_CONF = Path(__file__).resolve().parent / "conf"


def git_state(presets: Iterable[Path] = ()) -> dict[str, str | None]:
    """Return the commit of the code and the sha256 of what it lacks; ``None`` where there is no repository, and where nothing is lacking.

    What a commit lacks are changes of its files, staged or not, and files that it does not have: of those that this process has imported,
    and of ``presets``, whether git ignores them or not. Without a repository that is all of the code.

    A copy of the code that was made for a job says what it is a copy of, and the sha256 of its files as ``snapshot``.
    """
    with contextlib.suppress(FileNotFoundError):
        copied = read_json(_CONF.parents[1] / SNAPSHOT_FILE)
        return {**copied["git"], "snapshot": copied["sha256"]}
    checkout = _checkout()
    files = _all_files() if checkout is None else {}
    tracked = frozenset() if checkout is None else checkout.tracked
    files |= {path: digest() for path, digest in imported_files().items() if path not in tracked}
    files |= {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in presets if path not in tracked}
    lacking = b"" if checkout is None else checkout.difference
    lacking += b"".join(sorted(f"\0{path.name}\0{digest}".encode() for path, digest in files.items()))
    return {
        "sha": None if checkout is None else checkout.sha,
        "dirty_sha256": hashlib.sha256(lacking).hexdigest() if lacking else None,
    }


def presets_of(config: Config) -> list[Path]:
    """Return the files of the presets that a run was composed of."""
    groups = [path.name for path in sorted(_CONF.iterdir()) if path.is_dir() and hasattr(config, path.name)]
    found = [_CONF / "train.yaml", *(_CONF / group / f"{getattr(config, group).name}.yaml" for group in groups)]
    return [path for path in found if path.is_file()]


@dataclass(frozen=True)
class _Checkout:
    """The commit of a checkout, how its files differ from it, and which files of code it has."""

    sha: str
    difference: bytes
    tracked: frozenset[Path]


@functools.cache
def _checkout() -> _Checkout | None:
    """Return the checkout that this file belongs to, as it was at the first call; ``None`` where there is none."""

    def git(*arguments: str) -> bytes | None:
        try:
            result = subprocess.run(["git", *arguments], cwd=_CONF.parent, capture_output=True, timeout=30, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return result.stdout if result.returncode == 0 else None

    head, names = git("rev-parse", "HEAD", "--show-toplevel"), git("ls-files", "-z", "--full-name", ":(top)*.py", ":(top)*.yaml")
    difference = git("diff", "HEAD")
    if head is None or names is None or difference is None:
        return None
    sha, _, top = head.decode().strip().partition("\n")
    root = Path(top).resolve()
    tracked = frozenset(root / os.fsdecode(name) for name in names.split(b"\0") if name)
    # Installed below a checkout of something else, whose commit says nothing about this code.
    return _Checkout(sha, difference, tracked) if Path(__file__).resolve() in tracked else None


@functools.cache
def _all_files() -> dict[Path, str]:
    files = (path for pattern in ("*.py", "*.yaml") for path in sorted(_CONF.parent.rglob(pattern)))
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@functools.cache
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
    return f"{device.type} ({processor()})"


@functools.cache
def processor() -> str:
    """Return the model of the processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def provenance(
    device: torch.device, hashes: dict[str, str], *, effective_noise_rate: float, presets: Iterable[Path] = ()
) -> dict[str, Any]:
    """Return what ``provenance.json`` holds; ``hashes`` are the sha256 of dataset, split and noise."""
    return {
        "git": git_state(presets),
        "versions": versions(),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "sha256": hashes,
        "effective_noise_rate": effective_noise_rate,
    }
