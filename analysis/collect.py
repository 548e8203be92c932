"""Reads the runs that a plan names. Only runs that are done, readable and what the plan says they are give numbers.

The plan file ``<runs>/plans/<spec>.json``, which ``python -m sweeps plan`` and ``run`` write, says which run stands in which cell. Other
folders beside them are never looked at.
"""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repro.errors import UserError
from repro.files import number, read_json
from sweeps.spec import Epoch, Spec

#: The layout of plan files that this code reads.
PLAN_SCHEMA = 1


@dataclass(frozen=True)
class Run:
    """One run folder, as far as it can be read.

    Attributes:
        run_id: the folder's name.
        state: ``done``; ``failed``; ``unfinished`` (waiting, running, stopped or lost); ``missing``; ``unreadable``.
        problem: why there is no result; empty when done.
        folder: where it lies.
        final: metric -> epoch rule -> value; empty unless done.
        provenance: commit, versions, device.
        cost: seconds, GPU-hours, memory (GiB).
        ended: when it ended, UTC, ISO 8601.
    """

    run_id: str
    state: str
    problem: str
    folder: Path
    final: dict[str, dict[str, float]] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)
    ended: str = ""

    @property
    def done(self) -> bool:
        """Whether it has a result."""
        return self.state == "done"


@dataclass(frozen=True)
class Repeat:
    """One run of a cell, and what it repeats, such as ``{"seed": 0}``."""

    repeat: dict[str, Any]
    run: Run

    @property
    def label(self) -> str:
        """What it repeats, as text: ``seed=0``."""
        return ", ".join(f"{key}={value}" for key, value in self.repeat.items())


@dataclass(frozen=True)
class Collected:
    """One cell with its runs, or the reason ``skip`` why it has none."""

    row: str
    column: str
    skip: str | None
    repeats: tuple[Repeat, ...]

    @property
    def label(self) -> str:
        """The cell in words: row and column."""
        return ", ".join(filter(None, (self.row, self.column)))


def collect(spec: Spec, runs: Path) -> tuple[Collected, ...]:
    """Return the cells of ``spec``, row by row, with the runs that its plan in ``runs`` names.

    Raises:
        UserError: there is no plan, or it is not of this spec as it stands now; the message says which command to call.
    """
    plan = _read_plan(spec, runs)
    known: dict[str, Run] = {}
    cells = []
    for cell in plan["cells"]:
        repeats = []
        for planned in cell["runs"]:
            name = str(planned["run_id"])
            if name not in known:
                known[name] = read_run(runs / name)
            repeats.append(Repeat(dict(planned["repeat"]), known[name]))
        not_built = cell.get("not_built")
        skip = cell["skip"] if not_built is None else f"not built: {not_built}"
        cells.append(Collected(str(cell["row"]), str(cell["column"]), skip, tuple(repeats)))
    return tuple(cells)


def _read_plan(spec: Spec, runs: Path) -> dict[str, Any]:
    path = runs / "plans" / f"{spec.name}.json"
    again = f"Call: python -m sweeps plan {command_name(spec)}"
    try:
        plan = read_json(path)
        schema, sha256 = plan["schema"], plan["spec_sha256"]
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no plan, so which runs make up {spec.name} is not known. {again}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}). {again}") from error
    if schema != PLAN_SCHEMA:
        raise UserError(f"{path} has layout {schema}, this code reads {PLAN_SCHEMA}. {again}")
    if sha256 != spec.sha256:
        raise UserError(f"{path} was made from another version of {spec.path}. {again}")
    assert isinstance(plan, dict)
    return plan


def command_name(spec: Spec) -> str:
    """Return how a command names ``spec``: by its name when it comes with the suite, else by its file, without the folder."""
    from sweeps.spec import known_specs

    return spec.name if known_specs().get(spec.name) == spec.path else spec.path.name


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
        return Run(name, "unfinished", state, folder)
    try:
        identity = read_json(folder / "identity.json")["run_id"]
        if identity != name:
            return Run(name, "unreadable", f"the folder holds another run, {identity}", folder)
        stored = read_json(folder / "final.json")
        return Run(
            run_id=name,
            state="done",
            problem="",
            folder=folder,
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
    path = run.folder / "metrics.jsonl"
    with contextlib.suppress(FileNotFoundError), path.open(encoding="utf-8") as lines:
        for index, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                epoch = int(row["epoch"])
                for metric in metrics:
                    if metric in row:
                        curves[metric][epoch] = number(row[metric])
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{path}:{index}: the line is damaged ({error}). Move the folder away and run it again.") from error
    return curves
