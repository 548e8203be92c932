"""Adds finished runs to evidence, and writes evidence back as run folders."""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis.reading.evidence import Source, open_evidence, write_evidence
from analysis.reading.results import Results, read_results
from analysis.reading.runs import Columns, Record
from repro.errors import UserError
from repro.files import json_text, jsonable, read_json, write_json, write_text
from sweeps.claims import load_claims
from sweeps.spec import Scale, Spec, load_spec

#: What of status.json says how a run ended; the rest says where it ran, as do the hosts in its provenance.
_STATUS = ("state", "started", "ended", "attempt", "epoch", "epochs", "error")
_HOSTS = ("host", "hosts")

#: The files of a restored run folder that hold a part of its record.
_PARTS = ("final", "cost", "provenance")


def add(specs: Sequence[Spec], scale: Scale, source: Source, path: Path) -> dict[str, str]:
    """Add the plans of ``specs`` and their runs in ``source`` that are done or failed to the evidence in ``path``.

    A run that is done there stays, and gets what these specs need of its curves and labels. Runs that no plan names are dropped.

    Returns:
        Why runs are not in it: run_id -> reason.

    Raises:
        UserError: there is no plan of a spec; a run is there with other numbers.
    """
    target = open_evidence(path)
    records = {run_id: target.record(run_id) for run_id in target.run_ids}
    curves = {run_id: target.columns(run_id) for run_id in target.run_ids}
    plans = {plan.stem: read_json(plan) for plan in target.plans.glob("*.json")}
    left_out: dict[str, str] = {}
    for spec in specs:
        results = read_results(spec, scale, source)
        plans[spec.name] = read_json(source.plan_path(spec.name))
        drawn = _drawn(results)
        for run_id, state in results.runs["state"].items():
            record, existing = source.record(run_id), records.get(run_id)
            if state == "done":
                columns = source.columns(run_id)
                if existing is not None and "final" in existing:
                    _check_same(record | columns, existing | curves[run_id])
                    record = existing
                if run_id in drawn:
                    record["drawn"] = record.get("drawn", {}) | {spec.name: drawn[run_id]}
                records[run_id], curves[run_id] = record, columns | curves.get(run_id, {})
            elif state == "failed" and existing is None:
                records[run_id] = record
            elif state == "corrupted":
                left_out[run_id] = results.runs.at[run_id, "problem"]
    read = _metrics_read(plans)
    left_out |= dict.fromkeys(sorted(records.keys() - read.keys()), "no plan names it any more")
    records = {run_id: _kept(record) for run_id, record in records.items() if run_id in read}
    shown = {
        run_id: {key: columns[key] for key in columns if key == "epoch" or _family(key) in read[run_id]}
        for run_id, columns in curves.items()
        if read.get(run_id)
    }
    write_evidence(path, plans, records, shown)
    return left_out


def _kept(record: Record) -> Record:
    kept = {key: value for key, value in record.items() if key != "place"}
    kept["status"] = {key: value for key, value in record["status"].items() if key in _STATUS}
    if "provenance" in record:
        kept["provenance"] = {key: value for key, value in record["provenance"].items() if key not in _HOSTS}
    return kept


def _check_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    for key in sorted((one.keys() & other.keys()) - {"place", "status", "cost", "provenance"}):
        if json_text(one[key]) != json_text(other[key]):
            raise UserError(f"run {one['run_id']}: {key} differs between {one['place']} and {other['place']}. Nothing was added.")


def _drawn(results: Results) -> dict[str, dict[str, Any]]:
    if all(panel.type == "curve" and "{k}" not in panel.metric for panel in results.spec.panels):
        return {}
    # matplotlib takes a second to import.
    from analysis.figures.labels import drawn_of

    return drawn_of(results)


def _metrics_read(plans: dict[str, Any]) -> dict[str, set[str]]:
    """Return of which metrics pages and claims read the curves, for each run that a plan names; ``name/{k}`` is a series per class."""
    claims = load_claims()
    tests = [test for claim in (*claims.claims, *claims.sanity) for test in claim.tests]
    read: defaultdict[str, set[str]] = defaultdict(set)
    for name, plan in plans.items():
        spec = load_spec(name)
        metrics = {metric for test in tests if test.spec == name for metric in test.metrics} | {panel.metric for panel in spec.panels}
        if spec.value and any((line.epoch or spec.value.epoch).startswith("epoch") for line in spec.row_lines):
            metrics.add(spec.value.metric)
        for cell in plan["cells"]:
            for run in cell["runs"]:
                read[run["run_id"]] |= metrics
    return read


def _family(metric: str) -> str:
    return re.sub(r"/\d+$", "/{k}", metric)


def restore(specs: Sequence[Spec], evidence: Source, target: Source) -> list[str]:
    """Write the plans and runs of ``specs`` as run folders, and return the ids of the runs that were not there.

    A folder has what the evidence holds of its run: no weights, no labels, of the curves what pages read.

    Raises:
        UserError: there is no evidence of a spec.
    """
    new = []
    for spec in specs:
        if not evidence.plan_path(spec.name).exists():
            raise UserError(f"{evidence.plans}: there is no evidence of {spec.name}.")
        plan, path = read_json(evidence.plan_path(spec.name)), target.plan_path(spec.name)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, plan)
        for run_id in dict.fromkeys(run["run_id"] for cell in plan["cells"] for run in cell["runs"]):
            record, existing = evidence.record(run_id), target.record(run_id)
            if record["status"]["state"] != "missing" and existing["status"]["state"] == "missing":
                _write_folder(record, evidence.columns(run_id), Path(existing["place"]))
                new.append(run_id)
    return new


def _write_folder(record: Record, columns: Columns, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if "final" in record:
        files = {f"{name}.json": json_text(record[name]) for name in _PARTS}
        files["identity.json"] = json_text({"schema": 1, "run_id": record["run_id"], "fields": record["fields"]})
        rows = [
            {key: values[index] for key, values in columns.items() if values[index] is not None} for index in range(len(columns["epoch"]))
        ]
        files["metrics.jsonl"] = "".join(json.dumps(jsonable(row), sort_keys=True) + "\n" for row in rows)
        for name, text in files.items():
            write_text(folder / name, text)
        write_json(folder / "manifest.json", {"files": {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()}})
    # Only now does the folder say that the run is done.
    write_json(folder / "status.json", record["status"])
