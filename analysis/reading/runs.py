"""What one run says of itself, and runs as a tidy table.

A record is a JSON object: ``run_id`` and ``status``; of a run that is done also ``fields`` (its settings), ``final`` (metric -> epoch rule
-> value), ``cost`` and ``provenance``. Evidence holds it as a line; :func:`read_record` makes it of a run folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from repro.errors import UserError
from repro.files import number, read_json
from repro.labels.trajectory import Trajectory, open_trajectory
from repro.runs import manifest

Record = dict[str, Any]

#: Curves of a run: ``epoch`` and each metric -> a value for each evaluation, ``None`` where it has none.
Columns = dict[str, list[Any]]

#: Where a run comes from and what it cost, as every table of runs shows it.
FACTS = ("run_id", "state", "problem", "git_sha", "dirty_sha256", "torch", "device", "ended", "wall_s", "gpu_hours", "peak_gib")

#: What tells apart how runs were made: versions of the code, with uncommitted changes; machines; settings of ``exec`` that move numbers.
MADE_WITH = ("code", "torch", "machine", "execution")

#: What of a machine moves the last digits.
_MACHINE = ("processor", "cpu_capability", "threads", "gpu", "driver", "cuda", "cudnn")


def read_record(folder: Path) -> Record:
    """Return the record of the run in ``folder``, whatever its state; ``missing`` where it has not begun.

    It is ``corrupted`` if a file is not what the run wrote: such a run has no result.
    """
    record: Record = {"run_id": folder.name, "place": str(folder)}
    try:
        record["status"] = read_json(folder / "status.json")
        if record["status"]["state"] == "done":
            identity = manifest.read_json(folder, "identity.json")
            if identity["run_id"] != folder.name:
                raise UserError(f"{folder} holds another run, {identity['run_id']}")
            read_columns(folder)
            record |= {name: manifest.read_json(folder, f"{name}.json") for name in ("final", "cost", "provenance")}
            record["fields"] = identity["fields"]
    except FileNotFoundError:
        record["status"] = {"state": "missing"}
    except (UserError, OSError, ValueError, KeyError, TypeError) as error:
        record["status"] = {"state": "corrupted", "error": str(error)}
    return record


def read_columns(folder: Path) -> Columns:
    """Return the curves of the run in ``folder``, which is done."""
    rows = [json.loads(line) for line in manifest.read_bytes(folder, "metrics.jsonl").splitlines()]
    names = sorted({name for row in rows for name in row} - {"epoch"})
    return {name: [row.get(name) for row in rows] for name in ("epoch", *names)}


def read_labels(folder: Path) -> Trajectory | None:
    """Return the recorded labels of the run in ``folder``, which is done; ``None`` where it recorded none."""
    return open_trajectory(folder / "labels") if (folder / "labels" / "layout.json").exists() else None


def runs_frame(records: Iterable[Record]) -> pd.DataFrame:
    """Return runs as a table by run_id: :data:`FACTS`, how each was computed, every setting, every result as ``metric@rule``.

    Values are as the run has them, ``None`` where it has none: NaN is the result of a run that diverged.
    """
    rows = [_row(record) for record in records]
    names = dict.fromkeys(name for row in rows for name in row) or dict.fromkeys((*FACTS, *MADE_WITH))
    columns = {name: pd.Series([row.get(name) for row in rows], dtype=object) for name in names}
    return pd.DataFrame(columns).set_index("run_id", drop=False)


def curves_frame(curves: Mapping[str, Columns]) -> pd.DataFrame:
    """Return curves, given by run_id, as a table run_id, metric, epoch, value."""
    rows = [
        (run_id, metric, epoch, number(value))
        for run_id, columns in curves.items()
        for metric, values in columns.items()
        for epoch, value in zip(columns["epoch"], values, strict=True)
        if metric != "epoch" and value is not None
    ]
    return pd.DataFrame(rows, columns=["run_id", "metric", "epoch", "value"])


def _row(record: Record) -> Record:
    status, cost, provenance = record["status"], record.get("cost", {}), record.get("provenance", {})
    git = provenance.get("git") or {}
    # A run that was resumed elsewhere, or with another version of the code, was made with both.
    code = [
        f"{str(item.get('sha'))[:12]}{' with changes' * bool(item.get('dirty_sha256'))}"
        for item in [*provenance.get("earlier_git", []), git]
    ]
    attempts = [attempt["facts"] for attempt in provenance.get("attempts", [])]
    machines = [", ".join(f"{key} {facts[key]}" for key in _MACHINE if facts.get(key) is not None) for facts in attempts]
    execution = [f"{key} {value}" for key, value in provenance.get("execution", {}).items() if value not in (False, "float32", "precision")]
    row = {
        "run_id": record["run_id"],
        "state": status["state"],
        "problem": " ".join(str(status.get("error") or "").split()),
        "git_sha": git.get("sha"),
        "dirty_sha256": git.get("dirty_sha256"),
        "torch": provenance.get("versions", {}).get("torch"),
        "device": provenance.get("device"),
        "ended": status.get("ended") or "",
        **{key: cost.get(key) for key in ("wall_s", "cpu_s", "gpu_hours", "peak_gib")},
        "code": ", then ".join(dict.fromkeys(code)),
        "machine": ", then ".join(dict.fromkeys(machines)),
        "execution": ", ".join(sorted(execution)) or "float32",
    }
    results = {f"{metric}@{rule}": number(value) for metric, rules in record.get("final", {}).items() for rule, value in rules.items()}
    return {**row, **record.get("fields", {}), **results}
