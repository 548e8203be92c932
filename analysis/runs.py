"""Reads one run folder. Only a run that is done, readable and what its folder's name says gives numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repro.files import number, read_json
from repro.manifest import DamagedError, Manifest, open_manifest
from sweeps.spec import Epoch

#: The layout of run folders that this code reads, ``schema`` in identity.json.
RUN_SCHEMA = 1


@dataclass(frozen=True)
class Run:
    """One run folder, as far as it can be read.

    Attributes:
        run_id: the folder's name.
        state: ``done``; ``failed``; ``unfinished`` (waiting, running, stopped or lost); ``missing``; ``unreadable``.
        problem: why there is no result; empty when done.
        folder: where it lies.
        fields: every setting of its identity, flat; empty unless done.
        final: metric -> epoch rule -> value; empty unless done.
        provenance: commit, versions, device.
        cost: seconds, GPU-hours, memory (GiB).
        ended: when it ended, UTC, ISO 8601.
        manifest: what its files must be; ``None`` unless done.
    """

    run_id: str
    state: str
    problem: str
    folder: Path
    fields: dict[str, Any] = field(default_factory=dict)
    final: dict[str, dict[str, float]] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)
    ended: str = ""
    manifest: Manifest | None = None

    @property
    def done(self) -> bool:
        """Whether it has a result."""
        return self.state == "done"


def read_run(folder: Path) -> Run:
    """Return the run in ``folder``, with its results if it is done."""
    name = folder.name
    try:
        status = read_json(folder / "status.json")
        state = str(status["state"])
    except FileNotFoundError:
        return Run(name, "missing", "not started", folder)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return Run(name, "unreadable", f"status.json cannot be read ({error})", folder)
    if state == "failed":
        return Run(name, "failed", str(status.get("error") or "no error noted"), folder)
    if state != "done":
        # Whether it still lives is a question of the clock, so the page says when it last did.
        known = [f"after {status['epoch']} of {status['epochs']} epochs"] if "epoch" in status and "epochs" in status else []
        known += [f"last sign of life {status['heartbeat']}"] if status.get("heartbeat") else []
        return Run(name, "unfinished", ", ".join([state, *known]), folder)
    try:
        manifest = open_manifest(folder)
        identity = manifest.read_json("identity.json")
        if identity["schema"] != RUN_SCHEMA:
            return Run(name, "unreadable", f"its layout is {identity['schema']}, this code reads {RUN_SCHEMA}", folder)
        if identity["run_id"] != name:
            return Run(name, "unreadable", f"the folder holds another run, {identity['run_id']}", folder)
        stored = manifest.read_json("final.json")
        return Run(
            run_id=name,
            state="done",
            problem="",
            folder=folder,
            fields=dict(identity["fields"]),
            final={metric: {rule: number(value) for rule, value in values.items()} for metric, values in stored.items()},
            provenance=dict(manifest.read_json("provenance.json")),
            cost=dict(manifest.read_json("cost.json")),
            ended=str(status["ended"]),
            manifest=manifest,
        )
    except DamagedError as error:
        return Run(name, "unreadable", str(error), folder)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return Run(name, "unreadable", f"it says done, but a file of it cannot be read ({error})", folder)


def value_at(run: Run, metric: str, epoch: Epoch) -> float | None:
    """Return the value of ``metric`` by the epoch rule; NaN when the run diverged before that epoch; ``None`` when it has none."""
    values = run.final.get(metric, {})
    if epoch.number is None:
        return values.get(epoch.rule)
    curve = read_curves(run, (metric,))[metric]
    if epoch.number in curve:
        return curve[epoch.number]
    return math.nan if math.isnan(values.get("last", 0.0)) else None


def read_curves(run: Run, metrics: tuple[str, ...]) -> dict[str, dict[int, float]]:
    """Return for each of ``metrics`` its value by completed epochs; epoch 0 is the untrained model.

    Raises:
        DamagedError: its metrics.jsonl is not what the run wrote.
    """
    curves: dict[str, dict[int, float]] = {metric: {} for metric in metrics}
    for row in read_rows(run):
        for metric in metrics:
            if metric in row:
                curves[metric][int(row["epoch"])] = number(row[metric])
    return curves


def read_rows(run: Run) -> Iterator[dict[str, Any]]:
    """Yield the lines of its metrics.jsonl in order, ``epoch`` and metric -> number or :func:`repro.files.jsonable`'s string for one.

    Raises:
        DamagedError: the file is not what the run wrote.
    """
    if run.manifest is None:
        return
    for line in run.manifest.read_bytes("metrics.jsonl").splitlines():
        yield json.loads(line)
