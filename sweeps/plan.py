"""Which runs the specs need, and how far they are: cells -> configurations -> run ids -> states."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repro.errors import UserError
from repro.files import write_json
from repro.rundir import read_state
from sweeps.nodes import Value
from sweeps.spec import Spec, expand

#: Raised when the layout of a plan file changes.
SCHEMA = 1

#: The states of a planned run, in the order of a run's life; ``missing`` has no status yet.
STATES = ("missing", "queued", "running", "preempted", "lost", "failed", "done")


@dataclass(frozen=True)
class PlannedRun:
    """One run that at least one cell needs.

    Attributes:
        run_id: its identity and the name of its folder.
        overrides: the command line that trains it.
        fields: every setting of its identity, flat.
        state: one of :data:`STATES`, when the plan was made.
        inputs: ids of the runs whose results it reads.
        specs: names of the specs that need it.
        place: the first cell that needs it, for messages: ``demo: One-hot, 40%, seed=0``.
    """

    run_id: str
    overrides: tuple[str, ...]
    fields: dict[str, Any]
    state: str
    inputs: tuple[str, ...]
    specs: tuple[str, ...]
    place: str

    @property
    def epochs(self) -> int:
        """Number of epochs it trains."""
        return int(self.fields["optim.epochs"])


@dataclass(frozen=True)
class PlannedCell:
    """One cell of one spec: its runs with what each repeats, or why it has none."""

    spec: str
    row: str
    column: str
    run_ids: tuple[str, ...]
    repeats: tuple[dict[str, Value], ...]
    skip: str | None


@dataclass(frozen=True)
class Plan:
    """Everything that the named specs need.

    Attributes:
        folder: where the run folders lie.
        specs: in the order named.
        runs: by id, in the order of the cells that need them.
        cells: of all specs, row by row.
    """

    folder: Path
    specs: tuple[Spec, ...]
    runs: dict[str, PlannedRun] = field(default_factory=dict)
    cells: tuple[PlannedCell, ...] = ()


def planned_state(folder: Path) -> str:
    """Return the state of the run in ``folder``, one of :data:`STATES`."""
    return read_state(folder) if (folder / "status.json").exists() else "missing"


def make_plan(specs: Sequence[Spec], folder: Path) -> Plan:
    """Compose every run of ``specs`` and read its state in ``folder``.

    Raises:
        UserError: a setting that does not exist or contradicts another one, with the file and line; two runs of a cell that are
            the same run; two different specs of one name.
    """
    # Torch comes with the methods that are composed; whoever only reads a plan's types does without.
    from repro.identity import run_id, scientific_fields
    from sweeps.composer import Composer

    _check_names(specs)
    expanded = [(spec, cell) for spec in specs for cell in expand(spec)]
    configs = iter(Composer().compose_all([(cell, variant) for _, cell in expanded for variant in cell.variants]))
    found: dict[str, dict[str, Any]] = {}
    cells = []
    for spec, cell in expanded:
        ids: dict[str, dict[str, Value]] = {}
        for variant in cell.variants:
            config = next(configs)
            name = run_id(config)
            if name in ids:
                raise cell.place.error(
                    f"in row '{cell.row}', column '{cell.column}': {ids[name]} and {variant.repeat_values} are the same run ({name}); "
                    "what is repeated must be part of a run's identity."
                )
            ids[name] = variant.repeat_values
            known = found.setdefault(
                name,
                {
                    "overrides": variant.overrides,
                    "fields": scientific_fields(config),
                    "specs": {},
                    "place": _place(spec.name, cell.row, cell.column, variant.repeat_values),
                },
            )
            known["specs"][spec.name] = None
        cells.append(PlannedCell(spec.name, cell.row, cell.column, tuple(ids), tuple(ids.values()), cell.skip))
    runs = {
        name: PlannedRun(
            run_id=name,
            overrides=known["overrides"],
            fields=known["fields"],
            state=planned_state(folder / name),
            inputs=(),
            specs=tuple(known["specs"]),
            place=known["place"],
        )
        for name, known in found.items()
    }
    return Plan(folder=folder, specs=tuple(specs), runs=runs, cells=tuple(cells))


def _check_names(specs: Sequence[Spec]) -> None:
    seen: dict[str, Path] = {}
    for spec in specs:
        if spec.name in seen:
            raise UserError(
                f"{spec.name} is named twice: {seen[spec.name]} and {spec.path}. Plans and tables go by the name; rename one file."
            )
        seen[spec.name] = spec.path


def _place(spec: str, row: str, column: str, repeat: dict[str, Value]) -> str:
    parts = [row, column, *(f"{key}={value}" for key, value in repeat.items())]
    return f"{spec}: {', '.join(part for part in parts if part)}"


def totals(plan: Plan) -> dict[str, int]:
    """Return the number of cells, of runs, of runs that several of the specs share, and of runs in each state."""
    states = Counter(run.state for run in plan.runs.values())
    return {
        "cells": len(plan.cells),
        "runs": len(plan.runs),
        "shared": sum(len(run.specs) > 1 for run in plan.runs.values()),
        **{state: states[state] for state in STATES},
    }


def plan_document(plan: Plan) -> dict[str, Any]:
    """Return the plan as ``python -m sweeps plan --json`` prints it."""
    return {
        "runs": [
            {
                "run_id": run.run_id,
                "config": run.fields,
                "overrides": list(run.overrides),
                "inputs": list(run.inputs),
                "state": run.state,
                "specs": list(run.specs),
            }
            for run in plan.runs.values()
        ],
        "cells": [{"spec": cell.spec, "row": cell.row, "column": cell.column, "runs": list(cell.run_ids)} for cell in plan.cells],
        "totals": totals(plan),
    }


def write_plans(plan: Plan) -> list[Path]:
    """Write for each spec which runs its cells consist of, as ``<runs>/plans/<spec>.json``, and return the files.

    The analysis reads the runs that stand there and no others, whatever else lies in the folder.

    Raises:
        UserError: the folder cannot be written.
    """
    folder = plan.folder / "plans"
    paths = []
    for spec in plan.specs:
        cells = [
            {
                "row": cell.row,
                "column": cell.column,
                "skip": cell.skip,
                "runs": [{"run_id": name, "repeat": _listed(repeat)} for name, repeat in zip(cell.run_ids, cell.repeats, strict=True)],
            }
            for cell in plan.cells
            if cell.spec == spec.name
        ]
        path = folder / f"{spec.name}.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(path, {"schema": SCHEMA, "spec": spec.name, "spec_sha256": spec.sha256, "cells": cells})
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}. Set --runs or $REPRO_RUNS to a folder you can write.") from error
        paths.append(path)
    return paths


def _listed(repeat: dict[str, Value]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in repeat.items()}
