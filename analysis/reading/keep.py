"""Adds finished runs to evidence."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.reading.evidence import Source, open_evidence, write_evidence
from analysis.reading.results import Results, read_results
from analysis.reading.runs import Record
from repro.errors import UserError
from repro.files import json_text, read_json
from sweeps.claims import load_claims
from sweeps.scales import Scale
from sweeps.spec import Spec, load_spec

#: What evidence leaves out: where a run lies and on which machines it ran.
_ELSEWHERE = {"host", "hosts", "pid", "token", "heartbeat", "slurm_job"}


def add(specs: Sequence[Spec], scale: Scale, source: Source, path: Path) -> dict[str, str]:
    """Add the plans of ``specs`` and their runs in ``source`` that are done to the evidence in ``path``.

    A run that is there stays, and gets what these specs need of its curves and labels. One that was trained before it measured what a
    table shows is replaced by a run that has measured it. Runs that no plan names are dropped.

    Returns:
        Why runs are not in it: run_id -> reason.

    Raises:
        UserError: there is no plan of a spec; a run is there with other numbers.
    """
    target = open_evidence(path)
    records = {run_id: target.record(run_id) for run_id in target.run_ids}
    curves = {run_id: target.columns(run_id) for run_id in target.run_ids}
    plans = {plan.stem: read_json(plan) for plan in target.plans.glob("*.json")}
    left_out = {}
    for spec in specs:
        results = read_results(spec, scale, source)
        plans[spec.name] = read_json(source.plan_path(spec.name))
        drawn = _drawn(results)
        for run_id, state in results.states.items():
            if state == "done":
                record, columns = source.record(run_id), source.columns(run_id)
                kept, shown = records.get(run_id, {}), curves.get(run_id, {})
                if spec.value.metric in record["final"].keys() - kept.get("final", {}).keys():
                    kept, shown = {}, {}
                _check_same(record | columns, kept | shown)
                records[run_id], curves[run_id] = record | kept, columns | shown
                if run_id in drawn:
                    records[run_id]["drawn"] = records[run_id].get("drawn", {}) | {spec.name: drawn[run_id]}
            elif state != "missing":
                left_out[run_id] = f"{state} {source.record(run_id)['status'].get('error') or ''}"
    given = {spec.name: spec for spec in specs}
    read: defaultdict[str, set[str]] = defaultdict(set)
    for name, plan in plans.items():
        for run_id in _run_ids(plan):
            read[run_id] |= _metrics(given.get(name) or load_spec(name))
    left_out |= dict.fromkeys(sorted(records.keys() - read.keys()), "no plan names it any more")
    records = {run_id: _kept(record) for run_id, record in records.items() if run_id in read}
    curves = {
        run_id: {key: values for key, values in curves[run_id].items() if _family(key) in {"epoch", *read[run_id]}}
        for run_id in records
        if read[run_id] and curves[run_id]
    }
    write_evidence(path, plans, records, curves)
    return left_out


def _run_ids(plan: Mapping[str, Any]) -> Iterator[str]:
    yield from (run["run_id"] for cell in plan["cells"] for run in cell["runs"])


def _kept(record: Record) -> Record:
    of_run = {key: value for key, value in record.items() if key != "place"}
    kept: Record = json.loads(json.dumps(of_run), object_hook=lambda part: {key: part[key] for key in part if key not in _ELSEWHERE})
    return kept


def _check_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    for key in sorted((one.keys() & other.keys()) - {"place", "status", "cost", "provenance"}):
        if json_text(one[key]) != json_text(other[key]):
            raise UserError(f"run {one['run_id']}: {key} differs between {one['place']} and {other['place']}. Nothing was added.")


def _drawn(results: Results) -> dict[str, dict[str, Any]]:
    if results.spec.kind != "figure":
        return {}
    # matplotlib takes a second to import.
    from analysis.figures.labels import drawn_of

    drawn: dict[str, dict[str, Any]] = drawn_of(results)
    return drawn


def _metrics(spec: Spec) -> set[str]:
    """Return of which metrics the page of ``spec`` and the claims read curves; ``name/{k}`` is a series per class."""
    tests = [test for claim in load_claims().all for test in claim.tests if test.spec == spec.name]
    metrics = {metric for test in tests for metric in test.metrics} | {panel.metric for panel in spec.panels}
    numbered = any((line.epoch or spec.value.epoch).startswith("epoch") for line in spec.row_lines)
    return metrics | {spec.value.metric} if numbered else metrics


def _family(metric: str) -> str:
    return re.sub(r"/\d+$", "/{k}", metric)
