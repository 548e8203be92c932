"""What each file of the suite was when this process imported it.

A file may be edited while a process lives, above all while the server lives that the workers of a sweep are forked from. So the file's
time and size are noted in the moment before Python reads it; :mod:`repro.code` compares them with what it reads later.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType

#: Time of the last change (ns) and size (bytes) of a file.
Stamp = tuple[int, int]

#: Of each module below ``repro``, and of each that registers a choice: the stamp of its file when it was imported.
stamps: dict[str, Stamp] = {}


def stamp(path: str | os.PathLike[str]) -> Stamp:
    """Return the stamp of a file.

    Raises:
        OSError: there is no such file.
    """
    found = os.stat(path)
    return found.st_mtime_ns, found.st_size


def note(module: str) -> None:
    """Note the file of a module that is being imported and lies elsewhere, such as one of the user's that registers a method."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is not None and module not in stamps:
        with contextlib.suppress(OSError):
            stamps[module] = stamp(file)


class _Watch:
    """Is asked for every module that is imported, notes those of the suite, and leaves finding them to the finders after it."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> None:
        if not name.startswith("repro."):
            return
        last = name.rpartition(".")[2]
        for folder in path or ():
            for file in (os.path.join(folder, last, "__init__.py"), os.path.join(folder, f"{last}.py")):
                with contextlib.suppress(OSError):
                    stamps[name] = stamp(file)
                    return


def watch() -> None:
    """Note what is imported from now on. Idempotent."""
    if not any(isinstance(finder, _Watch) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watch())
