"""A copy of the code beside the runs: a job that waited for days runs what it was submitted with, whatever was edited meanwhile.

A copy is named by the sha256 of its files' names, modes and contents, so the same code is copied once; it is made under another name
and renamed, so a job never sees half of one.
"""

from __future__ import annotations

import hashlib
import shutil
import stat
import uuid
from pathlib import Path

from repro.errors import UserError
from repro.files import write_json

#: What a job imports.
PACKAGES = ("repro", "sweeps", "slurm")

_ROOT = Path(__file__).resolve().parents[1]


def take_snapshot(runs: Path) -> Path:
    """Copy the files of :data:`PACKAGES`, as they are now, to ``runs/code/SHA256``, and return that folder.

    Raises:
        UserError: the folder cannot be written, an existing copy has been changed, or the code was edited meanwhile.
    """
    from repro.runs.provenance import SNAPSHOT_FILE, git_state

    files = _files(_ROOT)
    digest = _digest(_ROOT, files)
    folder = runs.resolve() / "code" / digest[:16]
    if folder.is_dir():
        if _digest(folder, _files(folder)) != digest:
            raise UserError(f"{folder}: the files of this copy of the code were changed. Delete the folder if no job uses it.")
        return folder
    staged = folder.with_name(f".staged-{uuid.uuid4().hex}")
    try:
        for name in files:
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(_ROOT / name, staged / name)
        if _digest(staged, files) != digest:
            raise UserError("the code was edited while it was copied for the jobs. Submit again.")
        write_json(staged / SNAPSHOT_FILE, {"git": git_state(_ROOT / name for name in files), "sha256": digest, "files": len(files)})
        try:
            staged.rename(folder)
        except OSError:
            # Another submission has made the same copy a moment ago.
            if not folder.is_dir():
                raise
    except OSError as error:
        raise UserError(f"{folder}: the code cannot be copied there: {error.strerror}. Set paths.runs elsewhere, or make room.") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return folder


def _files(root: Path) -> list[str]:
    """Return the names of the files to copy, relative to ``root``, sorted; hidden and compiled ones and cluster files are left out."""
    paths = (path.relative_to(root) for package in PACKAGES for path in (root / package).rglob("*") if path.is_file())
    names = (path for path in paths if not any(part == "__pycache__" or part.startswith(".") for part in path.parts))
    return sorted(name.as_posix() for name in names if name.parts[:2] != ("slurm", "clusters"))


def _digest(root: Path, names: list[str]) -> str:
    total = hashlib.sha256()
    for name in names:
        executable = bool((root / name).stat().st_mode & stat.S_IXUSR)
        total.update(f"{name}\0{executable:d}\0{hashlib.sha256((root / name).read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()
