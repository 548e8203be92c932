"""Which label trajectories and models of finished runs nothing reads any more, and removing them.

What is needed is decided from every plan in the runs folder, not from the named specs alone. It is: what a planned run reads that is not
done, or any other run in the folder that is not; the labels that a figure draws; and those that the report shows of a cell, of its first
finished run or the first input that has some. Tables, curves, claims and evidence need none of these files.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from repro.errors import UserError
from repro.files import read_json
from repro.runs.checkpoint import NAMES as CHECKPOINTS
from repro.runs.manifest import DamagedError, open_manifest
from repro.runs.pruned import KINDS, large_files, prune
from repro.runs.state import read_state
from sweeps.local.tuning import plan_level, tunings_of
from sweeps.local.verify import run_folders
from sweeps.plan.disk import size_text
from sweeps.plan.plan import Plan, make_plan
from sweeps.spec.data import SpecError
from sweeps.spec.expansion import walk
from sweeps.spec.load import PAPER, Spec, known_specs, load_spec
from sweeps.spec.scale import load_scale


@dataclass
class Found:
    """What can be removed (run id -> file -> bytes), and what stays (why -> bytes of files of the named specs)."""

    files: dict[str, dict[str, int]] = field(default_factory=dict)
    kept: Counter[str] = field(default_factory=Counter)


def find(specs: Sequence[Spec], runs: Path, keep: Collection[str] = ()) -> Found:
    """Return which files of the finished runs of ``specs`` nothing reads any more, but for the kinds to ``keep`` (:data:`KINDS`).

    Raises:
        UserError: what will read which run is not known: a spec of a plan in ``runs`` cannot be read, or has runs that read others and
            are not tuned yet; or a run has just begun.
    """
    plans = list(_plans(specs, runs))
    readers = (variant for plan in plans for cell in plan.cells for variant in cell.composed if variant.inputs)
    if use := next((use for reader in readers for run in walk(reader) for use in run.uses if not use.chosen), None):
        raise UserError(f"not tuned yet, so what will be read is not known: {use}. Tune it (`python -m sweeps tune SPEC`) first.")
    needed = _needed(plans, runs) | _drawn(plans, runs)
    mine = {spec.name for spec in specs}
    candidates = {name: None for plan in plans if plan.scale == specs[0].scale for name, run in plan.runs.items() if mine & {*run.specs}}
    for level in tunings_of(specs):
        # The points of a grid that were not chosen are of no cell.
        candidates |= dict.fromkeys(plan_level(level, runs)[0].runs)
    found = Found()
    for name in candidates:
        if read_state(runs / name) != "done":
            continue
        sizes = large_files(open_manifest(runs / name))
        sizes |= {file: path.stat().st_size for file in CHECKPOINTS if (path := runs / name / file).exists()}
        for file, size in sizes.items():
            kind = next(kind for kind, start in KINDS.items() if file.startswith(start))
            why = "they were to be kept" if kind in keep else needed.get((name, kind))
            if why is None:
                found.files.setdefault(name, {})[file] = size
            else:
                found.kept[f"{kind}: {why}"] += size
    return found


def remove_found(found: Found, runs: Path, say: Callable[[str], None]) -> int:
    """Remove what was ``found`` and return the bytes that this freed; ``say`` is told of the runs that are left alone."""
    freed = 0
    for name, files in found.files.items():
        try:
            freed += prune(runs / name, files)
        except UserError as error:
            say(f"left alone: {error}")
    return freed


def print_found(found: Found) -> None:
    """Print how much could go and what stays, by kind."""
    for kind, start in KINDS.items():
        sizes = [size for files in found.files.values() for file, size in files.items() if file.startswith(start)]
        print(f"{kind} that nothing reads any more: {size_text(sum(sizes))} in {len(sizes)} files")
    for why, size in found.kept.items():
        print(f"{size_text(size)} of {why.partition(': ')[0]} stay: {why.partition(': ')[2]}")


def _plans(specs: Sequence[Spec], runs: Path) -> Iterator[Plan]:
    """Yield the plans of ``specs`` and of all that have a plan in ``runs``, scale by scale."""
    by_scale: dict[str, dict[str, Spec]] = {specs[0].scale.title: {spec.name: spec for spec in specs}}
    for path in sorted((runs / "plans").glob("**/*.json")):
        title = PAPER.title if path.parent == runs / "plans" else path.parent.name
        try:
            named = read_json(path).get("spec_file", path.stem)
            scale = specs[0].scale if title == specs[0].scale.title else load_scale(title)
            by_scale.setdefault(title, {}).setdefault(path.stem, load_spec(str(named), scale))
        except (UserError, OSError, ValueError, AttributeError) as error:
            raise UserError(
                f"{path}: which runs this plan needs cannot be told ({error}). Plan its spec again, or delete the file."
            ) from error
    for known in by_scale.values():
        yield make_plan(list(known.values()), runs)


def _needed(plans: Sequence[Plan], runs: Path) -> dict[tuple[str, str], str]:
    """Return why a run's labels or model are needed, by its id and the kind."""
    found: dict[tuple[str, str], str] = {}

    def read_by(fields: dict[str, object], why: str) -> None:
        labels, teacher = fields.get("inputs.labels") or (), fields.get("inputs.teacher")
        assert isinstance(labels, list | tuple)
        for name, kind in [*((str(name), "labels") for name in labels), *([(str(teacher), "models")] if teacher else [])]:
            found.setdefault((name, kind), why)

    planned = {name: run for plan in plans for name, run in plan.runs.items()}
    spared = frozenset[str]().union(*(plan.spared for plan in plans))
    for plan in plans:
        for name, run in plan.runs.items():
            if run.state != "done" and name not in plan.spared:
                read_by(run.fields, "runs that are not done read them")
    for folder in run_folders(runs) if runs.is_dir() else ():
        if folder.name not in planned.keys() - spared and (state := read_state(folder)) != "done":
            try:
                read_by(read_json(folder / "identity.json")["fields"], "runs that are not done read them")
            except (OSError, ValueError, KeyError, TypeError) as error:
                if state == "running":
                    raise UserError(f"{folder}: this run has just begun and does not say yet what it reads. Try again.") from error
    for plan in plans:
        for cell in plan.cells:
            first = [name for name in cell.run_ids if read_state(runs / name) == "done"][:1]
            shown = [*first, *(name for done in first for name in plan.runs[done].fields.get("inputs.labels") or ())]
            if recorded := next((name for name in shown if _has_labels(runs / name)), None):
                found.setdefault((recorded, "labels"), "the report shows them")
    return found


def _drawn(plans: Sequence[Plan], runs: Path) -> dict[tuple[str, str], str]:
    """Return the runs whose labels a figure of ``plans`` or of the suite draws, planned in ``runs`` or not."""
    found: dict[tuple[str, str], str] = {}
    for plan in plans:
        figures = {spec.name: spec for spec in plan.specs if spec.draws_labels}
        for name in known_specs():
            # Some specs do not exist at every scale.
            with contextlib.suppress(SpecError):
                if (spec := load_spec(name, plan.scale)).draws_labels:
                    figures.setdefault(name, spec)
        cells = make_plan(list(figures.values()), runs).cells
        found |= {(name, "labels"): "figures draw them" for cell in cells for name in cell.run_ids}
    return found


def _has_labels(folder: Path) -> bool:
    try:
        return "labels/layout.json" in open_manifest(folder).files
    except DamagedError:
        return False
