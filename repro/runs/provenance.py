"""Where a result comes from: code, versions, machine, data.

Each attempt of a run notes what decides the last bits of its numbers beside the settings (the processor or GPU, its libraries, the
threads), since a run that goes on elsewhere ends in other last bits than one that was never interrupted.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import platform
import re
import socket
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from repro import imported
from repro.config.registry import CONF
from repro.config.schema import Config
from repro.files import read_json

logger = logging.getLogger(__name__)

PACKAGES = ("soft-labels-repro", "torch", "torchvision", "triton", "numpy", "scikit-learn", "hydra-core", "omegaconf", "wandb")

#: Stands at the root of a copy of the code: the state of the checkout it was copied from, and the sha256 of the copied files.
SNAPSHOT_FILE = "snapshot.json"

#: What decides nothing where a GPU computes.
_OF_PROCESSORS = frozenset({"threads", "interop_threads", "processor", "cpu_capability", "blas", "lapack", "mkl", "onednn"})

#: Lines of PyTorch's own description of its build, and its settings.
_BUILD = {
    "mkl": r"Math Kernel Library Version (\S+)",
    "onednn": r"MKL-DNN (v\S+)",
    "blas": r"BLAS_INFO=(\w+)",
    "lapack": r"LAPACK_INFO=(\w+)",
}

_DRIVER = Path("/sys/module/nvidia/version")


def git_state(presets: Iterable[Path] = ()) -> dict[str, str | None]:
    """Return the commit of the code and the sha256 of what it lacks; ``None`` where there is no repository, and where nothing is lacking.

    What a commit lacks are changes of its files, staged or not, and files that it does not have: of those that this process has imported,
    and of ``presets``, whether git ignores them or not. Without a repository that is all of the code. Cluster files do not count.

    A copy of the code that was made for a job says what it is a copy of, and the sha256 of its files as ``snapshot``.
    """
    with contextlib.suppress(FileNotFoundError):
        copied = read_json(CONF.parents[1] / SNAPSHOT_FILE)
        return {**copied["git"], "snapshot": copied["sha256"]}
    checkout = _checkout()
    files = _all_files() if checkout is None else {}
    tracked = frozenset() if checkout is None else checkout.tracked
    contents = dict(imported.sources.values()) | {path: path.read_bytes() for path in presets}
    files |= {path: hashlib.sha256(content).hexdigest() for path, content in contents.items() if path not in tracked}
    lacking = b"" if checkout is None else checkout.difference
    lacking += b"".join(sorted(f"\0{path.name}\0{digest}".encode() for path, digest in files.items()))
    return {
        "sha": None if checkout is None else checkout.sha,
        "dirty_sha256": hashlib.sha256(lacking).hexdigest() if lacking else None,
    }


def presets_of(config: Config) -> list[Path]:
    """Return the files of the presets that a run was composed of."""
    groups = [path.name for path in sorted(CONF.iterdir()) if path.is_dir() and hasattr(config, path.name)]
    found = [CONF / "train.yaml", *(CONF / group / f"{getattr(config, group).name}.yaml" for group in groups)]
    return [path for path in found if path.is_file()]


@dataclass(frozen=True)
class _Checkout:
    """The commit of a checkout, how its files differ from it, and which files it has."""

    sha: str
    difference: bytes
    tracked: frozenset[Path]


@functools.cache
def _checkout() -> _Checkout | None:
    """Return the checkout that this file belongs to, as it was at the first call; ``None`` where there is none."""

    def git(*arguments: str) -> bytes | None:
        try:
            result = subprocess.run(["git", *arguments], cwd=CONF.parent, capture_output=True, timeout=30, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return result.stdout if result.returncode == 0 else None

    head, names = git("rev-parse", "HEAD", "--show-toplevel"), git("ls-files", "-z", "--full-name", ":(top)")
    # Where runs are trained is no part of what they compute, and what was tuned is among their settings.
    other = (f":(top,exclude,glob)**/{folder}/**" for folder in ("slurm/clusters", "sweeps/tuned"))
    difference = git("diff", "HEAD", "--", ":(top)", *other)
    if head is None or names is None or difference is None:
        return None
    sha, _, top = head.decode().strip().partition("\n")
    root = Path(top).resolve()
    tracked = frozenset(root / os.fsdecode(name) for name in names.split(b"\0") if name)
    # Installed below a checkout of something else, whose commit says nothing about this code.
    return _Checkout(sha, difference, tracked) if Path(__file__).resolve() in tracked else None


@functools.cache
def _all_files() -> dict[Path, str]:
    files = (path for pattern in ("*.py", "*.yaml") for path in sorted(CONF.parent.rglob(pattern)))
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def device_name(device: torch.device) -> str:
    """Return the model of the GPU or processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({processor()})"


@functools.cache
def processor() -> str:
    """Return the model of the processor."""
    with contextlib.suppress(OSError):
        if found := re.search(r"^model name\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            return found[1].strip()
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


def facts(device: torch.device, execution: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides the last bits of a training on ``device`` with the settings ``execution``."""
    build = torch.__config__.show()
    found: dict[str, Any] = {
        "device": device.type,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "processor": processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        **{name: match[1] for name, pattern in _BUILD.items() if (match := re.search(pattern, build))},
        **execution,
    }
    if device.type == "cuda":
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        found |= {"gpu": device_name(device), "cuda": torch.version.cuda, "cudnn": cudnn, "driver": _driver()}
        # It makes the kernels.
        found |= {"triton": versions().get("triton")} if execution.get("compile") else {}
    return found


@functools.cache
def _driver() -> str | None:
    """Return the version of NVIDIA's driver: that of the kernel's module, or, where a container hides that, what nvidia-smi says."""
    with contextlib.suppress(OSError):
        return _DRIVER.read_text().strip()
    try:
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        result = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    # A line for each GPU, all of them with the one driver.
    lines = result.stdout.split()
    return lines[0] if lines and result.returncode == 0 else None


def attempts(before: Mapping[str, Any], present: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Return the facts of every attempt that the results of the run ``name`` come from, in order, with the number of attempts in a row.

    ``before`` is the provenance of the earlier attempts that this one goes on from; nothing for a start. Where the facts that decide
    have changed, a warning says so.
    """
    earlier = [dict(item) for item in before.get("attempts", [])]
    if not earlier:
        return [{"count": 1, "facts": present}]
    if earlier[-1]["facts"] == present:
        return [*earlier[:-1], {**earlier[-1], "count": earlier[-1]["count"] + 1}]
    old, new = decisive(earlier[-1]["facts"]), decisive(present)
    changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    if changed:
        listed = "; ".join(f"{key} was {old.get(key)}, is {new.get(key)}" for key in changed)
        logger.warning(
            "%s resumes under other conditions than it began, so its last digits may differ from an uninterrupted run: %s.", name, listed
        )
    return [*earlier, {"count": 1, "facts": present}]


def decisive(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the facts that can move a bit: on a GPU, not those of the processor."""
    return {key: value for key, value in found.items() if found.get("device") != "cuda" or key not in _OF_PROCESSORS}
