"""A copy of the code beside the runs: a job that waited for days runs what it was submitted with, whatever was edited meanwhile."""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path

from repro.errors import UserError
from repro.files import write_json
from repro.runs.provenance import SNAPSHOT_FILE, git_state

_ROOT = Path(__file__).resolve().parents[1]

#: What a job imports.
_PACKAGES = ("repro", "slurm")


def take_snapshot(runs: Path) -> Path:
    """Copy the code as it is now to ``runs/code/SHA256``, unless it is there, and return that folder.

    Raises:
        UserError: the folder cannot be written.
    """
    paths = [path for package in _PACKAGES for path in sorted((_ROOT / package).rglob("*")) if path.is_file()]
    names = [path.relative_to(_ROOT) for path in paths if "__pycache__" not in path.parts and "clusters" not in path.parts]
    contents = {name.as_posix(): (_ROOT / name).read_bytes() for name in names}
    digest = hashlib.sha256()
    for name, content in contents.items():
        digest.update(f"{name} {len(content)} ".encode() + content)
    folder = runs.resolve() / "code" / digest.hexdigest()[:16]
    if folder.exists():
        return folder
    # Under another name first: no job ever sees half of a copy.
    staged = folder.with_name(f".{uuid.uuid4().hex}")
    try:
        for name, content in contents.items():
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            (staged / name).write_bytes(content)
        write_json(staged / SNAPSHOT_FILE, {"git": git_state(), "sha256": digest.hexdigest()})
        staged.rename(folder)
    except OSError as error:
        raise UserError(f"{folder}: the code cannot be copied there: {error.strerror}. Set --runs elsewhere, or make room.") from error
    return folder
