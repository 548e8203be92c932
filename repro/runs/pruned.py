"""Large files of finished runs that were removed because nothing read them any more: removing them, and saying so to whoever wants one.

The manifest then has them under ``pruned``, as they were and since when, and no longer under ``files``: what it lists is there.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from repro.errors import UserError
from repro.files import read_json, write_text
from repro.runs.lock import HeldError, hold
from repro.runs.manifest import FILE, Manifest, _signed, open_manifest
from repro.runs.state import TrainedElsewhereError, now, read_state

#: Files of a trajectory that stay: they are small, and say what it was.
SMALL = ("labels/layout.json", "labels/indices.i64")

#: What can be pruned: by its name for users, how the names of its files begin.
KINDS = {"labels": "labels/", "models": "model.safetensors", "checkpoints": "checkpoint"}


def large_files(manifest: Manifest) -> dict[str, int]:
    """Return the files of a finished run that can be pruned, with their bytes."""
    return {name: entry.size for name, entry in manifest.files.items() if name.startswith(tuple(KINDS.values())) and name not in SMALL}


def pruned_files(folder: Path) -> dict[str, str]:
    """Return the files that were pruned from the run in ``folder``, and when; none where its manifest cannot be read."""
    try:
        return {name: str(item["pruned"]) for name, item in read_json(folder / FILE).get("pruned", {}).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def check_not_pruned(folder: Path, kind: str) -> None:
    """Check that the run in ``folder`` still has its files of a ``kind`` of :data:`KINDS`, as far as it ever had them.

    Raises:
        UserError: a file was pruned; the message says how to get it again.
    """
    for name, since in pruned_files(folder).items():
        if name.startswith(KINDS[kind]):
            raise UserError(
                f"run {folder.name}: {folder / name} was pruned ({since}), since nothing that was planned read it. Put the folder away "
                f"(mv {folder} {folder.parent / 'aside'}/), and the command that trained the run trains it again, such as "
                "`python -m sweeps run SPEC`; on the same machine it ends in the same bytes."
            )


def prune(folder: Path, names: Collection[str]) -> int:
    """Remove the files ``names`` of the finished run in ``folder``, and return the bytes that this freed; 0 if the run is not done.

    The manifest says it first: a kill leaves files that are pruned by name, and the next call removes them.

    Raises:
        UserError: a process holds the run; it is damaged; the folder cannot be written.
    """
    try:
        with hold(folder / ".lock"):
            if read_state(folder) != "done":
                return 0
            manifest = open_manifest(folder)
            document = read_json(folder / FILE)
            stored = {name: document["files"][name] | {"pruned": now()} for name in names if name in manifest.files}
            gone = document.get("pruned", {}) | stored
            if stored:
                for name in stored:
                    del manifest.files[name]
                # As the manifest writes itself, and behind it what it does not read.
                body = manifest._text().rpartition(',\n "sha256": ')[0]
                write_text(folder / FILE, _signed(f'{body},\n "pruned": {json.dumps(gone, sort_keys=True)}'))
            freed = 0
            for path in (folder / name for name in gone.keys() | set(names)):
                if path.exists():
                    freed += path.stat().st_size
                    path.unlink()
            return freed
    except HeldError as error:
        raise TrainedElsewhereError(folder) from error
    except OSError as error:
        raise UserError(f"{error.filename or folder} cannot be removed: {error.strerror or error}. Make the folder writable.") from error
