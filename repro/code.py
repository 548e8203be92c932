"""Which code a run's numbers come from: the files that compute them, found by what they import, and a hash of each.

The files are those that :data:`ROOT` imports, directly or through others, and those of the run's own method, dataset, model and noise
with what these import; the files of other methods are not among them. So are files of the user's that register a choice, and what
these import, but not the standard library and installed packages, whose versions stand in provenance.json. A file's hash is that of its
syntax tree without docstrings: comments, blank lines and line breaks do not change it.

The hash is that of the file as this process imported it. Whoever imports, long before, for processes forked later
calls :func:`remember`.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro import imported, registry
from repro.errors import UserError
from repro.files import read_json, write_json

#: What makes a training and sums up its results; all that computes is reached from here by imports.
ROOT = "repro.build"

#: Where following imports ends. Settings and choices: every value of theirs stands in the run's identity. Finding input runs, which the
#: identity names. Messages, and how files are written. The command line, the run folder's keeper and the tracker are not reached at all.
CUT = frozenset({"repro.config", "repro.fields", "repro.registry", "repro.inputs", "repro.errors", "repro.files"})

#: The groups whose choices have files of their own.
GROUPS = ("method", "dataset", "model", "noise")

#: Hashes by the sha256 of a file's bytes, in the user's cache: parsing all files takes a fifth of a second.
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "soft-labels-repro" / "code-digests.json"

#: Raised when the hash or the way imports are followed changes.
_CACHE_SCHEMA = 1

#: Digests that the cache keeps of files that have been edited since.
_CACHE_LARGEST = 1000

_PACKAGE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Code:
    """The code of one run.

    Attributes:
        files: path of each file, relative to the folder of its package -> its hash.
        edited: those that were edited after this process imported them; the hash is that of what was imported.
    """

    files: Mapping[str, str]
    edited: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """One hash of all files."""
        return hashlib.sha256("".join(f"{name}\0{digest}\n" for name, digest in sorted(self.files.items())).encode()).hexdigest()


@dataclass(frozen=True)
class _Source:
    """A file as it was read: its hash, what it imports, as ``module`` or ``module:name``, its stamp, and the sha256 of its bytes."""

    path: Path
    digest: str
    imports: tuple[str, ...]
    stamp: imported.Stamp
    raw: str


_read: dict[str, _Source] = {}

#: Packages that register choices: ours also where they are installed.
_registering: set[str] = set()


def choices_of(fields: Mapping[str, Any]) -> dict[str, str]:
    """Return what a run's identity chooses of each of :data:`GROUPS`."""
    return {group: str(fields[f"{group}.name"]) for group in GROUPS}


def code_of(choices: Mapping[str, str], *, load: bool = False) -> Code:
    """Return the code of a run with ``choices``; with ``load``, the process is about to train it, and all of it is imported now.

    Raises:
        UserError: there is no such choice; a file was edited between its import and this call, so what was imported is not known.
    """
    own = {module for group, name in choices.items() for module in _modules(registry.get(group, name))}
    _registering.update(module.partition(".")[0] for module in own)
    names = _reached({ROOT, *own})
    if load:
        for name in names:
            if name.startswith("repro."):
                importlib.import_module(name)
    sources = {_key(name, source.path): source for name in names if (source := _source(name)) is not None}
    _keep_cache()
    edited = tuple(name for name, source in sorted(sources.items()) if load and _edited(source))
    return Code({name: source.digest for name, source in sorted(sources.items())}, edited)


def remember() -> None:
    """Read the files of everything imported so far, so that a process forked later knows what it has, whatever is edited meanwhile.

    Raises:
        UserError: as :func:`code_of`.
    """
    for name in _imported_modules():
        _source(name)
    _keep_cache()


def imported_files() -> dict[Path, Callable[[], str]]:
    """Return every file of ours that this process has imported, with how to get the sha256 of its bytes at that moment."""
    names = [(name, path) for name in _imported_modules() if (path := _file(name)) is not None]
    return {path: functools.partial(_raw, name) for name, path in names}


def _raw(name: str) -> str:
    source = _source(name)
    assert source is not None, "a module without a file"
    return source.raw


