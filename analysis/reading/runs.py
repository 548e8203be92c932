"""A run as the analysis sees it, and reading one from its folder; :mod:`analysis.reading.evidence` reads runs from committed files.

Only a run that is done, readable and what its folder's name says gives numbers.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repro.errors import UserError
from repro.files import number, read_json
from repro.labels.trajectory import Trajectory, open_trajectory
from repro.runs.manifest import DamagedError, open_manifest
from repro.runs.pruned import check_not_pruned
from sweeps.spec.load import Epoch

#: The layout of run folders that this code reads, ``schema`` in identity.json.
RUN_SCHEMA = 1

Row = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One run, as far as it can be read.

    Attributes:
        run_id: its id.
        state: ``done``; ``failed``; ``unfinished`` (waiting, running, stopped or lost); ``missing``; ``unreadable``.
        problem: why there is no result; empty when done.
        place: where it was read, for messages: its folder, or file and line.
        status: how it ended, and when; empty unless done or failed.
        fields: every setting of its identity, flat; empty unless done.
        final: metric -> epoch rule -> value; empty unless done.
        provenance: commit, versions, device.
        cost: seconds, GPU-hours, memory (GiB).
        read_rows: reads its curves; ``None`` where there are none.
        open_labels: opens its recorded labels; ``None`` where there are none.
        dataset: what evidence holds of it: ``class_names``.
        excerpts: what evidence holds of its labels: panel of the figure -> :meth:`analysis.reading.learned.Learned.excerpt`.
    """

    run_id: str
    state: str
    problem: str
    place: str
    status: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)
    final: dict[str, dict[str, float]] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)
    read_rows: Callable[[], Iterator[Row]] | None = None
    open_labels: Callable[[], Trajectory] | None = None
    dataset: dict[str, Any] = field(default_factory=dict)
    excerpts: dict[str, Row] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        """Whether it has a result."""
        return self.state == "done"

    @property
    def ended(self) -> str:
        """When it ended, UTC, ISO 8601."""
        return str(self.status.get("ended") or "")

    @property
    def torch(self) -> str:
        """The version of PyTorch that it was computed with."""
        return str((self.provenance.get("versions") or {}).get("torch", "unknown"))

    def columns(self) -> dict[str, Any]:
        """Return where it comes from and what it cost, as columns of a table."""
        git = self.provenance.get("git") or {}
        return {
            "run_id": self.run_id,
            "state": self.state,
            "problem": " ".join(self.problem.split()),
            "git_sha": git.get("sha"),
            "dirty_sha256": git.get("dirty_sha256"),
            "torch": self.torch if self.done else None,
            "device": self.provenance.get("device"),
            "ended": self.ended,
            **{key: self.cost.get(key) for key in ("wall_s", "gpu_hours", "peak_gib")},
        }

    def rows(self) -> Iterator[Row]:
        """Yield its evaluations in order, ``epoch`` and metric -> number or :func:`repro.files.jsonable`'s string for one.

        Raises:
            UserError: they are not what the run wrote, or they were not kept.
        """
        if self.read_rows is not None:
            yield from self.read_rows()
        elif self.done:
            raise UserError(
                f"{self.place}: of run {self.run_id} only the results were kept, not its curves. Use the run folder it was trained in."
            )

    def labels(self) -> Trajectory | None:
        """Return its recorded labels; ``None`` where there are none.

        Raises:
            UserError: they are not what the run wrote, or were pruned.
        """
        return None if self.open_labels is None else self.open_labels()


def read_run(folder: Path) -> Run:
    """Return the run in ``folder``, with its results if it is done."""
    name = folder.name
    try:
        status = read_json(folder / "status.json")
        state = str(status["state"])
    except FileNotFoundError:
        return Run(name, "missing", "not started", str(folder))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return Run(name, "unreadable", f"status.json cannot be read ({error})", str(folder))
    if state == "failed":
        return Run(name, "failed", str(status.get("error") or "no error noted"), str(folder), status)
    if state != "done":
        # Whether it still lives is a question of the clock, so the page says when it last did.
        known = [f"after {status['epoch']} of {status['epochs']} epochs"] if "epoch" in status and "epochs" in status else []
        known += [f"last sign of life {status['heartbeat']}"] if status.get("heartbeat") else []
        return Run(name, "unfinished", ", ".join([state, *known]), str(folder))
    try:
        manifest = open_manifest(folder)
        identity = manifest.read_json("identity.json")
        if identity["schema"] != RUN_SCHEMA:
            raise DamagedError(f"its layout is {identity['schema']}, this code reads {RUN_SCHEMA}")
        if identity["run_id"] != name:
            raise DamagedError(f"the folder holds another run, {identity['run_id']}")
        stored, rows = manifest.read_json("final.json"), "metrics.jsonl"
        return Run(
            run_id=name,
            state="done",
            problem="",
            place=str(folder),
            status={**status, "ended": str(status["ended"])},
            fields=dict(identity["fields"]),
            final={metric: {rule: number(value) for rule, value in values.items()} for metric, values in stored.items()},
            provenance=dict(manifest.read_json("provenance.json")),
            cost=dict(manifest.read_json("cost.json")),
            read_rows=(lambda: map(json.loads, manifest.read_bytes(rows).splitlines())) if rows in manifest.files else None,
            open_labels=functools.partial(_open_labels, folder) if "labels/layout.json" in manifest.files else None,
        )
    except DamagedError as error:
        return Run(name, "unreadable", str(error), str(folder))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return Run(name, "unreadable", f"it says done, but a file of it cannot be read ({error})", str(folder))


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
    """Return the curves of ``metrics``: name -> completed epochs -> value; epoch 0 is the untrained model.

    ``name/{k}`` stands for the series of every class that the run has; each has its own name, such as ``name/007``.

    Raises:
        UserError: as :meth:`Run.rows`.
    """
    families = tuple(metric.removesuffix("{k}") for metric in metrics if metric.endswith("{k}"))
    curves: dict[str, dict[int, float]] = {metric: {} for metric in metrics if not metric.endswith("{k}")}
    for row in run.rows():
        for name in row:
            if name in curves or name.startswith(families):
                curves.setdefault(name, {})[int(row["epoch"])] = number(row[name])
    return curves


def _open_labels(folder: Path) -> Trajectory:
    check_not_pruned(folder, "labels")
    return open_trajectory(folder / "labels")
