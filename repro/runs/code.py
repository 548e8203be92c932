"""Which code a run's numbers come from: the files that compute them, found by what they import, and a hash of each.

The files are those that :data:`ROOT` imports, directly or through others, and those of the run's own method, dataset, model and noise
with what these import; the files of other methods are not among them. So are files of the user's that register a choice, and what
these import, but not the standard library and installed packages, whose versions stand in provenance.json. A file's hash is that of its
syntax tree without docstrings, as this process imported it: comments, blank lines and line breaks do not change it.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from repro import imported
from repro.config import registry
from repro.errors import UserError

#: What makes a training and sums up its results; all that computes is reached from here by imports.
ROOT = "repro.training.build"

#: Where following imports ends. Settings and choices: every value of theirs stands in the run's identity. Finding input runs, which the
#: identity names. Messages, and how files are written. The command line, the run folder's keeper and the tracker are not reached at all.
CUT = frozenset({"repro.config.schema", "repro.config.fields", "repro.config.registry", "repro.runs.inputs", "repro.errors", "repro.files"})


@dataclass(frozen=True)
class Code:
    """The code of one run.

    Attributes:
        files: path of each file, relative to the folder of its package -> its hash.
        edited: those that were edited after this process imported them; the hash is that of what was imported.
        inputs: run id of each input -> the hash of all files in its ``code.json``, ``None`` where it does not say.
    """

    files: Mapping[str, str]
    edited: tuple[str, ...] = ()
    inputs: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """One hash of all files."""
        return hashlib.sha256("".join(f"{name}\0{digest}\n" for name, digest in sorted(self.files.items())).encode()).hexdigest()

    def document(self) -> dict[str, Any]:
        """Return what ``code.json`` holds."""
        return {"sha256": self.sha256, "files": dict(self.files), **({"inputs": dict(self.inputs)} if self.inputs else {})}


def code_of(choices: Mapping[str, str], *, load: bool = False) -> Code:
    """Return the code of a run with ``choices`` of :data:`repro.config.registry.GROUPS`, such as ``{"method": "one_hot", ...}``.

    With ``load``, the process is about to train it, and all of it is imported now.

    Raises:
        UserError: there is no such choice; a file is no Python.
    """
    made_by = [registry.get(group, name) for group, name in choices.items()]
    own = {part.__module__ for choice in made_by for part in (choice.build, choice.config, choice.transition) if part is not None}
    found: list[str] = []
    waiting = [ROOT, *own]
    while waiting:
        name = waiting.pop()
        if name not in found and name not in CUT and (source := _source(name, always=name in own)):
            found.append(name)
            waiting.extend(_parsed(name, *source)[1])
    files, edited = {}, []
    for name in sorted(found):
        if load and name.startswith("repro."):
            importlib.import_module(name)
        path, content = imported.sources[name]
        key = _key(name, path)
        files[key] = _parsed(name, path, content)[0]
        if load and _edited(path, content):
            edited.append(key)
    return Code(files, tuple(edited))


def _source(name: str, *, always: bool = False) -> tuple[Path, bytes] | None:
    """Return the file of a module and what it held when this process imported it or, where it has not, holds now.

    ``None`` where the module is not ours, unless ``always``, or has no file.
    """
    if name not in imported.sources:
        path = _file(name)
        if path is None or not (always or imported.is_ours(name, path)):
            return None
        imported.sources[name] = path, path.read_bytes()
    return imported.sources[name]


def _file(name: str) -> Path | None:
    """Return the file of a module in Python, without importing anything."""
    if name in sys.modules:
        file = getattr(sys.modules[name], "__file__", None)
        return Path(file).resolve() if file and file.endswith(".py") else None
    top, _, rest = name.partition(".")
    if not rest:
        spec = None if top in sys.builtin_module_names else PathFinder.find_spec(top)
        return Path(spec.origin).resolve() if spec and spec.origin and spec.origin.endswith(".py") else None
    package = _file(top)
    if package is None or package.name != "__init__.py":
        return None
    base = package.parent.joinpath(*rest.split("."))
    return next((path for path in (base / "__init__.py", base.with_suffix(".py")) if path.is_file()), None)


def _key(name: str, path: Path) -> str:
    if name == "__main__":
        return path.name
    return name.replace(".", "/") + ("/__init__.py" if path.name == "__init__.py" else ".py")


def _edited(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() != content
    except OSError:
        return True


@functools.cache
def _parsed(name: str, path: Path, content: bytes) -> tuple[str, tuple[str, ...]]:
    """Return the hash of a module's file and the modules that it imports anywhere, but for types only."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{path}:{getattr(error, 'lineno', None) or 1}: this is no Python ({error}).") from error
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: list[str] = []
    for node in _nodes(tree):
        if isinstance(node, ast.Import):
            found.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            # `from package import module` needs the module; what the package's own file holds beside it is not used by that.
            inner = [f"{module}.{alias.name}" for alias in node.names]
            found.extend(deeper if _file(deeper) else module for deeper in inner)
    return digest_of(tree), tuple(dict.fromkeys(found))


def _nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield every node below a tree, but for what stands under ``if TYPE_CHECKING``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in (getattr(node.test, "id", None), getattr(node.test, "attr", None)):
            node = ast.Module(node.orelse, [])
        yield node
        yield from _nodes(node)


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
        for name in node._fields:
            value = getattr(node, name, None)
            if name == "body" and isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                value = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
            # What later versions add to a tree is empty where it is not used.
            if value is not None and value != [] and name != "type_comment":
                parts.append(f" {name}=")
                _write(value, parts)
        parts.append(")")
    elif isinstance(node, list):
        parts.append("[")
        for item in node:
            _write(item, parts)
        parts.append("]")
    else:
        parts.append(repr(node))


def differs(folder: Path) -> bool:
    """Say whether the run in ``folder`` was made by a different version of the code."""
    from repro.files import read_json
    from repro.runs.recorded import differences, has_results, run_code

    if not has_results(folder):
        return False
    fields = read_json(folder / "identity.json")["fields"]
    inputs = [*fields.get("inputs.labels", []), *filter(None, [fields.get("inputs.teacher")])]
    return bool(differences(folder, run_code(fields, folder.parent, inputs=inputs)))
