"""What a call on a rented machine leaves to be mailed: records of runs, without weights, checkpoints and trajectories."""

from __future__ import annotations

import json
import shutil
import statistics
import tarfile
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from analysis.evidence import keep
from repro.files import jsonable, read_json, write_atomically, write_json, write_text
from repro.manifest import seal
from repro.rundir import read_metrics
from sweeps.plan import Plan, PlannedRun, planned_state

ARCHIVE = "evidence.tar.gz"

#: What is packed. Weights, checkpoints and trajectories are of other kinds.
PACKED = (".json", ".jsonl", ".log")

#: What of status.json says how far a run is; the rest says where it ran.
_STATUS = ("state", "started", "heartbeat", "ended", "attempt", "epoch", "epochs", "error")


def pack(plan: Plan, out: Path) -> int:
    """Write the evidence of ``plan`` to ``out/evidence`` and ``out/evidence.tar.gz``, and return the archive's bytes.

    In it are ``runs``, the finished runs of the cells with the plans, as ``python -m analysis evidence`` keeps them; ``inputs``, finished
    runs that others read; ``unfinished``, how far the others are; and what the call wrote: its log, its summary, its measurements.
    """
    folder = out / "evidence"
    shown = {name for cell in plan.cells for name in cell.run_ids}
    keep(plan.specs, plan.folder, folder / "runs")
    # A run that was unfinished may be done now.
    for part in ("inputs", "unfinished"):
        shutil.rmtree(folder / part, ignore_errors=True)
    for run in plan.runs.values():
        state = planned_state(plan.folder / run.run_id)
        if state == "missing" or (state in ("done", "failed") and run.run_id in shown):
            continue
        _copy_record(plan.folder / run.run_id, folder / ("inputs" if state == "done" else "unfinished") / run.run_id)
    files = [(path, path.relative_to(folder)) for path in _packed(folder)]
    files += [(path, Path("call") / path.relative_to(out)) for path in _packed(out) if folder not in path.parents]

    def write(file: Any) -> None:
        with tarfile.open(fileobj=file, mode="w:gz", compresslevel=9) as archive:
            for path, name in files:
                archive.add(path, Path("evidence") / name)

    write_atomically(out / ARCHIVE, write)
    return (out / ARCHIVE).stat().st_size


def _packed(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix in PACKED and not path.name.startswith("."))


def _copy_record(source: Path, target: Path) -> None:
    """Copy what says which run it is, what made it, how far it is and its curves, without series per class and the machine's name."""
    target.mkdir(parents=True, exist_ok=True)
    for name in ("identity.json", "final.json", "cost.json", "provenance.json", "status.json"):
        try:
            content = dict(read_json(source / name))
        except (OSError, ValueError, TypeError):
            continue
        if name == "status.json":
            content = {key: content[key] for key in _STATUS if key in content}
        write_json(target / name, {key: value for key, value in content.items() if key != "host"})
    rows = [{key: value for key, value in row.items() if not key.rpartition("/")[2].isdigit()} for row in read_metrics(source)]
    write_text(target / "metrics.jsonl", "".join(json.dumps(jsonable(row), sort_keys=True) + "\n" for row in rows))
    if (target / "final.json").exists():
        seal(target)


def progress(plan: Plan) -> dict[str, Any]:
    """Return which runs of ``plan`` are done, and how far those are that have begun."""
    states = {name: planned_state(plan.folder / name) for name in plan.runs}
    begun = []
    for name, state in states.items():
        if state in ("missing", "done"):
            continue
        rows, status = read_metrics(plan.folder / name), _status(plan.folder / name)
        run = plan.runs[name]
        begun.append(
            {
                "run_id": name,
                "place": run.place,
                "state": state,
                "epoch": max((int(row["epoch"]) for row in rows), default=0),
                "epochs": run.epochs,
                "error": status.get("error"),
                "last": {key: value for key, value in (rows[-1] if rows else {}).items() if key in ("train/loss", "test/accuracy")},
            }
        )
    return {
        "runs": len(plan.runs),
        "done": [name for name, state in states.items() if state == "done"],
        "missing": sum(state == "missing" for state in states.values()),
        "begun": begun,
    }


def _status(folder: Path) -> dict[str, Any]:
    try:
        return dict(read_json(folder / "status.json"))
    except (OSError, ValueError, TypeError):
        return {}


def project(plan: Plan, jobs: int) -> list[dict[str, Any]]:
    """Return for each kind of run that has trained an epoch how long one takes, and how long those take that are left.

    ``epoch_s`` is the median over all epochs of all such runs, ``minutes_left`` is with ``jobs`` runs side by side as they were measured.
    """
    kinds: defaultdict[str, list[PlannedRun]] = defaultdict(list)
    for run in plan.runs.values():
        kinds[" ".join(str(run.fields[f"{key}.name"]) for key in ("method", "dataset", "model", "split"))].append(run)
    found = []
    for kind, runs in kinds.items():
        seconds = _epoch_seconds(plan.folder, runs)
        if not seconds:
            continue
        epoch_s = statistics.median(seconds)
        left = [run for run in runs if planned_state(plan.folder / run.run_id) != "done"]
        epochs = [run.epochs - _trained(plan.folder / run.run_id) for run in left]
        found.append(
            {
                "kind": kind,
                "epochs_measured": len(seconds),
                "epoch_s": round(epoch_s, 3),
                "minutes_per_run": round(runs[0].epochs * epoch_s / 60, 2),
                "runs_left": len(left),
                "minutes_left": round(max(sum(epochs) / jobs, max(epochs, default=0)) * epoch_s / 60, 1),
            }
        )
    return found


def _epoch_seconds(folder: Path, runs: Iterable[PlannedRun]) -> list[float]:
    rows = [row for run in runs for row in read_metrics(folder / run.run_id)]
    return [float(row["time/epoch_s"]) for row in rows if isinstance(row.get("time/epoch_s"), int | float)]


def _trained(folder: Path) -> int:
    return max((int(row["epoch"]) for row in read_metrics(folder)), default=0)


def check_data(names: Collection[str], folder: Path) -> None:
    """Read each dataset once, so that missing or damaged files are known before the clock of a rented machine runs.

    Raises:
        UserError: a file is missing or damaged.
    """
    from repro import registry

    for name in names:
        choice = registry.get("dataset", name)
        choice.build(choice.config(name=name), folder)


def models(plan: Plan, done: Sequence[str]) -> list[str]:
    """Return the models of the runs that are not done, in the order of the plan."""
    return list(dict.fromkeys(str(run.fields["model.name"]) for run in plan.runs.values() if run.run_id not in done))
