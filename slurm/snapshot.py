"""A copy of the code beside the runs: a job that waited for days runs what it was submitted with, whatever was edited meanwhile."""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path

from repro.files import write_json
from repro.runs.provenance import SNAPSHOT_FILE, git_state

_ROOT = Path(__file__).resolve().parents[1]

#: What a job imports.
_PACKAGES = ("repro", "slurm")


def take_snapshot(runs: Path) -> Path:
    """Copy the code as it is now to ``runs/code/SHA256``, unless it is there, and return that folder."""
    paths = [path for package in _PACKAGES for path in sorted((_ROOT / package).rglob("*.*")) if path.suffix in (".py", ".yaml")]
    contents = {path.relative_to(_ROOT).as_posix(): path.read_bytes() for path in paths if path.parent.name != "clusters"}
    digest = hashlib.sha256()
    for name, content in contents.items():
        digest.update(f"{name} {len(content)} ".encode() + content)
    folder = runs.resolve() / "code" / digest.hexdigest()[:16]
    if folder.exists():
        return folder
    # Under another name first: no job ever sees half of a copy.
    staged = folder.with_name(f".{uuid.uuid4().hex}")
    for name, content in contents.items():
        (staged / name).parent.mkdir(parents=True, exist_ok=True)
        (staged / name).write_bytes(content)
    write_json(staged / SNAPSHOT_FILE, {"git": git_state(), "sha256": digest.hexdigest()})
    staged.rename(folder)
    return folder
