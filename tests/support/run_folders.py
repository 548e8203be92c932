"""Fabricated run folders and plans: what the analysis reads, without any training."""

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sealed import seal

from analysis.build import make_files
from analysis.reading.evidence import open_source
from analysis.reading.results import Results, read_results
from analysis.tables.page import Files
from repro.files import read_json, write_json
from sweeps.expand import digest, expand
from sweeps.scales import Scale, load_scale
from sweeps.spec import Spec, load_spec

SHA = "0123456789abcdef0123456789abcdef01234567"


def plan_by_hand(spec: Spec, scale: Scale, folder: Path, *, tuned: bool = True) -> dict[tuple[str, str, int], str]:
    """Write a plan of ``spec`` whose runs are called ``<row>-<column>-<seed>``, and return the ids by row, column and seed.

    It says that all is ``tuned``, or what is.
    """
    names: dict[tuple[str, str, int], str] = {}
    cells, planned = [], expand(spec, scale)
    for cell in planned:
        runs = []
        for variant in cell.variants:
            seed = variant.repeat["seed"]
            name = f"{cell.row}-{cell.column}-{seed}".replace(" ", "_").replace("%", "").replace("/", "")
            names[cell.row, cell.column, seed] = name
            runs.append({"run_id": name, "repeat": variant.repeat})
        untuned = [] if tuned else cell.untuned
        cells.append({"row": cell.row, "column": cell.column, "skip": cell.skip, "runs": runs, "untuned": untuned})
    path = open_source(folder, scale).plan_path(spec.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"schema": 1, "spec": spec.name, "spec_sha256": digest(planned), "spec_file": str(spec.path), "cells": cells})
    return names


class Suite:
    """A spec of one table or figure, its plan, and a folder for its runs."""

    def __init__(self, folder: Path, text: str, scale: str = "paper") -> None:
        folder.mkdir(exist_ok=True)
        self.path, self.runs = folder / "tried.yaml", folder / "runs"
        self.path.write_text(text)
        self.spec, self.scale = load_spec(str(self.path)), load_scale(scale)
        self.names = plan_by_hand(self.spec, self.scale, self.runs)

    def folder(self, row: str, column: str, seed: int) -> Path:
        return self.runs / self.names[row, column, seed]

    def results(self) -> Results:
        return read_results(self.spec, self.scale, open_source(self.runs, self.scale))

    def make(self) -> Files:
        """Return the files of the page from the runs as they are."""
        return make_files(self.spec, self.scale, open_source(self.runs, self.scale))


def csv_rows(files: Files, kind: str = "csv") -> list[dict[str, str]]:
    return list(csv.DictReader(files.contents[f"{files.name}.{kind}"].decode().splitlines()))


def change(folder: Path, file: str, values: dict[str, Any]) -> None:
    """Set ``values`` in a JSON file of a finished run, as if the run had written them."""
    write_json(folder / file, {**read_json(folder / file), **values})
    seal(folder)


def done_run(
    folder: Path,
    *,
    accuracy: float = 0.9,
    best_val: float | None = None,
    curve: dict[str, list[float]] | None = None,
    fields: dict[str, Any] | None = None,
    sha: str = SHA,
    dirty: str | None = None,
    ended: str = "2025-01-02T03:04:05Z",
) -> None:
    folder.mkdir(parents=True)
    write_json(folder / "status.json", {"state": "done", "ended": ended, "attempt": 1})
    write_json(folder / "identity.json", {"schema": 1, "run_id": folder.name, "fields": fields or {}})
    values = {"last": accuracy, "best_val": accuracy if best_val is None else best_val, "best_test": accuracy}
    write_json(folder / "final.json", {"test/accuracy": values})
    provenance = {"git": {"sha": sha, "dirty_sha256": dirty}, "versions": {"torch": "2.15.0"}, "device": "cpu (abacus)"}
    write_json(folder / "provenance.json", provenance)
    write_json(folder / "cost.json", {"wall_s": 36.0, "gpu_hours": 0.0, "peak_gib": 0.5, "attempts": 1})
    curve = curve or {"test/accuracy": [0.1, accuracy / 2, accuracy]}
    rows: list[dict[str, Any]] = [{"epoch": epoch} for epoch in range(max(map(len, curve.values())))]
    for metric, points in curve.items():
        for row, point in zip(rows, points, strict=False):
            row[metric] = point if point == point else "NaN"
    write_rows(folder, rows)


def write_rows(folder: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write the curves of a finished run."""
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    seal(folder)


def ended_run(folder: Path, state: str, error: str | None = None) -> None:
    """Make the folder of a run that ended without a result, or has not ended."""
    folder.mkdir(parents=True)
    write_json(folder / "status.json", {"state": state, "error": error, "ended": None, "attempt": 1})
