"""Reads one run folder. Only a run that is done, readable and what its folder's name says gives numbers."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repro.errors import UserError
from repro.files import number, read_json
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
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Run(name, "unreadable", f"status.json cannot be read ({error})", folder)
    if state == "failed":
        return Run(name, "failed", str(status.get("error") or "no error noted"), folder)
    if state != "done":
        # Whether it still lives is a question of the clock, so the page says when it last did.
        known = [f"after {status['epoch']} of {status['epochs']} epochs"] if "epoch" in status and "epochs" in status else []
        known += [f"last sign of life {status['heartbeat']}"] if status.get("heartbeat") else []
        return Run(name, "unfinished", ", ".join([state, *known]), folder)
    try:
        identity = read_json(folder / "identity.json")
        if identity["schema"] != RUN_SCHEMA:
            return Run(name, "unreadable", f"its layout is {identity['schema']}, this code reads {RUN_SCHEMA}", folder)
        if identity["run_id"] != name:
            return Run(name, "unreadable", f"the folder holds another run, {identity['run_id']}", folder)
        stored = read_json(folder / "final.json")
        return Run(
            run_id=name,
            state="done",
            problem="",
            folder=folder,
            fields=dict(identity["fields"]),
            final={metric: {rule: number(value) for rule, value in values.items()} for metric, values in stored.items()},
            provenance=dict(read_json(folder / "provenance.json")),
            cost=dict(read_json(folder / "cost.json")),
            ended=str(status["ended"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
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
        UserError: the run is done but a line of its metrics.jsonl is damaged.
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
        UserError: a line is damaged.
    """
    path = run.folder / "metrics.jsonl"
    with contextlib.suppress(FileNotFoundError), path.open(encoding="utf-8") as lines:
        for index, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                checked = {name: number(value) for name, value in row.items()}
                int(checked["epoch"])
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(f"{path}:{index}: the line is damaged ({error}). Move the folder away and run it again.") from error
            yield row
