"""Data of a file that knows its lines, and the error that names them."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.errors import UserError, did_you_mean

#: What a setting can be: what YAML and Hydra both have a notation for.
Scalar = str | int | float | bool | None
Value = Scalar | tuple[Scalar, ...]

#: Characters of a value that a message shows, and of a whole message.
_SHOWN, _LONGEST_MESSAGE = 80, 2_000


class SpecError(UserError):
    """A mistake in a file that a user wrote; the message begins with its file and line."""


@dataclass(frozen=True)
class Place:
    """A line (from 1) of a file."""

    path: Path
    line: int

    def __str__(self) -> str:
        """Return ``FILE:LINE``, short when the file lies below the working directory."""
        relative = os.path.relpath(self.path)
        return f"{self.path if relative.startswith('..') else relative}:{self.line}"

    def error(self, message: str) -> SpecError:
        """Return the error ``FILE:LINE: message``."""
        return SpecError(f"{self}: {shortened(message, _LONGEST_MESSAGE)}")


class Text(str):
    """A text of a file, with its place."""

    place: Place

    def __new__(cls, text: str, place: Place) -> Text:
        """Return ``text`` that stands at ``place``."""
        new = super().__new__(cls, text)
        new.place = place
        return new

    def __getnewargs__(self) -> tuple[str, Place]:  # type: ignore[override]  # a text of Python's is made of one argument
        return str(self), self.place


class _Placed:
    """A mapping or a list of a file.

    Attributes:
        name: what it is called in messages, such as ``rows[2]``.
        place: where it begins.
        at: where each of its values begins.
    """

    def __init__(self, name: str, place: Place) -> None:
        super().__init__()
        self.name = name
        self.place = place
        self.at: dict[Any, Place] = {}

    def below(self, key: object) -> str:
        """Return what the value at ``key`` is called."""
        if isinstance(key, int):
            return f"{self.name}[{key}]"
        return f"{self.name}.{key}" if self.name != "the file" else str(key)

    def error(self, key: object, message: str) -> SpecError:
        """Return the error ``message`` about the value at ``key``."""
        return self.at[key].error(f"{self.below(key)}: {message}")


class Seq(_Placed, list[Any]):
    """A list of a file."""


class Map(_Placed, dict[str, Any]):
    """A mapping of a file; ``key_at`` says where each key stands."""

    def __init__(self, name: str, place: Place) -> None:
        super().__init__(name, place)
        self.key_at: dict[str, Place] = {}

    def only(self, allowed: Iterable[str], required: Iterable[str] = ()) -> None:
        """Check the keys.

        Raises:
            SpecError: a key is not among ``allowed``, or one of ``required`` is absent.
        """
        options = tuple(allowed)
        for key in self:
            if key not in options:
                near = did_you_mean(key, options)
                name = self.below(shortened(key))
                raise self.key_at[key].error(f"{name}: there is no such key.{near} Allowed: {', '.join(options)}.")
        for key in required:
            if key not in self:
                raise self.place.error(f"{self.below(key)} is missing.")


def found(value: object) -> str:
    """Return ``value`` of a file as a message shows it."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a mapping"
    if value is None or value == "":
        return "nothing"
    return repr(shortened(str(value).lower() if isinstance(value, bool) else str(value)))


def shortened(text: str, length: int = _SHOWN) -> str:
    """Return ``text``, or its beginning where a message could not be read for its length."""
    return text if len(text) <= length else f"{text[:length]}..."


def is_plain(text: str) -> bool:
    """Say whether ``text`` is one line without control characters."""
    return not any(unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") for sign in text)
