"""JSON-lines files whose every line ends with a sha256 of itself, so that damage is found and named by its line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from repro.files import jsonable, write_text
from repro.runs.manifest import DamagedError

#: What stands before the sha256 of a line.
_SIGN = ', "sha256": "'

Item = dict[str, Any]


def signed(item: Mapping[str, Any]) -> str:
    """Return the line of ``item``: its keys as they are ordered, those of what it holds sorted, and the sha256 of all of it."""
    fields = ", ".join(f"{json.dumps(key)}: {json.dumps(jsonable(value), sort_keys=True, allow_nan=False)}" for key, value in item.items())
    return _sign("{" + fields)


def sha256_of(line: str) -> str:
    """Return the sha256 that a line of :func:`signed` carries."""
    return line.rpartition(_SIGN)[2][:-2]


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write the lines, each made by :func:`signed`, to ``path`` atomically.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(f"{line}\n" for line in lines))


def read_lines(path: Path) -> list[Item]:
    """Return what the lines of ``path`` hold, each with its ``sha256``.

    Raises:
        DamagedError: the file cannot be read, or a line is not as it was written; the message has the line's number.
    """
    try:
        # A byte that is no text changes the sha256 of its line like any other.
        text = path.read_bytes().decode("utf-8", errors="replace")
    except OSError as error:
        raise damaged(path, None, error.strerror or str(error)) from error
    items = []
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        if _sign(line.rpartition(_SIGN)[0]) != line:
            raise damaged(path, number, "the sha256 at its end is not that of the line")
        items.append(json.loads(line))
    if not items or not text.endswith("\n"):
        raise damaged(path, len(items) + 1, "it is cut short")
    return items


def damaged(path: Path, number: int | None, problem: str) -> DamagedError:
    """Return the error that line ``number`` of ``path``, or the file where that is ``None``, is not as it was written."""
    place = path if number is None else f"{path}:{number}"
    return DamagedError(f"{place}: the evidence is not as it was written: {problem}. Put the file back: git checkout -- {path}")


def _sign(text: str) -> str:
    return f'{text}{_SIGN}{hashlib.sha256(text.encode()).hexdigest()}"}}'
