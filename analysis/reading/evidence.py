"""Where finished runs lie: a folder of run folders, or evidence.

Evidence is a runs folder in miniature, as text that git can compare, committed beside the pages that are made from it. In
``paper_tables/evidence/<scale>`` are ``plans/<spec>.json`` as ``python -m sweeps plan`` writes them, ``runs.jsonl`` with the record of
a run a line, ``curves.jsonl`` with those of its curves that a page or a claim reads, and ``sha256.json`` of each of these files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.reading.runs import Columns, Record, read_columns, read_labels, read_record
from repro.errors import UserError
from repro.files import json_text, jsonable, read_json, write_json, write_text
from repro.labels.trajectory import Trajectory
from repro.runs import manifest
from sweeps.scales import PAPER, Scale

FOLDER = "evidence"
_SHA256 = "sha256.json"


@dataclass(frozen=True)
class Source:
    """Finished runs and the plans that name them.

    Attributes:
        plans: the folder of the plans, ``<spec>.json``.
        run_ids: of all runs.
        record: returns the record of a run, whatever its state.
        columns: returns the curves of a run that is done, as far as they were kept.
        labels: returns the recorded labels of a run that is done, where there are any.
    """

    plans: Path
    run_ids: list[str]
    record: Callable[[str], Record]
    columns: Callable[[str], Columns]
    labels: Callable[[str], Trajectory | None]

    def plan_path(self, name: str) -> Path:
        """Return where the plan of the spec ``name`` lies."""
        return self.plans / f"{name}.json"


def open_source(folder: Path, scale: Scale) -> Source:
    """Return the evidence of that scale in ``folder`` where there is any, else the run folders in it.

    Raises:
        UserError: a file of the evidence is not as it was written.
    """
    if (folder / scale.name / _SHA256).exists():
        return open_evidence(folder / scale.name)
    run_ids = sorted(path.parent.name for path in folder.glob("*/status.json"))
    plans = folder / "plans" / ("" if scale.name == PAPER else scale.name)
    record, columns, labels = (lambda run_id, read=read: read(folder / run_id) for read in (read_record, read_columns, read_labels))
    return Source(plans, run_ids, record, columns, labels)


def open_evidence(path: Path) -> Source:
    """Return the evidence of one scale, without any run where there is none; raises what :func:`open_source` raises."""
    for name, sha256 in read_json(path / _SHA256).items() if path.exists() else ():
        if not (path / name).exists() or manifest.sha256((path / name).read_bytes()) != sha256:
            raise UserError(f"{path / name} is not as `python -m analysis evidence` wrote it. Put it back: git checkout -- {path}")
    records, curves = _read_lines(path / "runs.jsonl"), _read_lines(path / "curves.jsonl")

    def record(run_id: str) -> Record:
        return {"run_id": run_id, "status": {"state": "missing"}, "place": str(path / "runs.jsonl"), **records.get(run_id, {})}

    return Source(path / "plans", list(records), record, lambda run_id: curves.get(run_id, {}), lambda run_id: None)


def write_evidence(path: Path, plans: Mapping[str, Any], records: Mapping[str, Record], curves: Mapping[str, Columns]) -> None:
    """Write the evidence of a scale: plans by spec, records and curves by run."""
    files = {f"plans/{name}.json": json_text(plan) for name, plan in plans.items()}
    for name, items in (("runs.jsonl", records), ("curves.jsonl", curves)):
        lines = ({"run_id": run_id, **items[run_id]} for run_id in sorted(items))
        files[name] = "".join(json.dumps(jsonable(line), sort_keys=True, allow_nan=False) + "\n" for line in lines)
    (path / "plans").mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        write_text(path / name, text)
    write_json(path / _SHA256, {name: manifest.sha256(text.encode()) for name, text in files.items()})


def _read_lines(path: Path) -> dict[str, dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {item.pop("run_id"): item for item in map(json.loads, lines)}
