"""The source of each file of ours as this process imported it.

A file may be edited while a process lives, above all while the server lives that the workers of a sweep are forked from. So its bytes are
kept in the moment before Python reads it; :mod:`repro.runs.code` says from them which code a run's numbers come from.
"""

from __future__ import annotations

import contextlib
import os
import sys
import sysconfig
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

#: Of each module that is ours: its file, and what that held.
sources: dict[str, tuple[Path, bytes]] = {}

_FOLDERS = [folder for name in ("stdlib", "platstdlib", "purelib", "platlib") if (folder := sysconfig.get_path(name))]

#: Where the standard library and installed packages lie.
_FOREIGN = tuple(folder + os.sep for path in _FOLDERS for folder in (path, os.path.realpath(path)))


def is_ours(module: str, file: str | os.PathLike[str]) -> bool:
    """Say whether a module is of the suite, or of the user's and not installed."""
    path = os.fspath(file)
    return module.partition(".")[0] == "repro" or not (path.startswith(_FOREIGN) or os.path.realpath(path).startswith(_FOREIGN))


class _Watch(PathFinder):
    """Finds modules as Python does, and keeps the source of those that are ours."""

    @classmethod
    def find_spec(cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = super().find_spec(name, path, target)
        if spec is not None and spec.origin is not None and spec.origin.endswith(".py") and is_ours(name, spec.origin):
            with contextlib.suppress(OSError):
                sources[name] = Path(spec.origin).resolve(), Path(spec.origin).read_bytes()
        return spec


def watch() -> None:
    """Keep the source of what is imported from now on. Idempotent."""
    if PathFinder in sys.meta_path:
        sys.meta_path[sys.meta_path.index(PathFinder)] = _Watch
