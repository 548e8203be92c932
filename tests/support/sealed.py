"""The manifest of a run folder that a test made or changed, as if the run had written its files."""

from pathlib import Path

from repro.runs.manifest import FILE, sha256, write_manifest

#: What no manifest lists.
_OTHERS = (FILE, "status.json", "sync.json", "checkpoint.pt", "checkpoint.previous.pt")


def seal(folder: Path) -> None:
    """Write the manifest of ``folder`` from its files as they are."""
    paths = [path for path in (*folder.glob("[!.]*"), *folder.glob("labels/[!.]*")) if path.is_file() and path.name not in _OTHERS]
    write_manifest(folder, {path.relative_to(folder).as_posix(): sha256(path.read_bytes()) for path in paths})
