"""Writes evidence from finished runs, and run folders from evidence."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.reading.cells import collect, command_name, open_plan, plan_path
from analysis.reading.evidence import (
    SCHEMA,
    SHARED,
    columns_of,
    common,
    curves_path,
    evidence_files,
    evidence_path,
    read_evidence,
    rows_of,
    same,
    sha256_of,
    signed,
    without,
    write_lines,
)
from analysis.reading.images import TrainingSets
from analysis.reading.runs import RUN_SCHEMA, Row, Run
from repro.errors import UserError
from repro.files import jsonable, write_json, write_text
from repro.runs.manifest import seal
from sweeps.spec.load import FigureSpec, Spec, TableSpec

#: What of status.json says how the run ended; the rest says where it ran.
_STATUS = ("state", "started", "ended", "attempt", "epoch", "epochs", "error")

Columns = dict[str, list[Any]]


@dataclass(frozen=True)
class Kept:
    """The ids of the runs that evidence holds now, what is wrong with those left out, and those dropped, which no cell names any more."""

    runs: tuple[str, ...]
    left_out: Mapping[str, str]
    dropped: tuple[str, ...]


def keep(specs: Sequence[Spec], runs: Path, target: Path) -> Kept:
    """Add the plans of ``specs`` and all their runs in ``runs`` that have ended to the evidence in ``target``.

    ``runs`` holds run folders, or is evidence itself. A run that stands there stays; what this spec needs of its curves is added.

    Raises:
        UserError: there is no plan of a spec in ``runs``; a run is damaged, or stands in ``target`` with other numbers; ``target``
            cannot be written.
    """
    kept: dict[str, None] = {}
    left_out: dict[str, str] = {}
    dropped: dict[str, None] = {}
    there = {path: read_evidence(path).runs for path in evidence_files(target)}
    try:
        for spec in specs:
            path = evidence_path(spec.scale, spec.name, target)
            before = there.get(path, {})
            found = {repeat.run.run_id: repeat.run for cell in collect(spec, runs) for repeat in cell.repeats}
            left_out |= {name: run.problem for name, run in found.items() if run.state == "unreadable"}
            dropped |= dict.fromkeys(before.keys() - found.keys())
            known = {name: [others[name] for others in there.values() if name in others] for name in found}
            chosen = {name: _sources(run, before.get(name), known[name]) for name, run in sorted(found.items())}
            chosen = {name: sources for name, sources in chosen.items() if sources}
            _write(spec, open_plan(spec, runs)[0], chosen, _excerpts(spec, runs), path)
            kept |= dict.fromkeys(chosen)
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror}. Set --out to a folder you can write.") from error
    return Kept(tuple(kept), left_out, tuple(sorted(dropped)))


def _sources(run: Run, before: Run | None, known: Iterable[Run]) -> tuple[Run, ...]:
    """Return where the line of a run comes from: what stands there before what is new; nothing where it has not ended."""
    for other in known:
        if run.done and other.done and (difference := _difference(run, other)):
            raise UserError(
                f"run {run.run_id}: {run.place} and {other.place} have other numbers: {difference}. It was not added. "
                "Find out which are right; move the run folder away, or delete that file and make it again from run folders."
            )
    if run.read_rows is not None:
        for _ in run.rows():
            pass  # a run whose curves are damaged is not taken for its results either
    ended = [item for item in (before, run) if item is not None and item.state in ("done", "failed")]
    # A failure that was tried again is of no interest.
    return tuple([item for item in ended if item.done] or ended[-1:])


def _difference(one: Run, other: Run) -> str | None:
    for name in ("fields", "final"):
        ours, theirs = getattr(one, name), getattr(other, name)
        for key in sorted(ours.keys() | theirs.keys()):
            if key not in ours or key not in theirs or not same(ours[key], theirs[key]):
                return f"{key} is {ours.get(key)} and {theirs.get(key)}"
    if one.read_rows is not None and other.read_rows is not None:
        first, second = columns_of(list(one.rows())), columns_of(list(other.rows()))
        for key in sorted(first.keys() & second.keys()):
            if not same(first[key], second[key]):
                return f"{key} over the epochs"
    return None


def _write(
    spec: Spec, plan: Mapping[str, Any], chosen: Mapping[str, tuple[Run, ...]], excerpts: Mapping[str, dict[str, Row]], path: Path
) -> None:
    panels = spec.panels if isinstance(spec, FigureSpec) else ()
    sets = TrainingSets() if any(panel.type != "curve" or "{k}" in panel.metric for panel in panels) else None
    is_kept = _kept_columns(spec)
    curves: dict[str, str] = {}
    items: list[dict[str, Any]] = []
    for name, sources in chosen.items():
        run = sources[0]
        status = {key: run.status[key] for key in _STATUS if key in run.status}
        item: dict[str, Any] = {"run_id": name, "status": status}
        if run.done:
            provenance = {key: value for key, value in run.provenance.items() if key not in ("host", "hosts")}
            item |= {"fields": run.fields, "final": run.final, "cost": run.cost, "provenance": provenance}
            if is_kept is not None:
                curves[name] = signed({"run_id": name, **_columns(sources, is_kept)})
                item["curves"] = sha256_of(curves[name])
            names = next(filter(None, (sets.class_names(item) for item in sources)), ()) if sets is not None else ()
            if names:
                item["dataset"] = {"class_names": list(names)}
            # What stands there stays, unless the dataset was missing when it was written.
            kept = excerpts.get(name, {})
            known = {panel: labels for panel, labels in kept.items() if labels["true"] is not None}
            if spec.draws_labels and (labels := kept | run.excerpts | known):
                item["excerpts"] = labels
        items.append(item)
    shared = {key: common([item[key] for item in items if key in item]) for key in SHARED}
    head = {
        "schema": SCHEMA,
        "spec": spec.name,
        "scale": spec.scale.title,
        "cells": len(plan["cells"]),
        "runs": len(items),
        "plan": {key: value for key, value in plan.items() if key != "cells"},
        "shared": shared,
    }
    items = [item | {key: without(item[key], shared[key]) for key in SHARED if key in item} for item in items]
    # The file that names the others comes last.
    if curves:
        write_lines(curves_path(path), curves.values())
    write_lines(path, map(signed, [head, *plan["cells"], *items]))
    if not curves:
        curves_path(path).unlink(missing_ok=True)


def _kept_columns(spec: Spec) -> Callable[[str], bool] | None:
    """Return what says which values of an epoch the page of ``spec`` may show; ``None`` where it shows none.

    A figure of curves keeps all but the series per class that it does not draw, so that it can be changed, and claims be tested on it.
    """
    if isinstance(spec, FigureSpec) and any(panel.type == "curve" for panel in spec.panels):
        families = tuple(panel.metric.partition("{")[0] for panel in spec.panels if "{" in panel.metric)
        return lambda name: not name.rpartition("/")[2].isdigit() or name.startswith(families)
    if isinstance(spec, TableSpec) and any(row and row.number is not None for row in (spec.value.epoch, *(row.epoch for row in spec.rows))):
        return lambda name: name in ("epoch", spec.value.metric)
    return None


def _excerpts(spec: Spec, runs: Path) -> dict[str, dict[str, Row]]:
    """Return what the panels of a figure draw: run id -> panel -> labels."""
    if not isinstance(spec, FigureSpec) or not spec.draws_labels:
        return {}
    # matplotlib takes a second to import.
    from analysis.figures.panels_labels import tiles_of

    found: dict[str, dict[str, Row]] = {}
    for made in tiles_of(spec, collect(spec, runs), TrainingSets()):
        for name, excerpt in made.excerpts.items():
            found.setdefault(name, {})[made.panel.label] = excerpt
    return found


def _columns(sources: Sequence[Run], is_kept: Callable[[str], bool]) -> Columns:
    """Return what is kept of the curves of a run, those of the first source where several have a value."""
    columns: Columns = {}
    for run in [run for run in sources if run.read_rows is not None] or sources[-1:]:
        columns = {name: values for name, values in columns_of(list(run.rows())).items() if is_kept(name)} | columns
    return {name: columns[name] for name in ["epoch", *sorted(columns.keys() - {"epoch"})]}


def restore(specs: Sequence[Spec], evidence: Path, runs: Path) -> list[str]:
    """Write the plans and runs of ``specs`` in ``evidence`` as run folders to ``runs``, and return the ids of the runs that were not there.

    A folder has what any file of the evidence holds of its run; weights and trajectories are nowhere.

    Raises:
        UserError: there is no evidence of a spec, or it is damaged; ``runs`` cannot be written.
    """
    files = {path: read_evidence(path) for path in evidence_files(evidence)}
    wanted: dict[str, None] = {}
    try:
        for spec in specs:
            path = evidence_path(spec.scale, spec.name, evidence)
            if path not in files:
                raise UserError(f"{path}: there is no evidence of {spec.name}. Call: python -m analysis evidence {command_name(spec)}")
            plan = plan_path(spec, runs)
            if not plan.exists():
                plan.parent.mkdir(parents=True, exist_ok=True)
                write_json(plan, files[path].plan)
            wanted |= dict.fromkeys(files[path].runs)
        new = [name for name in wanted if not (runs / name / "status.json").exists()]
        for name in new:
            _restore([found.runs[name] for found in files.values() if name in found.runs], runs / name)
    except OSError as error:
        raise UserError(f"{runs} cannot be written: {error.strerror}. Set --runs or $REPRO_RUNS to a folder you can write.") from error
    return new


def _restore(sources: Sequence[Run], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    run = next((item for item in sources if item.done), sources[0])
    if run.done:
        write_json(folder / "identity.json", {"schema": RUN_SCHEMA, "run_id": run.run_id, "fields": run.fields})
        write_json(folder / "final.json", run.final)
        write_json(folder / "cost.json", run.cost)
        write_json(folder / "provenance.json", run.provenance)
        if any(item.read_rows for item in sources):
            rows = rows_of(_columns([item for item in sources if item.read_rows], lambda name: True))
            write_text(folder / "metrics.jsonl", "".join(json.dumps(jsonable(row), sort_keys=True, allow_nan=False) + "\n" for row in rows))
        seal(folder)
    # Only now does the folder say that the run is done.
    write_json(folder / "status.json", run.status)
