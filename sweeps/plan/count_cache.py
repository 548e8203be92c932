"""Counts of steps that earlier calls have made: counting a step takes a second, and reading what was counted a millisecond.

They lie in ``$REPRO_CACHE``, or in the user's folder for caches, by the code that has counted; what cannot be read is counted again.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import time
from importlib.metadata import version
from pathlib import Path

from platformdirs import user_cache_path

from repro.config import registry
from repro.files import read_json, write_json
from sweeps.plan.roofline import Counted, Operation

_KEPT_S = 30 * 24 * 3600
_ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def counted(model: str, settings: str, image_shape: tuple[int, int, int], num_classes: int, **sizes: int) -> Counted:
    """Return what :func:`sweeps.plan.counting.count_step` returns, or with ``images`` among ``sizes`` that of ``count_forward``."""
    arguments = (model, settings, image_shape, num_classes)
    code = registry.get("model", model).build.__module__
    # A network from elsewhere may change without a sign of it here.
    path = _folder() / f"{hashlib.sha256(repr((arguments, sizes)).encode()).hexdigest()[:24]}.json" if code.startswith("repro.") else None
    if path is not None:
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            kept = read_json(path)
            return Counted(tuple(Operation(*each) for each in kept["operations"]), kept["peak_bytes"], kept["float32_peak_bytes"])
    # With it comes PyTorch.
    from sweeps.plan.counting import count_forward, count_step

    found = (count_forward if "images" in sizes else count_step)(*arguments, **sizes)
    if path is not None:
        # A plan needs no cache: without room for it the next one counts again.
        with contextlib.suppress(OSError):
            _clear(path.parent.parent)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(
                path, {"operations": found.operations, "peak_bytes": found.peak_bytes, "float32_peak_bytes": found.float32_peak_bytes}
            )
    return found


@functools.cache
def _clear(folder: Path) -> None:
    """Remove what code that has counted nothing for a month has left in ``folder``."""
    for old in folder.glob("*"):
        if time.time() - old.stat().st_mtime > _KEPT_S:
            shutil.rmtree(old, ignore_errors=True)


@functools.cache
def _folder() -> Path:
    digest = hashlib.sha256(json.dumps([version("torch"), version("torchvision")]).encode())
    for path in sorted([*(_ROOT / "repro").rglob("*.py"), *(_ROOT / "sweeps" / "plan").glob("*.py")]):
        digest.update(path.read_bytes())
    cache = Path(os.environ.get("REPRO_CACHE") or user_cache_path("soft-labels-repro"))
    return cache / "counts" / digest.hexdigest()[:24]
