"""YAML whose values know the file and line they stand on, so that an error in a spec can name them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

from repro.errors import UserError, did_you_mean

#: What a setting can be: what YAML and Hydra both have a notation for.
Scalar = str | int | float | bool | None
Value = Scalar | tuple[Scalar, ...]

_SCALARS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null"))
# YAML 1.1 reads 1e-3 as a text; everybody who writes it means the number.
_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


class SpecError(UserError):
    """A mistake in a spec; the message begins with its file and line."""


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
        return SpecError(f"{self}: {message}")


@dataclass(frozen=True)
class Entry:
    """A value of a YAML file: a scalar, a list or a mapping, with its place.

    Attributes:
        node: as PyYAML composed it.
        path: the file.
        name: what the value is called in messages, such as ``rows[2].label``.
    """

    node: yaml.Node
    path: Path
    name: str

    @property
    def place(self) -> Place:
        """Where the value stands."""
        return Place(self.path, self.node.start_mark.line + 1)

    @property
    def is_mapping(self) -> bool:
        """Whether it is a mapping."""
        return isinstance(self.node, yaml.MappingNode)

    @property
    def is_list(self) -> bool:
        """Whether it is a list."""
        return isinstance(self.node, yaml.SequenceNode)

    def wrong(self, wanted: str) -> SpecError:
        """Return the error that this value is not ``wanted``."""
        if isinstance(self.node, yaml.ScalarNode):
            found = repr(self.node.value) if self.node.value else "nothing"
        else:
            found = "a list" if isinstance(self.node, yaml.SequenceNode) else "a mapping"
        return self.place.error(f"{self.name} must be {wanted}, found {found}.")

    def mapping(self, *, allowed: Iterable[str] | None = None, required: Iterable[str] = ()) -> dict[str, Entry]:
        """Return the entries of a mapping by key, in the order of the file.

        Raises:
            SpecError: not a mapping; a key twice; a key that is not among ``allowed``; one of ``required`` absent.
        """
        if not isinstance(self.node, yaml.MappingNode):
            raise self.wrong("a mapping (key: value)")
        entries: dict[str, Entry] = {}
        for key_node, value_node in self.node.value:
            place = Place(self.path, key_node.start_mark.line + 1)
            if not isinstance(key_node, yaml.ScalarNode):
                raise place.error(f"a key of {self.name} must be a word, not a list or a mapping.")
            key = str(key_node.value)
            if key in entries:
                raise place.error(f"{self._below(key)} stands twice, first in line {entries[key].place.line}. Keep one.")
            if allowed is not None and key not in (options := tuple(allowed)):
                raise place.error(f"{self._below(key)}: there is no such key.{did_you_mean(key, options)} Allowed: {', '.join(options)}.")
            entries[key] = Entry(value_node, self.path, self._below(key))
        for key in required:
            if key not in entries:
                raise self.place.error(f"{self._below(key)} is missing.")
        return entries

    def items(self) -> list[Entry]:
        """Return the entries of a list.

        Raises:
            SpecError: not a list, or an empty one.
        """
        if not isinstance(self.node, yaml.SequenceNode):
            raise self.wrong("a list")
        if not self.node.value:
            raise self.place.error(f"{self.name} is empty: it needs at least one entry.")
        return [Entry(node, self.path, f"{self.name}[{index}]") for index, node in enumerate(self.node.value)]

    def scalar(self) -> Scalar:
        """Return a text, number, truth value or null.

        Raises:
            SpecError: it is something else.
        """
        if not isinstance(self.node, yaml.ScalarNode) or self.node.tag not in _SCALARS:
            raise self.wrong("a text, a number, true, false or null")
        if self.node.style is None and _EXPONENT.fullmatch(self.node.value):
            return float(self.node.value)
        try:
            value = yaml.constructor.SafeConstructor().construct_object(self.node)
        except ValueError as error:
            raise self.wrong("a text, a number, true, false or null") from error
        assert value is None or isinstance(value, str | int | float | bool)
        return value

    def value(self) -> Value:
        """Return a scalar, or a tuple of scalars for a list (an empty list is a value too).

        Raises:
            SpecError: it is something else.
        """
        if isinstance(self.node, yaml.SequenceNode):
            return tuple(Entry(node, self.path, self.name).scalar() for node in self.node.value)
        return self.scalar()

    def text(self) -> str:
        """Return a text that is not empty.

        Raises:
            SpecError: it is empty or no text, such as an unquoted number.
        """
        value = self.scalar()
        if not isinstance(value, str) or not value.strip():
            raise self.wrong('a text; a number or a truth value that is meant as text needs quotes, such as "40"')
        return value.strip()

    def line(self) -> str:
        """Return a text that is not empty and has no line break."""
        value = self.text()
        if "\n" in value:
            raise self.wrong("a text of one line")
        return value

    def choice(self, options: tuple[str, ...]) -> str:
        """Return one of ``options``.

        Raises:
            SpecError: it is another one; the message names the nearest.
        """
        value = self.text()
        if value not in options:
            raise self.place.error(f"{self.name}: '{value}' does not exist.{did_you_mean(value, options)} Allowed: {', '.join(options)}.")
        return value

    def integer(self, *, at_least: int, at_most: int) -> int:
        """Return an integer within the limits.

        Raises:
            SpecError: it is something else.
        """
        value = self.scalar()
        if isinstance(value, bool) or not isinstance(value, int) or not at_least <= value <= at_most:
            raise self.wrong(f"an integer from {at_least} to {at_most}")
        return value

    def _below(self, key: str) -> str:
        return f"{self.name}.{key}" if self.name != "the file" else key


def read_yaml(path: Path, content: bytes) -> Entry:
    """Return the root of the YAML file at ``path`` whose bytes are ``content``.

    Raises:
        SpecError: it is not UTF-8, not YAML, or empty.
    """
    try:
        root = yaml.compose(content.decode(), Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise Place(path, line).error(f"not YAML: {error.problem}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Place(path, 1).error(f"not YAML in UTF-8: {error}.") from error
    if root is None:
        raise Place(path, 1).error("the file is empty.")
    return Entry(root, path, "the file")
