"""YAML whose values know the file and line they stand on, so that an error in a spec can name them."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from repro.errors import UserError, did_you_mean

#: What a setting can be: what YAML and Hydra both have a notation for.
Scalar = str | int | float | bool | None
Value = Scalar | tuple[Scalar, ...]

_SCALARS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null"))
# YAML 1.1 reads 1e-3 as a text; everybody who writes it means the number.
_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
_COLLECTIONS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq"))
#: Nothing that is read here lies deeper.
_DEEPEST = 20
#: Characters of a value that a message shows, and of a whole message.
_SHOWN, _LONGEST_MESSAGE = 80, 2_000


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
        return SpecError(f"{self}: {shortened(message, _LONGEST_MESSAGE)}")


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
            found = repr(shortened(self.node.value)) if self.node.value else "nothing"
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
            if not key or not _is_plain(key):
                raise place.error(f"a key of {self.name} must be a word, found {shortened(key)!r}.")
            if key in entries:
                raise place.error(f"{self._below(key)} stands twice, first in line {entries[key].place.line}. Keep one.")
            if allowed is not None and key not in (options := tuple(allowed)):
                near = did_you_mean(key, options)
                raise place.error(f"{self._below(shortened(key))}: there is no such key.{near} Allowed: {', '.join(options)}.")
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
        if not self.node.style and _EXPONENT.fullmatch(self.node.value):  # in the parser in C, plain is ""
            return float(self.node.value)
        try:
            value = yaml.constructor.SafeConstructor().construct_object(self.node)
        # The last two for a tag that the value does not fit, such as `!!bool maybe` and `!!int ""`.
        except (ValueError, OverflowError, KeyError, IndexError) as error:
            raise self.wrong("a text, a number, true, false or null") from error
        assert value is None or isinstance(value, str | int | float | bool)
        if isinstance(value, str) and any(unicodedata.category(sign) == "Cs" or sign == "\0" for sign in value):
            raise self.wrong("a text that a file can hold: without NUL, and without half of a character (\\ud800 to \\udfff)")
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
        """Return a text that is not empty and has neither a line break nor another control character."""
        value = self.text()
        if not _is_plain(value):
            raise self.wrong("a text of one line")
        return value

    def choice(self, options: tuple[str, ...]) -> str:
        """Return one of ``options``.

        Raises:
            SpecError: it is another one; the message names the nearest.
        """
        value = self.text()
        if value not in options:
            near = did_you_mean(value, options)
            raise self.place.error(f"{self.name}: '{shortened(value)}' does not exist.{near} Allowed: {', '.join(options)}.")
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


def shortened(text: str, length: int = _SHOWN) -> str:
    """Return ``text``, or its beginning where a message could not be read for its length."""
    return text if len(text) <= length else f"{text[:length]}..."


def _is_plain(text: str) -> bool:
    """Say whether ``text`` is one line without control characters."""
    return not any(unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") for sign in text)


class _Bounded:
    """Composes YAML, but nothing that lies so deep that Python's stack would end first, and no tags that nothing here reads."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Return the node that begins here."""
        start = self.peek_event().start_mark  # type: ignore[attr-defined]
        self._depth += 1
        if self._depth > _DEEPEST:
            raise yaml.MarkedYAMLError(problem=f"nested more than {_DEEPEST} deep", problem_mark=start)
        node: yaml.Node | None = super().compose_node(parent, index)  # type: ignore[misc]
        self._depth -= 1
        if isinstance(node, yaml.CollectionNode) and node.tag not in _COLLECTIONS:
            raise yaml.MarkedYAMLError(problem=f"the tag {shortened(node.tag)} means nothing here", problem_mark=start)
        return node


class _Loader(_Bounded, yaml.SafeLoader):
    """Says best what is wrong."""


def _compose_fast(text: str) -> yaml.Node | None:
    """Return the root of ``text``, in a tenth of :class:`_Loader`'s time; ``None`` where that one must look for a mistake."""
    if yaml.__with_libyaml__:
        with contextlib.suppress(yaml.YAMLError, ValueError, OverflowError):
            return cast(yaml.Node | None, _fast_loader()(text).get_single_node())
    return None


@functools.cache
def _fast_loader() -> Any:
    from yaml.composer import Composer
    from yaml.cyaml import CParser  # type: ignore[attr-defined]

    class Loader(_Bounded, Composer, CParser, yaml.resolver.Resolver):
        def __init__(self, text: str) -> None:
            CParser.__init__(self, text)
            Composer.__init__(self)
            yaml.resolver.Resolver.__init__(self)

    return Loader


def read_yaml(path: Path, content: bytes) -> Entry:
    """Return the root of the YAML file at ``path`` whose bytes are ``content``.

    Raises:
        SpecError: it is not UTF-8, not YAML, nested too deep, or empty.
    """
    try:
        text = content.decode()
        loader = None if (root := _compose_fast(text)) is not None else _Loader(text)
    except UnicodeDecodeError as error:
        line = 1 + content.count(b"\n", 0, error.start)
        raise Place(path, line).error(f"not YAML in UTF-8: the byte 0x{content[error.start]:02x} is part of no character.") from error
    except yaml.reader.ReaderError as error:
        line = 1 + text.count("\n", 0, error.position)
        raise Place(path, line).error(f"not YAML: the character U+{error.character:04X} may not stand in it.") from error
    try:
        root = loader.get_single_node() if loader is not None else root
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise Place(path, line).error(f"not YAML: {error.problem or error.context}.") from error
    except (ValueError, OverflowError) as error:
        # An escape beyond Unicode, such as "\\UFFFFFFFF".
        assert loader is not None
        raise Place(path, loader.get_mark().line + 1).error(f"not YAML: {error}.") from error
    if root is None:
        raise Place(path, 1).error("the file is empty.")
    return Entry(root, path, "the file")


def existing(name: str) -> Path:
    """Return the file that a user calls ``name``.

    Raises:
        SpecError: there is none, or it is no file.
    """
    try:
        path = Path(name).resolve()
        if path.is_file():
            return path
        what = "this is a folder" if path.is_dir() else "this is a device or a pipe" if path.exists() else "there is no such file"
    except (OSError, ValueError, RuntimeError) as error:
        # Too long a name, a NUL in it, a link to itself.
        what = f"this cannot be a file: {getattr(error, 'strerror', None) or error}"
    raise SpecError(f"{shortened(name)}: {what}.")


def read_file(path: Path) -> bytes:
    """Return the bytes of the file at ``path``.

    Raises:
        SpecError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}.") from error
