"""Fabricated run folders and plans: what the analysis reads, without any training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from repro.files import write_json
from repro.manifest import seal
from sweeps.plan import Plan, PlannedCell, PlannedRun, write_plans
from sweeps.spec import Spec, expand

SHA = "0123456789abcdef0123456789abcdef01234567"


def plan_by_hand(spec: Spec, folder: Path) -> dict[tuple[str, str, int], str]:
    """Write a plan of ``spec`` whose runs are called ``<row>-<column>-<seed>``, and return the ids by row, column and seed."""
    names: dict[tuple[str, str, int], str] = {}
    cells = []
    runs: dict[str, PlannedRun] = {}
    for cell in expand(spec):
        ids = []
        for variant in cell.variants:
            seed = variant.repeat_values["seed"]
            assert isinstance(seed, int)
            name = f"{cell.row}-{cell.column}-{seed}".replace(" ", "_").replace("%", "")
            names[cell.row, cell.column, seed] = name
            ids.append(name)
            runs[name] = PlannedRun(name, variant.overrides, {"optim.epochs": 2}, "done", (), (spec.name,), name)
        cells.append(PlannedCell(spec.name, cell.row, cell.column, tuple(ids), tuple(v.repeat_values for v in cell.variants), cell.skip))
    write_plans(Plan(folder, (spec,), runs, tuple(cells), scale=spec.scale))
    return names


def done_run(
    folder: Path,
    *,
    accuracy: float = 0.9,
    best_val: float | None = None,
    curve: dict[str, list[float]] | None = None,
    sha: str | None = SHA,
    dirty: str | None = None,
    ended: str = "2025-01-02T03:04:05Z",
) -> None:
    """Make the folder of a finished run."""
    folder.mkdir(parents=True)
    write_json(folder / "status.json", {"state": "done", "ended": ended, "attempt": 1})
    write_json(folder / "identity.json", {"schema": 1, "run_id": folder.name, "fields": {}})
    values = {"last": accuracy, "best_val": accuracy if best_val is None else best_val, "best_test": accuracy}
    write_json(folder / "final.json", {"test/accuracy": values})
    write_json(
        folder / "provenance.json",
        {"git": {"sha": sha, "dirty_sha256": dirty}, "versions": {"torch": "2.15.0"}, "device": "cpu (abacus)", "threads": 1},
    )
    write_json(folder / "cost.json", {"wall_s": 36.0, "gpu_hours": 0.0, "peak_gib": 0.5, "attempts": 1})
    curve = curve or {"test/accuracy": [0.1, accuracy / 2, accuracy]}
    num_epochs = max(len(values) for values in curve.values())
    rows: list[dict[str, Any]] = [{"epoch": epoch} for epoch in range(num_epochs)]
    for metric, points in curve.items():
        for row, point in zip(rows, points, strict=False):
            row[metric] = point if point == point else "NaN"
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    seal(folder)


def ended_run(folder: Path, state: str, error: str | None = None) -> None:
    """Make the folder of a run that ended without a result, or has not ended."""
    folder.mkdir(parents=True)
    write_json(folder / "status.json", {"state": state, "error": error, "ended": None, "attempt": 1})
