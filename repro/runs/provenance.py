"""Where a result comes from: code, versions, machine, data.

Each attempt of a run notes what decides the last bits of its numbers beside the settings (the processor or GPU, its libraries, the
threads), since a run that resumes elsewhere ends in other last bits than one that was never interrupted.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import platform
import re
import socket
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from repro.files import try_read
from repro.runs.code import code_hash
from repro.runs.manifest import sha256

logger = logging.getLogger(__name__)

PACKAGES = ("soft-labels-repro", "torch", "torchvision", "triton", "numpy", "scikit-learn", "hydra-core", "omegaconf", "wandb")

#: Stands at the root of a copy of the code: ``git``, the state of the checkout it was copied from, and the sha256 of the copied files.
SNAPSHOT_FILE = "snapshot.json"

_ROOT = Path(__file__).resolve().parents[2]

#: Settings of ``exec`` that move numbers within the documented tolerance.
_CHANGING_NUMBERS = ("precision", "allow_tf32", "channels_last", "compile", "cuda_graphs")


@functools.cache
def git_state() -> dict[str, str | None]:
    """Return the commit of the code and the sha256 of how ``repro/`` differs from it; ``None`` where there is no commit or no difference.

    A copy of the code that was made for a job says what it is a copy of, and the sha256 of its files as ``snapshot``.
    """
    if copied := try_read(_ROOT / SNAPSHOT_FILE):
        return {**copied["git"], "snapshot": copied["sha256"]}

    def git(*arguments: str) -> bytes | None:
        try:
            result = subprocess.run(["git", *arguments], cwd=_ROOT, capture_output=True, timeout=30, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return result.stdout if result.returncode == 0 else None

    # Installed below a checkout of something else, whose commit says nothing about this code, this file is unknown to git.
    head = git("rev-parse", "HEAD") if git("ls-files", "--error-unmatch", __file__) else None
    difference = git("diff", "HEAD", "--", "repro") if head else None
    return {"sha": head.decode().strip() if head else None, "dirty_sha256": sha256(difference) if difference else None}


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


def facts(device: torch.device) -> dict[str, Any]:
    """Return what decides the last bits of a training on ``device`` beside its settings."""
    kind = {"device": device.type, "torch": torch.__version__}
    if device.type == "cuda":
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        return {**kind, "gpu": device_name(device), "cuda": torch.version.cuda, "cudnn": cudnn, "triton": versions().get("triton")}
    capability = torch.backends.cpu.get_cpu_capability()
    return {**kind, "processor": processor(), "cpu_capability": capability, "threads": torch.get_num_threads()}


def provenance(device: torch.device, execution: Any, before: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``provenance.json`` holds of code and machine; ``before`` is that of the attempts that this one resumes, or nothing.

    ``execution`` is the section ``exec`` of the run's settings.
    """
    git = git_state()
    earlier = [state for state in [*before.get("earlier_git", []), before.get("git")] if state not in (None, git)]
    executed = {name: getattr(execution, name) for name in _CHANGING_NUMBERS}
    return {
        "git": git,
        **({"earlier_git": earlier} if earlier else {}),
        "code": code_hash(),
        "versions": versions(),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "execution": executed,
        "attempts": _attempts(before.get("attempts", []), facts(device) | executed),
    }


def _attempts(earlier: list[dict[str, Any]], present: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the facts of the attempts that results come from, in order; those in a row that share them stand once."""
    last = earlier[-1]["facts"] if earlier else present
    changed = [f"{key} was {last.get(key)}, is {value}" for key, value in present.items() if last.get(key) != value]
    if changed:
        logger.warning("the run resumes under other conditions than it began, so its last digits may differ: %s.", "; ".join(changed))
    return [*earlier, {"facts": present}] if changed or not earlier else earlier
