"""Runs that another machine logged to W&B come back as run folders, for people whose folders are elsewhere.

The rows are the unsampled history; what a table reads is there, and ``metrics.jsonl`` is checked by its sha256. Label trajectories,
models and checkpoints never went to W&B, so a run that was pulled can be no input of another.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from repro.errors import UserError
from repro.files import number, write_json, write_text
from repro.manifest import seal
from repro.metric_names import definition_of
from repro.rundir import metrics_line, now
from repro.tracker.contents import WHOLE
from repro.tracker.server import Remote, Server
from repro.tracker.sync import Outcome


def pull(server: Server, runs: Path) -> Iterator[Outcome]:
    """Write a run folder below ``runs`` for each finished run of the project; yield what became of each.

    A folder that is there already is left as it is. A run that is not finished, not whole, or not of this project's making is left out.

    Raises:
        UserError: the server does not answer, or ``runs`` cannot be written.
    """
    try:
        runs.mkdir(parents=True, exist_ok=True)
        for remote in server.runs():
            yield _pull_one(remote, runs, server)
    except OSError as error:
        raise UserError(f"{runs} cannot be written: {error.strerror or error}. Set --runs to a folder you can write.") from error


def _pull_one(remote: Remote, runs: Path, server: Server) -> Outcome:
    try:
        identity = json.loads(remote.config["identity"])
        name = str(identity["run_id"])
        results = {metric: dict(values) for metric, values in json.loads(remote.summary["final_json"]).items()}
        expected, truth = int(remote.summary["truth_rows"]), str(remote.summary["truth_sha256"])
        provenance = dict(remote.config["provenance"])
    except (KeyError, ValueError, TypeError, AttributeError):
        return Outcome(remote.run_id, "left out", f"it is {remote.state} and has no results of this program")
    if Path(name).name != name or name.startswith("."):
        return Outcome(remote.run_id, "left out", f"{name!r} is no name of a run folder")
    if (runs / name).exists():
        return Outcome(name, "there already", str(runs / name))
    rows = [_row(row) for row in remote.rows if "epoch" in row]
    if [row["epoch"] for row in rows] != list(range(expected)):
        return Outcome(name, "left out", f"the server has {len(rows)} of its {expected} rows; `sync` it where it was trained")
    folder = Path(tempfile.mkdtemp(dir=runs, prefix=f".{name}."))
    try:
        text = "".join(metrics_line(row) for row in rows)
        write_text(folder / "metrics.jsonl", text)
        settings = {section: value for section, value in remote.config.items() if section not in ("identity", "provenance")}
        write_text(folder / "config.yaml", yaml.safe_dump(settings, sort_keys=True))
        write_json(folder / "identity.json", identity)
        write_json(folder / "provenance.json", provenance | {"pulled": {"from": f"{server.place}/{remote.run_id}", "at": now()}})
        write_json(folder / "final.json", results)
        write_json(folder / "cost.json", _cost(rows, provenance, remote.summary))
        seal(folder, name)
        write_json(folder / "status.json", _status(rows, provenance, remote))
        folder.chmod(0o755)
        folder.rename(runs / name)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    same = hashlib.sha256(text.encode()).hexdigest() == truth
    return Outcome(name, "pulled", f"{len(rows)} rows" + ("" if same else ", not byte for byte those of the folder it was made of"))


def _row(logged: dict[str, Any]) -> dict[str, Any]:
    """Return a history row as ``metrics.jsonl`` has it: no name of W&B's own, whole numbers only where they count."""
    return {name: int(value) if name in WHOLE else number(value) for name, value in logged.items() if name in WHOLE or _is_metric(name)}


def _is_metric(name: str) -> bool:
    try:
        return not definition_of(name).mirror_only
    except KeyError:
        return False


def _cost(rows: list[dict[str, Any]], provenance: dict[str, Any], summary: dict[str, Any]) -> dict[str, Any]:
    """Return the cost as far as the rows tell: the time of the epochs; memory did not go to W&B."""
    seconds = sum(float(row.get("time/epoch_s", 0.0)) for row in rows)
    on_gpu = not str(provenance.get("device", "cpu")).startswith(("cpu", "mps"))
    return {
        "wall_s": seconds,
        "gpu_hours": seconds / 3600 if on_gpu else 0.0,
        "peak_gib": 0.0,
        "attempts": int(summary.get("attempts", 1)),
    }


def _status(rows: list[dict[str, Any]], provenance: dict[str, Any], remote: Remote) -> dict[str, Any]:
    stamps = [float(row["_timestamp"]) for row in remote.rows if "_timestamp" in row] or [0.0]
    first, last = (dt.datetime.fromtimestamp(stamp, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ") for stamp in (min(stamps), max(stamps)))
    status = {"state": "done", "host": provenance.get("host"), "started": first, "ended": last, "heartbeat": last}
    epoch = rows[-1]["epoch"]
    return dict(status, attempt=int(remote.summary.get("attempts", 1)), epoch=epoch, epochs=epoch, error=None, traceback_tail=[])