def _imported_modules() -> set[str]:
    """Return the modules of the suite that are imported, those that register choices, and what these import."""
    own = {module for group in GROUPS for choice in registry.choices(group).values() for module in _modules(choice)}
    return {name for name in tuple(sys.modules) if name.startswith("repro.")}.union(_reached(own))


# -- which files ---------------------------------------------------------------------------------------------------------------


def _modules(choice: registry.Choice) -> Iterator[str]:
    """Yield the modules in which a choice is defined."""
    for part in (choice.build, choice.config, choice.transition):
        if part is not None:
            yield part.__module__


def _reached(roots: set[str]) -> list[str]:
    """Return the modules ``roots`` and all that they import, directly or through others, as far as they are ours."""
    found: set[str] = set()
    waiting = sorted(roots)
    while waiting:
        name = waiting.pop()
        source = None if name in found or name in CUT else _source(name)
        if source is not None:
            found.add(name)
            waiting.extend(_imported(name, source))
    return sorted(found)


def _imported(name: str, source: _Source) -> tuple[str, ...]:
    """Return the modules of ours that a module imports."""
    key = (name, source.raw)
    if key not in _resolved:
        package = name if source.path.name == "__init__.py" else name.rpartition(".")[0]
        found = (_meant(*entry.partition(":")[::2], package) for entry in source.imports)
        _resolved[key] = tuple(dict.fromkeys(module for module in found if _file(module) is not None))
    return _resolved[key]


_resolved: dict[tuple[str, str], tuple[str, ...]] = {}


def _meant(module: str, attribute: str, package: str) -> str:
    """Return the module that ``from module import attribute`` needs, or ``import module`` without an attribute."""
    if module.startswith("."):
        module = importlib.util.resolve_name(module, package)
    # `from package import module` needs the module; what the package's own file holds beside it is not used by that.
    inner = f"{module}.{attribute}"
    return inner if attribute and _file(inner) is not None else module


@functools.cache
def _foreign() -> tuple[str, ...]:
    """Return the folders of the standard library and of installed packages."""
    folders = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return tuple(os.path.realpath(folder) + os.sep for folder in folders if folder)


@functools.cache
def _repro_file(name: str) -> Path | None:
    base = _PACKAGE.joinpath(*name.split(".")[1:])
    return next((path for path in (base / "__init__.py", base.with_suffix(".py")) if path.is_file()), None)


def _file(name: str) -> Path | None:
    """Return the file of a module of ours, ``None`` for others and for what is no module."""
    top = name.partition(".")[0]
    if top == "repro":
        return _repro_file(name)
    if top not in ("__main__", *_registering) and not _is_ours(top):
        return None
    file = getattr(sys.modules.get(name), "__file__", None)
    if name not in sys.modules:
        # Not imported yet, such as what a function imports when it is called. Nothing is imported but the packages it lies in.
        with contextlib.suppress(ImportError, ValueError):
            file = getattr(importlib.util.find_spec(name), "origin", None)
    return Path(file).resolve() if file is not None and file.endswith(".py") else None


@functools.cache
def _is_ours(package: str) -> bool:
    """Say whether a package that has no dot in its name lies outside of the standard library and of what is installed."""
    if package in sys.builtin_module_names or package in sys.stdlib_module_names:
        return False
    where = getattr(sys.modules.get(package), "__file__", None)
    if where is None:
        with contextlib.suppress(ImportError, ValueError):
            spec = importlib.util.find_spec(package)
            where = None if spec is None else spec.origin or next(iter(spec.submodule_search_locations or ()), None)
    return where is not None and not os.path.realpath(where).startswith(_foreign())


def _key(name: str, path: Path) -> str:
    """Return the path of a module's file, relative to the folder of its package."""
    if name == "__main__":
        return path.name
    return name.replace(".", "/") + ("/__init__.py" if path.name == "__init__.py" else ".py")


# -- what a file is ------------------------------------------------------------------------------------------------------------


