"""Which runs the specs need, and how far they are: cells -> the graph of runs -> run ids -> states."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro.errors import UserError, did_you_mean
from repro.files import write_json
from repro.runs.state import STATES, read_state
from sweeps.spec.data import Value
from sweeps.spec.expansion import Cell
from sweeps.spec.load import PAPER, Scale, Spec, expand

if TYPE_CHECKING:
    from sweeps.plan.graph import Graph

#: Raised when the layout of a plan file changes.
SCHEMA = 1


@dataclass(frozen=True)
class PlannedRun:
    """One run that at least one cell needs, by itself or through runs that read it.

    Attributes:
        run_id: its identity and the name of its folder.
        overrides: the command line that trains it.
        fields: every setting of its identity, flat.
        state: one of :data:`repro.runs.state.STATES`, when the plan was made; ``missing`` until the run folders are looked at.
        inputs: ids of the runs whose results it reads, labels before the teacher.
        specs: names of the specs that need it.
        place: what needs it first, for messages: ``demo: One-hot, 40%, seed=0``.
        stage: 0 for a run without inputs, else one above the largest of its inputs.
        changed: the files and inputs in which the code of what its folder holds differs from the present one.
        unknown_code: it has results and does not say which code made them.
    """

    run_id: str
    overrides: tuple[str, ...]
    fields: dict[str, Any]
    state: str
    inputs: tuple[str, ...]
    specs: tuple[str, ...]
    place: str
    stage: int = 0
    changed: tuple[str, ...] = ()
    unknown_code: bool = False

    @property
    def epochs(self) -> int:
        """Number of epochs it trains."""
        return int(self.fields["optim.epochs"])


@dataclass(frozen=True)
class Plan:
    """Everything that the named specs need.

    Attributes:
        folder: where the run folders lie.
        specs: in the order named.
        runs: by id, in the order of the cells that need them, inputs before their readers.
        cells: of all specs, row by row.
        untuned: the tunings that have not been done, each for a dataset and a model; their values are those of ``otherwise``.
        scale: that of all specs.
    """

    folder: Path
    specs: tuple[Spec, ...]
    runs: dict[str, PlannedRun] = field(default_factory=dict)
    cells: tuple[Cell, ...] = ()
    untuned: tuple[str, ...] = ()
    scale: Scale = PAPER

    @cached_property
    def spared(self) -> frozenset[str]:
        """The runs that are not done and need not be: no cell shows them, and every run that reads them is done or spared itself."""
        readers: defaultdict[str, list[str]] = defaultdict(list)
        for run in self.runs.values():
            for name in run.inputs:
                readers[name].append(run.run_id)
        shown = {name for cell in self.cells for name in cell.run_ids}
        over = {name for name, run in self.runs.items() if run.state == "done"}
        spared: set[str] = set()
        # Readers stand behind what they read.
        for name in reversed(self.runs):
            if name not in over and name not in shown and readers[name] and all(reader in over | spared for reader in readers[name]):
                spared.add(name)
        return frozenset(spared)


def planned_state(folder: Path) -> str:
    """Return the state of the run in ``folder``, one of :data:`repro.runs.state.STATES`."""
    return read_state(folder) if (folder / "status.json").exists() else "missing"


def make_plan(specs: Sequence[Spec], folder: Path) -> Plan:
    """Compose every run of ``specs`` and all that these read, and read their states in ``folder``.

    Raises:
        UserError: a setting that does not exist or contradicts another one, with the file and line; inputs that a method does not
            read; two runs of a cell that are the same run; two different specs of one name, or specs of different scales; a part of a
            spec that means nothing (:mod:`sweeps.plan.checks`).
    """
    # Torch comes with the methods that are composed; whoever only reads a plan's types does without.
    from sweeps.plan.checks import check_meaning
    from sweeps.plan.graph import Graph

    _check_specs(specs)
    expanded = [(spec, cell) for spec in specs for cell in expand(spec)]
    graph = Graph()
    graph.compose((cell, variant) for _, cell in expanded for variant in cell.composed)
    cells = tuple(_planned(graph, spec, cell) for spec, cell in expanded)
    for spec in specs:
        check_meaning(spec, [cell for cell in cells if cell.spec == spec.name], graph)
    return Plan(
        folder=folder,
        specs=tuple(specs),
        runs=planned_runs(graph.runs.values(), folder),
        cells=cells,
        untuned=tuple(dict.fromkeys(name for cell in cells for name in cell.untuned)),
        scale=specs[0].scale if specs else PAPER,
    )


def planned_runs(runs: Iterable[PlannedRun], folder: Path) -> dict[str, PlannedRun]:
    """Return the runs of a graph, inputs before their readers, by id, with their states in ``folder`` and changes of their code."""
    from repro.runs.recorded import differences, has_results, run_code

    found: dict[str, PlannedRun] = {}
    for run in runs:
        path = folder / run.run_id
        state = planned_state(path)
        differs: tuple[str, ...] | None = ()
        read: list[str] = []
        if has_results(path):
            differs = differences(path, run_code(run.fields, folder, inputs=run.inputs))
            # Whatever is done about an input is to be done about what has read it.
            read = [text for name in run.inputs if found[name].changed and (text := f"input {name}") not in (differs or ())]
        changed = (*(differs or ()), *read)
        if changed and state not in ("running", "failed"):
            state = "changed"
        found[run.run_id] = dataclasses.replace(run, state=state, changed=changed, unknown_code=differs is None)
    return found


def _planned(graph: Graph, spec: Spec, cell: Cell) -> Cell:
    ids: dict[str, dict[str, Value]] = {}
    for variant in cell.variants:
        place = ", ".join(filter(None, (cell.row, cell.column, *(f"{key}={value}" for key, value in variant.repeat_values.items()))))
        run_id = graph.add(cell, variant, spec=spec.name, place=place)
        if run_id in ids:
            raise cell.place.error(
                f"in {cell.title}: {ids[run_id]} and {variant.repeat_values} are the same run ({run_id}); "
                "what is repeated must be part of a run's identity."
            )
        ids[run_id] = variant.repeat_values
    return dataclasses.replace(cell, spec=spec.name, run_ids=tuple(ids), value=_recipe_value(graph, cell))


def _recipe_value(graph: Graph, cell: Cell) -> object | None:
    if cell.recipe is None or cell.setting is None:
        return None
    section, _, name = cell.setting.rpartition(".")
    config = graph.config(cell.recipe)
    owner = getattr(config, section) if section in vars(config) else None
    known = vars(owner) if dataclasses.is_dataclass(owner) else {}
    if name not in known:
        near = did_you_mean(cell.setting, graph.fields(cell.recipe))
        raise cell.place.error(f"in {cell.title}: there is no setting '{cell.setting}' here.{near}")
    value: object = known[name]
    return value


def _check_specs(specs: Sequence[Spec]) -> None:
    seen: dict[str, Path] = {}
    for spec in specs:
        if spec.scale != specs[0].scale:
            raise UserError(
                f"{specs[0].name} and {spec.name} are of the scales {specs[0].scale.title} and {spec.scale.title}; plan them apart."
            )
        if spec.name in seen:
            raise UserError(
                f"{spec.name} is named twice: {seen[spec.name]} and {spec.path}. Plans and tables go by the name; rename one file."
            )
        seen[spec.name] = spec.path


def totals(plan: Plan) -> dict[str, int]:
    """Return the number of cells, of runs, of runs that several of the specs share, and of runs in each state."""
    states = Counter(run.state for run in plan.runs.values())
    return {
        "cells": len(plan.cells),
        "runs": len(plan.runs),
        "shared": sum(len(run.specs) > 1 for run in plan.runs.values()),
        **{state: states[state] for state in STATES if state not in ("starting", "cancelled")},
    }


def plan_document(plan: Plan) -> dict[str, Any]:
    """Return the plan as ``python -m sweeps plan --json`` prints it."""
    return {
        "runs": [
            {"config": run.fields, "stage": run.stage, "state": run.state, "run_id": run.run_id}
            | {name: list(getattr(run, name)) for name in ("overrides", "inputs", "specs")}
            | ({"changed": list(run.changed)} if run.changed else {})
            for run in plan.runs.values()
        ],
        "cells": [
            {"runs": list(cell.run_ids), **{name: getattr(cell, name) for name in ("spec", "row", "column", "value")}}
            for cell in plan.cells
        ],
        "totals": totals(plan),
        "scale": plan.scale.title,
    }


def write_plans(plan: Plan) -> list[Path]:
    """Write for each spec which runs its cells consist of, and return the files.

    They are ``<runs>/plans/<spec>.json``, at another scale than the paper's ``<runs>/plans/<scale title>/<spec>.json``. The analysis reads
    the runs that stand there and no others, whatever else lies in the folder.

    Raises:
        UserError: the folder cannot be written.
    """
    from sweeps.spec.load import known_specs

    folder = plan.folder / "plans" if plan.scale == PAPER else plan.folder / "plans" / plan.scale.title
    paths = []
    for spec in plan.specs:
        path = folder / f"{spec.name}.json"
        document = {
            "schema": SCHEMA,
            "spec": spec.name,
            "spec_sha256": spec.sha256,
            # A spec that does not come with the suite could not be found by its name.
            **({} if known_specs().get(spec.name) == spec.path else {"spec_file": str(spec.path)}),
            "cells": [_cell_document(cell) for cell in plan.cells if cell.spec == spec.name],
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(path, document)
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}. Set --runs or $REPRO_RUNS to a folder you can write.") from error
        paths.append(path)
    return paths


def _cell_document(cell: Cell) -> dict[str, Any]:
    """Return a cell of a plan file; what most cells do not have is left out where it is absent."""
    seldom = {
        "value": cell.value,
        "epoch": None if cell.epoch is None else str(cell.epoch),
        "untuned": list(cell.untuned) or None,
        "at_end": list(cell.at_end) or None,
    }
    return {
        "row": cell.row,
        "column": cell.column,
        "skip": cell.skip,
        "runs": [{"run_id": name, "repeat": repeat} for name, repeat in zip(cell.run_ids, cell.repeats, strict=True)],
        **{key: value for key, value in seldom.items() if value is not None},
    }
