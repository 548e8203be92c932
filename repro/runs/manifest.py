"""The sha256 of every file of a finished run, as the run wrote it: ``manifest.json`` holds ``{"files": {name: sha256}}``.

It is written before the run says ``done``, from what was handed to the disk and not from what lies there. So a bit that flips, a file that
is cut or one of another run is found by whoever reads it next.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repro.errors import UserError
from repro.files import read_json as read_unverified
from repro.files import write_json

FILE = "manifest.json"


class CorruptedError(UserError):
    """A file of a run is not what the run wrote."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(
            f"{path} is not what the run wrote ({problem}). Put it back from a copy, or move the run folder away and train the run again."
        )


def sha256(content: bytes) -> str:
    """Return the sha256 of ``content``, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def write_manifest(folder: Path, sha256s: Mapping[str, str]) -> None:
    """Write the manifest of the run in ``folder``: path in the folder -> sha256."""
    write_json(folder / FILE, {"files": dict(sha256s)})


def listed_files(folder: Path) -> dict[str, Any]:
    """Return what the manifest of the run in ``folder`` holds of each file.

    Raises:
        CorruptedError: there is none, or it cannot be read.
    """
    try:
        return dict(read_unverified(folder / FILE)["files"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptedError(folder / FILE, f"it cannot be read: {error}") from error


def check(folder: Path, name: str) -> None:
    """Check the file ``name`` of a finished run without keeping its content: a label trajectory may be larger than the memory.

    Raises:
        CorruptedError: it is missing, cannot be read, or is not what the run wrote.
    """
    if problem := _problem(folder / name, listed_files(folder).get(name)):
        raise CorruptedError(folder / name, problem)


def read_bytes(folder: Path, name: str) -> bytes:
    """Return what the file ``name`` of a finished run holds; raises what :func:`check` raises."""
    check(folder, name)
    return (folder / name).read_bytes()


def read_json(folder: Path, name: str) -> Any:
    """Return the value in the JSON file ``name`` of a finished run; raises what :func:`check` raises."""
    return json.loads(read_bytes(folder, name))


def verify(folder: Path) -> list[str]:
    """Read every file of a finished run and return what is not as the run wrote it, a text a file."""
    try:
        files = listed_files(folder)
    except CorruptedError as error:
        return [str(error)]
    return [f"{name}: {problem}" for name, expected in sorted(files.items()) if (problem := _problem(folder / name, expected))]


def _problem(path: Path, expected: object) -> str | None:
    """Return what is wrong with a file that must have the ``expected`` sha256."""
    try:
        with path.open("rb") as file:
            same = hashlib.file_digest(file, "sha256").hexdigest() == expected
    except OSError as error:
        return error.strerror or str(error)
    return None if same else "its content has changed"
