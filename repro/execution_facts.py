"""What decides the last bits of a run's numbers beside its settings: the processor or GPU, its libraries, the threads.

Each attempt of a run notes them, since a run that goes on elsewhere ends in other last bits than one that was never interrupted.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from repro.provenance import device_name, processor

logger = logging.getLogger(__name__)

#: What decides nothing where a GPU computes.
_OF_PROCESSORS = frozenset(
    {"threads", "interop_threads", "processor", "cpu_capability", "blas", "lapack", "mkl", "onednn"},
)

#: Lines of PyTorch's own description of its build, and its settings.
_BUILD = {
    "mkl": r"Math Kernel Library Version (\S+)",
    "onednn": r"MKL-DNN (v\S+)",
    "blas": r"BLAS_INFO=(\w+)",
    "lapack": r"LAPACK_INFO=(\w+)",
}

_DRIVER = Path("/sys/module/nvidia/version")


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
        found |= {"gpu": device_name(device), "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}  # type: ignore[no-untyped-call]
        with contextlib.suppress(OSError):
            found["driver"] = _DRIVER.read_text().strip()
    return found


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
        logger.warning("%s goes on otherwise than it began, so it ends in other last bits than an uninterrupted run: %s.", name, listed)
    return [*earlier, {"count": 1, "facts": present}]


def decisive(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the facts that can move a bit: on a GPU, not those of the processor."""
    return {key: value for key, value in found.items() if found.get("device") != "cuda" or key not in _OF_PROCESSORS}
