"""A copy of the code beside the runs: a job that waited for days runs what it was submitted with, whatever was edited meanwhile.

A copy is named by the sha256 of its files' names, modes and contents, so the same code is copied once; it is made under another name
and renamed, so a job never sees half of one.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

from repro.errors import UserError
from repro.files import write_json

#: What a job imports.
PACKAGES = ("repro", "sweeps", "slurm")

_ROOT = Path(__file__).resolve().parents[1]


def take_snapshot(runs: Path) -> Path:
    """Copy the files of :data:`PACKAGES` that git tracks or would track, as they are now, to ``runs/code/SHA256``, and return that folder.

    Raises:
        UserError: the folder cannot be written, or an existing copy has been changed.
    """
    from repro.provenance import SNAPSHOT_FILE, git_state

    files = _files()
    digest = _digest(_ROOT, files)
    folder = runs.resolve() / "code" / digest[:16]
    if folder.is_dir():
        if _digest(folder, _copied(folder)) != digest:
            raise UserError(f"{folder}: the files of this copy of the code were changed. Delete the folder if no job uses it.")
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".staged-"))
        try:
            for name in files:
                (staged / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(_ROOT / name, staged / name)
            write_json(staged / SNAPSHOT_FILE, {"git": git_state(), "sha256": digest, "files": len(files)})
            # mkdtemp makes folders that only their owner can enter.
            staged.chmod(0o777 & ~_umask())
            _rename(staged, folder)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    except OSError as error:
        raise UserError(f"{folder}: the code cannot be copied there: {error.strerror}. Set paths.runs elsewhere, or make room.") from error
    if _digest(folder, _copied(folder)) != digest:
        shutil.rmtree(folder)
        raise UserError("the code was edited while it was copied for the jobs. Submit again.")
    return folder


def _rename(staged: Path, folder: Path) -> None:
    try:
        os.rename(staged, folder)
    except OSError:
        # Another submission has made the same copy a moment ago.
        if not folder.is_dir():
            raise


def _files() -> list[str]:
    """Return the names of the files to copy, relative to the checkout, sorted."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *PACKAGES]
    try:
        result = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=60, check=False)
        names = result.stdout.split("\0") if result.returncode == 0 else []
    except (OSError, subprocess.TimeoutExpired):
        names = []
    found = {name for name in names if name and (_ROOT / name).is_file()}
    # Without git, or installed: all there is.
    return sorted(found) if "slurm/snapshot.py" in found else _copied(_ROOT)


def _copied(root: Path) -> list[str]:
    paths = (path for package in PACKAGES for path in (root / package).rglob("*"))
    return sorted(path.relative_to(root).as_posix() for path in paths if path.is_file() and "__pycache__" not in path.parts)


def _digest(root: Path, names: list[str]) -> str:
    total = hashlib.sha256()
    for name in names:
        executable = bool((root / name).stat().st_mode & stat.S_IXUSR)
        total.update(f"{name}\0{executable:d}\0{hashlib.sha256((root / name).read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
