"""Writing files so that a reader never sees half of one.

Every write goes to a temporary file in the same folder, is flushed to the disk, and is then renamed over its target. A crash or
a full disk at any moment leaves the old file whole.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let ``write`` fill a temporary file, then rename it to ``path``.

    Raises:
        OSError: the disk is full or the folder cannot be written; ``path`` is as it was and no temporary file stays behind.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp creates private files; results are shared with a group as the user's umask says, which can only be read by setting it.
        os.umask(mask := os.umask(0))
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` atomically."""
    write_atomically(path, lambda file: file.write(content))


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 to ``path`` atomically."""
    write_bytes(path, text.encode())


def json_text(value: object) -> str:
    """Return ``value`` as sorted, indented JSON. NaN and infinities become the strings of :func:`jsonable`."""
    return json.dumps(jsonable(value), sort_keys=True, indent=2, allow_nan=False) + "\n"


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as :func:`json_text` to ``path`` atomically."""
    write_text(path, json_text(value))


def read_json(path: Path) -> Any:
    """Read a JSON file; numbers written by :func:`jsonable` as strings come back through :func:`number`."""
    return json.loads(path.read_text())


def try_read(path: Path, *keys: str) -> Any:
    """Return what a JSON file holds below ``keys``; ``None`` where it cannot be read, or has nothing there."""
    try:
        value = read_json(path)
        for key in keys:
            value = value[key]
        return value
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def jsonable(value: object) -> object:
    """Replace non-finite floats by ``"NaN"``, ``"Infinity"``, ``"-Infinity"``, which strict JSON has no numbers for."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, dict):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return value


def number(value: Any) -> float:
    """Read a number written through :func:`jsonable` back as a float (``float("NaN")`` and ``float("Infinity")`` included)."""
    return float(value)
