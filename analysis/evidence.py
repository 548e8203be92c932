"""Evidence: what the committed pages are made from, small enough to be committed beside them.

``paper_tables/evidence`` is a runs folder like any other, with the plans of the specs and a folder for each run that has ended, but without
weights, checkpoints, trajectories and series per class (these stay where a figure draws them), and without the machine's name. Every
page under ``paper_tables`` can be made from it alone, which is what :mod:`analysis.build` does.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from analysis.collect import collect, plan_path
from analysis.runs import Run, read_rows
from repro.errors import UserError
from repro.files import jsonable, read_json, write_bytes, write_json, write_text
from repro.manifest import Manifest, seal
from sweeps.spec import FigureSpec, Spec

FOLDER = "evidence"

#: Bytes of a run's label trajectory up to which it can be evidence; figures of single labels need it.
LARGEST_TRAJECTORY = 2_000_000

#: What of status.json says how the run ended; the rest says where it ran.
_STATUS = ("state", "started", "ended", "attempt", "epoch", "epochs", "error")


def keep(specs: Sequence[Spec], runs: Path, target: Path) -> list[str]:
    """Copy the plans of ``specs`` and all their runs that have ended from ``runs`` to ``target``, and return the ids of the runs.

    Runs that stand there and are not those of these specs stay as they are.

    Raises:
        UserError: there is no plan of a spec in ``runs``, or ``target`` cannot be written.
    """
    kept: dict[str, None] = {}
    try:
        for spec in specs:
            cells = collect(spec, runs)
            plan = plan_path(spec, target)
            plan.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(plan, plan_path(spec, runs).read_bytes())
            for run in (repeat.run for cell in cells for repeat in cell.repeats):
                if run.state in ("done", "failed") and (run.run_id not in kept or isinstance(spec, FigureSpec)):
                    _copy(run, target / run.run_id, spec)
                    kept[run.run_id] = None
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror}. Set --out to a folder you can write.") from error
    return list(kept)


def _copy(run: Run, target: Path, spec: Spec) -> None:
    target.mkdir(parents=True, exist_ok=True)
    status = read_json(run.folder / "status.json")
    write_json(target / "status.json", {key: status[key] for key in _STATUS if key in status})
    if not run.done:
        return
    manifest = run.manifest
    assert manifest is not None, "the run is done"
    for name in ("identity.json", "final.json", "cost.json"):
        write_bytes(target / name, manifest.read_bytes(name))
    write_json(target / "provenance.json", {key: value for key, value in run.provenance.items() if key != "host"})
    panels = spec.panels if isinstance(spec, FigureSpec) else ()
    # Series per class that another figure needed stay; what this one needs comes with them.
    there = target / "metrics.jsonl"
    families = tuple(panel.metric.partition("{")[0] for panel in panels if "{" in panel.metric)
    before = _series(there)
    rows = [{name: value for name, value in row.items() if _is_kept(name, families, before)} for row in read_rows(run)]
    write_text(there, "".join(json.dumps(jsonable(row), sort_keys=True, allow_nan=False) + "\n" for row in rows))
    if any(panel.type != "curve" for panel in panels):
        _copy_trajectory(manifest, target)
    # What stands there is a part of what the run wrote, read just now and checked.
    seal(target)


def _series(path: Path) -> frozenset[str]:
    """Return the names of the series per class in the first line of a metrics.jsonl; none where there is no file."""
    if not path.exists():
        return frozenset()
    first: dict[str, Any] = json.loads(path.read_text(encoding="utf-8").partition("\n")[0] or "{}")
    return frozenset(name for name in first if _is_series(name))


def _is_series(name: str) -> bool:
    return name.rpartition("/")[2].isdigit()


def _is_kept(name: str, families: Iterable[str], before: frozenset[str]) -> bool:
    return not _is_series(name) or name in before or name.startswith(tuple(families))


def _copy_trajectory(manifest: Manifest, target: Path) -> None:
    files = {name: entry for name, entry in manifest.files.items() if name.startswith("labels/")}
    if files and sum(entry.size for entry in files.values()) <= LARGEST_TRAJECTORY:
        (target / "labels").mkdir(exist_ok=True)
        for name in files:
            write_bytes(target / name, manifest.read_bytes(name))
