"""Whether the files of run folders are what the runs wrote, every byte of them (:mod:`repro.runs.manifest`)."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from repro.errors import UserError
from repro.runs.manifest import FILE, DamagedError, Manifest, open_manifest
from repro.runs.pruned import pruned_files
from repro.runs.state import read_state

#: Beside the runs, in a runs folder.
_OTHERS = frozenset({"collected", "plans", "logs", "pages", "aside"})


@dataclass
class Verdict:
    """What was found in one run folder: a line for each problem; how many files were read and their bytes; how many were pruned."""

    run_id: str
    state: str
    problems: list[str] = field(default_factory=list)
    files: int = 0
    size: int = 0
    pruned: int = 0


def run_folders(runs: Path, names: Collection[str] | None = None) -> list[Path]:
    """Return the run folders in ``runs``, by name; with ``names``, only those.

    Raises:
        UserError: there is no such folder.
    """
    try:
        found = sorted(path for path in runs.iterdir() if path.is_dir() and path.name not in _OTHERS and not path.name.startswith("."))
    except OSError as error:
        where = "Set --runs or $REPRO_RUNS to the folder of run folders."
        raise UserError(f"{runs} cannot be read: {error.strerror or error}. {where}") from error
    found = [path for path in found if names is None or path.name in names]
    return [path for path in found if any((path / name).exists() for name in ("status.json", "identity.json", FILE))]


def verify(folder: Path) -> Verdict:
    """Read every file of the run in ``folder`` and compare it with the manifest."""
    verdict = Verdict(folder.name, read_state(folder))
    if verdict.state not in ("done", "damaged"):
        if (folder / FILE).exists():
            verdict.problems = _unfinished(folder, verdict)
        return verdict
    try:
        manifest = open_manifest(folder)
        verdict.files, verdict.size = len(manifest.files), sum(entry.size for entry in manifest.files.values())
        verdict.pruned = len(pruned_files(folder))
        verdict.problems = manifest.misfits() or _foreign(manifest)
    except DamagedError as error:
        verdict.problems = [str(error)]
    return verdict


def _unfinished(folder: Path, verdict: Verdict) -> list[str]:
    try:
        manifest = open_manifest(folder)
    except DamagedError as error:
        return [str(error)]
    problems = []
    for name, known_as in (("checkpoint.pt", "checkpoint.pt"), ("checkpoint.previous.pt", "checkpoint.pt"), ("cost.json", "cost.json")):
        path = folder / name
        if path.exists():
            try:
                content = path.read_bytes()
            except OSError as error:
                problems.append(f"{name}: {error.strerror or error}")
                continue
            verdict.files, verdict.size = verdict.files + 1, verdict.size + len(content)
            if not manifest.expects(known_as, content):
                problems.append(f"{name}: it is not what the run wrote")
    return problems


def _foreign(manifest: Manifest) -> list[str]:
    identity, provenance = manifest.read_json("identity.json"), manifest.read_json("provenance.json")
    if identity["run_id"] != manifest.run_id:
        return [f"identity.json: it is that of {identity['run_id']}"]
    problems = []
    for name, sha256 in provenance.get("inputs", {}).items():
        try:
            now = hashlib.sha256((manifest.folder.parent / name / "final.json").read_bytes()).hexdigest()
        except FileNotFoundError:
            continue  # an input that was moved away tells nothing
        if now != sha256:
            problems.append(f"its input {name} has other results now than those that it was trained with")
    return problems


def print_verdicts(verdicts: Iterable[Verdict]) -> int:
    """Print what is wrong as it is found, then a summary; return the exit code: 0 when everything is as it was written, else 1."""
    counts: Counter[str] = Counter()
    for verdict in verdicts:
        counts.update(checked=1, files=verdict.files, size=verdict.size, pruned=verdict.pruned, damaged=bool(verdict.problems))
        for problem in verdict.problems:
            print(f"{verdict.run_id} ({verdict.state}): {problem}", flush=True)
    print(f"{counts['checked']} runs, {counts['files']} files, {counts['size'] / 2**20:.1f} MiB read: ", end="")
    print(f"{counts['damaged']} runs are damaged" if counts["damaged"] else "every file is what its run wrote")
    if counts["pruned"]:
        print(f"{counts['pruned']} files are not there, since they were pruned; the manifests of their runs name them.")
    if counts["damaged"]:
        print("Put their files back from a copy; or let `python -m sweeps retry SPEC` queue them to be trained again.")
    return 1 if counts["damaged"] else 0
