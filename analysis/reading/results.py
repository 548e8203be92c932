"""The cells of a spec with their runs: what a page, a figure and a claim are made from."""

from __future__ import annotations

import functools
import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from analysis.reading.evidence import Source
from analysis.reading.runs import curves_frame, runs_frame
from repro.errors import UserError
from repro.files import read_json
from sweeps.expand import digest, expand
from sweeps.scales import PAPER, Scale
from sweeps.spec import Spec, known_specs


@dataclass(frozen=True)
class Cell:
    """One cell of a plan: its runs, each with what it repeats (``{"seed": 0}``), or the reason ``skip`` why it has none.

    Attributes:
        value: what the cell of a recipe shows instead of runs.
        untuned: tunings that were not done when its runs were planned, so that these have the values declared for that case.
        at_end: chosen values that lie at an end of their grids.
    """

    row: str
    column: str
    run_ids: tuple[str, ...]
    repeats: tuple[dict[str, Any], ...]
    skip: str | None = None
    value: object = None
    untuned: tuple[str, ...] = ()
    at_end: tuple[str, ...] = ()

    @property
    def place(self) -> tuple[str, str]:
        """Row and column."""
        return self.row, self.column

    @property
    def label(self) -> str:
        """Row and column in words."""
        return ", ".join(filter(None, self.place))


@dataclass(frozen=True)
class Results:
    """The cells of a spec, row by row, and ``runs``, a row for each run that they name (:func:`analysis.reading.runs.runs_frame`)."""

    spec: Spec
    scale: Scale
    cells: tuple[Cell, ...]
    runs: pd.DataFrame
    source: Source
    spec_sha256: str

    def only(self, key: str, values: Collection[Any]) -> Results:
        """Return these results with the runs of each cell whose repeat has one of ``values`` at ``key``; a cell may have none."""
        cells = []
        for cell in self.cells:
            kept = [(run_id, of) for run_id, of in zip(cell.run_ids, cell.repeats, strict=True) if of.get(key) in values]
            cells.append(replace(cell, run_ids=tuple(run_id for run_id, _ in kept), repeats=tuple(of for _, of in kept)))
        return replace(self, cells=tuple(cells))

    @functools.cached_property
    def states(self) -> dict[str, str]:
        """The state of each run."""
        return dict(zip(self.runs["run_id"], self.runs["state"], strict=True))

    def done(self, cell: Cell) -> list[str]:
        """Return the ids of the runs of ``cell`` that are done."""
        return [run_id for run_id in cell.run_ids if self.states[run_id] == "done"]

    def rule(self, cell: Cell) -> str:
        """Return the epoch at which the value of ``cell`` is read: ``last``, ``best_val``, ``best_test`` or ``epoch N``."""
        rule = next(line.epoch for line in self.spec.row_lines if line.label == cell.row)
        return self.scale.epoch(rule or self.spec.value.epoch)

    def values(self, cell: Cell, metric: str, rule: str) -> list[float | None]:
        """Return the value of each run of ``cell``: ``None`` where it is not done or has none, NaN where it diverged before that epoch."""
        if rule.startswith("epoch"):
            epoch, last = int(rule.split()[1]), self.values(cell, metric, "last")
            chosen = self.curves[(self.curves["metric"] == metric) & (self.curves["epoch"] == epoch)].set_index("run_id")["value"]
            # A run that diverged before that epoch has no value there, and NaN as its last.
            diverged = [value if value is not None and math.isnan(value) else None for value in last]
            return [chosen.get(run_id, otherwise) for run_id, otherwise in zip(cell.run_ids, diverged, strict=True)]
        column: Any = self.runs.get(f"{metric}@{rule}", {})
        return [column.get(run_id) for run_id in cell.run_ids]

    @functools.cached_property
    def curves(self) -> pd.DataFrame:
        """Return the curves of all done runs: run_id, metric, epoch, value."""
        return curves_frame({run_id: self.source.columns(run_id) for run_id, state in self.states.items() if state == "done"})


def read_results(spec: Spec, scale: Scale, source: Source) -> Results:
    """Return the cells of ``spec`` at ``scale`` with the runs that the plan in ``source`` names.

    Raises:
        UserError: there is no plan, or it is not of this spec as it stands now; the message says which command to call.
    """
    path, again = source.plan_path(spec.name), f"Call: python -m sweeps plan {command_name(spec, scale)}"
    if not path.exists():
        raise UserError(f"{path}: there is no plan, so which runs make up {spec.name} is not known. {again}")
    plan = read_json(path)
    if plan["spec_sha256"] != digest(expand(spec, scale)):
        raise UserError(f"{path} was made from another version of {spec.path}, of what it shares or of tuned values. {again}")
    cells = tuple(map(_cell, plan["cells"]))
    run_ids = dict.fromkeys(run_id for cell in cells for run_id in cell.run_ids)
    return Results(spec, scale, cells, runs_frame(map(source.record, run_ids)), source, plan["spec_sha256"])


def _cell(planned: dict[str, Any]) -> Cell:
    run_ids, repeats = (tuple(run[key] for run in planned["runs"]) for key in ("run_id", "repeat"))
    tuned = (tuple(planned.get(key, ())) for key in ("untuned", "at_end"))
    return Cell(planned["row"], planned["column"], run_ids, repeats, planned["skip"], planned.get("value"), *tuned)


def command_name(spec: Spec, scale: Scale) -> str:
    """Return how a command names ``spec``: by its name when it comes with the suite, else by its file, without the folder."""
    name = spec.name if known_specs().get(spec.name) == spec.path else spec.path.name
    return name if scale.name == PAPER else f"{name} --scale {scale.name}"
