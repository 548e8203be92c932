"""Which version of the code made a result: one hash over the folders that make numbers, and what to do where it is another one.

Comments, docstrings and layout do not count, nor does where packages lie. Files outside of the suite that register a method, a dataset, a
model or a noise count too; installed packages do not: their versions stand in provenance.json.
"""

from __future__ import annotations

import ast
import logging
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

from repro.config import registry
from repro.errors import UserError
from repro.files import try_read
from repro.runs import checkpoint
from repro.runs.lock import HeldError, acquire
from repro.runs.manifest import sha256
from repro.runs.state import TrainedElsewhereError, read_state

logger = logging.getLogger(__name__)

#: What of the package ``repro`` makes numbers.
PARTS = ("data", "engine", "labels", "methods", "models", "training", "randomness.py")

#: Beside the run folders: where results of a different version of the code are kept. Nothing reads what lies there.
ARCHIVE = "archive"

_ROOT = Path(__file__).resolve().parents[1]

#: Tells a hash of this kind from those of runs before it, which say nothing here.
_KIND = "sha256:"


def code_hash() -> str:
    """Return the hash of the code that makes numbers in this process, with the files of all choices that were registered from outside.

    Raises:
        UserError: a file is not valid Python.
    """
    modules = {choice.build.__module__ for group in registry.GROUPS for choice in registry.registered(group)}
    files = {Path(file).resolve() for name in modules if (file := getattr(sys.modules.get(name), "__file__", None))}
    return _hash(frozenset(file for file in files if not file.is_relative_to(_ROOT)))


def differs(folder: Path) -> bool:
    """Say whether what a run folder holds was made by a different version of the code; where that is not known it was not.

    A folder without results and checkpoints holds nothing that could be used.
    """
    if read_state(folder) not in ("done", "corrupted") and not any((folder / name).exists() for name in checkpoint.NAMES):
        return False
    stored = try_read(folder / "provenance.json", "code")
    return isinstance(stored, str) and stored.startswith(_KIND) and stored != code_hash()


def settle(folder: Path, on_changed_code: str) -> None:
    """Do what ``exec.on_changed_code`` says, where ``folder`` holds what a different version of the code has made.

    Raises:
        UserError: it says ``refuse``; or another process is training the run.
    """
    if not differs(folder):
        return
    message = f"{folder} was made by a different version of the code"
    if on_changed_code == "refuse":
        raise UserError(
            f"{message} (commit {try_read(folder / 'provenance.json', 'git', 'sha')}). exec.on_changed_code=retrain trains it again and "
            f"keeps the old folder in {folder.parent / ARCHIVE}; exec.on_changed_code=accept takes it as it is."
        )
    if on_changed_code == "retrain":
        message += f"; it is kept as {_archive(folder)}"
    logger.info("%s.", message)


def _archive(folder: Path) -> Path:
    """Move a run folder to ``archive/RUN_ID.N`` beside it, and return where it is now."""
    try:
        with acquire(folder / ".lock"):
            if read_state(folder) == "running":
                raise TrainedElsewhereError(folder)
            number = 1
            while (target := folder.parent / ARCHIVE / f"{folder.name}.{number}").exists():
                number += 1
            target.parent.mkdir(exist_ok=True)
            os.rename(folder, target)
    except HeldError as error:
        raise TrainedElsewhereError(folder) from error
    return target


@cache
def _hash(outside: frozenset[Path]) -> str:
    inside = [file for file in _ROOT.rglob("*.py") if file.relative_to(_ROOT).parts[0] in PARTS]
    named = [(file.relative_to(_ROOT).as_posix(), file) for file in inside] + [(file.name, file) for file in outside]
    texts = (f"{name} {_text(_parsed(file))}" for name, file in sorted(named))
    return _KIND + sha256("\n".join(texts).encode("utf-8", "surrogatepass"))


_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def _parsed(file: Path) -> ast.Module:
    """Return the syntax tree of a file without its docstrings."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{file}:{getattr(error, 'lineno', None) or 1}: this is not valid Python ({error}).") from error
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
    return tree


def _text(node: Any) -> str:
    """Return a text that only an equal tree has. Not :func:`ast.dump`, whose text differs between versions of Python."""
    if isinstance(node, ast.AST):
        values = ((name, getattr(node, name, None)) for name in node._fields)
        # What later versions add to a tree is empty where it is not used.
        texts = [f"{name}={_text(value)}" for name, value in values if value is not None and value != []]
        return f"({type(node).__name__} {' '.join(texts)})"
    if isinstance(node, list):
        return f"[{' '.join(_text(item) for item in node)}]"
    return f"{type(node).__name__} {node!r}"