def _source(name: str) -> _Source | None:
    """Return the file of a module as this process imported it or, where it has not, as it is; ``None`` where it is none of ours."""
    noted, known = imported.stamps.get(name), _read.get(name)
    if known is not None and noted in (None, known.stamp):
        return known
    path = _file(name)
    if path is None:
        return None
    try:
        before = imported.stamp(path)
        content = path.read_bytes()
        after = imported.stamp(path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}), so which code this is is not known. Start the command again."
        ) from error
    if not (before == after == (noted or before)):
        raise UserError(f"{path} was written while this process began, so which code it imported is not known. Start the command again.")
    raw = hashlib.sha256(content).hexdigest()
    digest, imports = _parsed(raw, content, path)
    _read[name] = _Source(path, digest, imports, after, raw)
    return _read[name]


def _edited(source: _Source) -> bool:
    """Say whether a file holds something else now than when it was imported."""
    try:
        return imported.stamp(source.path) != source.stamp and hashlib.sha256(source.path.read_bytes()).hexdigest() != source.raw
    except OSError:
        return True


def _parsed(raw: str, content: bytes, path: Path) -> tuple[str, tuple[str, ...]]:
    """Return the hash of a file and what it imports."""
    cache = _cache()
    if raw not in cache:
        try:
            tree = ast.parse(content)
        except (SyntaxError, ValueError) as error:
            raise UserError(f"{path}:{getattr(error, 'lineno', None) or 1}: this is no Python ({error}).") from error
        cache[raw] = [digest_of(tree), list(dict.fromkeys(_import_names(tree)))]
    digest, imports = cache[raw]
    return digest, tuple(imports)


def digest_of(tree: ast.Module) -> str:
    """Return the hash of a syntax tree without its docstrings. It is the same in every version of Python that reads the file alike."""
    parts: list[str] = []
    _write(tree, parts)
    return hashlib.sha256("".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def _write(node: Any, parts: list[str]) -> None:
    """Append a text that only an equal tree has. Not :func:`ast.dump`, whose text differs between versions of Python."""
    if isinstance(node, ast.Constant):
        parts.append(f"({type(node.value).__name__} {node.value!r})")
    elif isinstance(node, ast.AST):
        parts.append(f"({type(node).__name__}")
        for field in node._fields:
            value = getattr(node, field, None)
            if field == "body" and isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                value = node.body[1:] if _is_docstring(node.body) else node.body
            # What later versions add to a tree is empty where it is not used.
            if value is not None and value != [] and field != "type_comment":
                parts.append(f" {field}=")
                _write(value, parts)
        parts.append(")")
    elif isinstance(node, list):
        parts.append("[")
        for item in node:
            _write(item, parts)
        parts.append("]")
    else:
        parts.append(repr(node))


def _is_docstring(body: list[ast.stmt]) -> bool:
    first = next(iter(body), None)
    return isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)


def _import_names(tree: ast.AST) -> Iterator[str]:
    """Yield what a tree imports anywhere in it, but for types only."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from (f"{module}:{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and _for_types(node.test):
            for item in node.orelse:
                yield from _import_names(ast.Module([item], []))
        else:
            yield from _import_names(node)


def _for_types(test: ast.expr) -> bool:
    return (test.id if isinstance(test, ast.Name) else getattr(test, "attr", None)) == "TYPE_CHECKING"


# -- the cache -----------------------------------------------------------------------------------------------------------------


@functools.cache
def _cache() -> dict[str, Any]:
    """Return the digests of earlier processes; empty where there are none or they cannot be read, since they can be made again."""
    try:
        stored = read_json(_CACHE)
        found: dict[str, Any] = stored["files"] if stored["schema"] == _CACHE_SCHEMA else {}
    except (OSError, ValueError, KeyError, TypeError):
        found = {}
    _cached.update(found)
    return found


#: The sha256 of the files whose hashes stand in the cache.
_cached: set[str] = set()


def _keep_cache() -> None:
    """Write the hashes that are new, where that is possible."""
    cache = _cache()
    if cache.keys() <= _cached:
        return
    kept: Iterable[str] = cache if len(cache) <= _CACHE_LARGEST else {source.raw for source in _read.values()}
    with contextlib.suppress(OSError):
        _CACHE.parent.mkdir(parents=True, exist_ok=True)
        write_json(_CACHE, {"schema": _CACHE_SCHEMA, "files": {raw: cache[raw] for raw in kept}})
    _cached.update(cache)
