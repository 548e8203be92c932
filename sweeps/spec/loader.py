"""Loads YAML as plain data that knows its lines: a mistake in a file is named with the file and the line."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Any, cast

import yaml

from repro.errors import did_you_mean
from sweeps.spec.data import Map, Place, Scalar, Seq, SpecError, Text, found, is_plain, shortened

_SCALARS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null"))
# YAML 1.1 reads 1e-3 as a text; everybody who writes it means the number.
_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
_COLLECTIONS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq"))
#: Nothing that is read here lies deeper.
_DEEPEST = 20


class _Loader(yaml.SafeLoader):
    """Composes YAML, but nothing that lies so deep that Python's stack would end first, and no tags that nothing here reads."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        start = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        self._depth += 1
        if self._depth > _DEEPEST:
            raise yaml.MarkedYAMLError(problem=f"nested more than {_DEEPEST} deep", problem_mark=start)
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(node, yaml.CollectionNode) and node.tag not in _COLLECTIONS:
            raise yaml.MarkedYAMLError(problem=f"the tag {shortened(node.tag)} means nothing here", problem_mark=start)
        return node


def _compose(path: Path, content: bytes) -> yaml.Node:
    """Return the root node of the YAML file at ``path`` whose bytes are ``content``."""

    def error(line: int, problem: str) -> SpecError:
        return Place(path, line).error(f"not YAML: {problem}.")

    loader = None
    try:
        text = content.decode()
        loader = _Loader(text)
        root: yaml.Node | None = loader.get_single_node()
    except UnicodeDecodeError as wrong:
        line = 1 + content.count(b"\n", 0, wrong.start)
        raise Place(path, line).error(f"not YAML in UTF-8: the byte 0x{content[wrong.start]:02x} is part of no character.") from wrong
    except yaml.reader.ReaderError as wrong:
        raise error(1 + text.count("\n", 0, wrong.position), f"the character U+{wrong.character:04X} is not allowed") from wrong
    except yaml.MarkedYAMLError as wrong:
        raise error(wrong.problem_mark.line + 1 if wrong.problem_mark else 1, wrong.problem or wrong.context or "") from wrong
    except (ValueError, OverflowError) as wrong:  # an escape beyond Unicode, such as "\\UFFFFFFFF"
        assert loader is not None
        raise error(loader.get_mark().line + 1, str(wrong)) from wrong
    if root is None:
        raise Place(path, 1).error("the file is empty.")
    return root


def load(path: Path, content: bytes) -> Map:
    """Return the data of the YAML file at ``path`` whose bytes are ``content``.

    Raises:
        SpecError: it is not UTF-8, not YAML, nested too deep, empty, or no mapping; it has a key twice, or a value that is neither a text,
            a number, true, false nor null.
    """
    root = _compose(path, content)
    if not isinstance(root, yaml.MappingNode):
        raise Place(path, root.start_mark.line + 1).error("the file must be a mapping (key: value).")
    return cast(Map, _Builder(path).build(root, "the file"))


class _Builder:
    """Makes plain data of nodes; what several aliases mean is made once, however often they stand in each other."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._made: dict[int, Any] = {}
        self._open: set[int] = set()
        self._scalars = yaml.constructor.SafeConstructor()

    def build(self, node: yaml.Node, name: str) -> Any:
        """Return the data of ``node``, which messages call ``name``."""
        if id(node) not in self._made:
            place = self._place(node)
            if id(node) in self._open:
                raise place.error(f"{name} must be finite: its alias refers to itself.")
            self._open.add(id(node))
            if isinstance(node, yaml.MappingNode):
                self._made[id(node)] = self._mapping(node, Map(name, place))
            elif isinstance(node, yaml.SequenceNode):
                items = Seq(name, place)
                for index, item in enumerate(node.value):
                    items.at[index] = self._place(item)
                    items.append(self.build(item, items.below(index)))
                self._made[id(node)] = items
            else:
                self._made[id(node)] = self._scalar(cast(yaml.ScalarNode, node), name, place)
        return self._made[id(node)]

    def _place(self, node: yaml.Node) -> Place:
        return Place(self._path, node.start_mark.line + 1)

    def _mapping(self, node: yaml.MappingNode, made: Map) -> Map:
        for key_node, value_node in node.value:
            place = self._place(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                raise place.error(f"a key of {made.name} must be a word, not a list or a mapping.")
            key = str(key_node.value)
            if not key or not is_plain(key):
                raise place.error(f"a key of {made.name} must be a word, found {shortened(key)!r}.")
            if key in made:
                raise place.error(f"{made.below(key)} is given twice, first in line {made.at[key].line}. Keep one.")
            made.at[key], made.key_at[key] = self._place(value_node), place
            made[key] = self.build(value_node, made.below(key))
        return made

    def _scalar(self, node: yaml.ScalarNode, name: str, place: Place) -> Scalar:
        text = node.value
        if node.style is None and _EXPONENT.fullmatch(text):
            return float(text)
        try:
            value = self._scalars.construct_object(node) if node.tag in _SCALARS else node
        # The last two for a tag that the value does not fit, such as `!!bool maybe` and `!!int ""`.
        except (ValueError, OverflowError, KeyError, IndexError):
            value = node
        if isinstance(value, yaml.Node):
            raise place.error(f"{name} must be a text, a number, true, false or null, found {found(text)}.")
        if not isinstance(value, str):
            return cast(Scalar, value)
        if any(unicodedata.category(sign) == "Cs" or sign == "\0" for sign in value):
            wanted = "a text that a file can hold: without NUL, and without half of a character (\\ud800 to \\udfff)"
            raise place.error(f"{name} must be {wanted}.")
        return Text(value, place)


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


def named_file(name: str, known: dict[str, Path], kind: str, hint: str = "") -> Path:
    """Return the file of the ``kind`` (spec, scale, cluster) that a user calls ``name``: one of ``known``, or a path ending in ``.yaml``.

    Raises:
        SpecError: there is none; the message lists those there are and ends in ``hint``.
    """
    if name.endswith((".yaml", ".yml")):
        return existing(name)
    if name not in known:
        near = did_you_mean(name, known)
        listed = ", ".join(sorted(known)) or "none"
        raise SpecError(
            f"'{shortened(name)}': there is no {kind} of that name.{near} Known: {listed}; or give the path of a .yaml file.{hint}"
        )
    return known[name]
