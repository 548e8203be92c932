"""Which runs the specs need, and how far they are: cells -> runs with their ids, inputs and stages -> states."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_type_hints

from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from repro.config import registry
from repro.config.compose import compose, known_settings, register_with_hydra, to_config
from repro.config.identity import run_id, scientific_fields
from repro.config.schema import Config
from repro.errors import UserError, did_you_mean
from repro.files import write_json
from repro.runs.code import differs
from repro.runs.inputs import check_inputs
from repro.runs.state import read_state
from sweeps.expand import Cell, Variant, digest, expand
from sweeps.scales import PAPER, Scale
from sweeps.spec import Settings, Spec, known_specs
from sweeps.yaml_files import SpecError, look_up, mistakes_of, shown

#: Raised when the layout of a plan file changes.
SCHEMA = 1

#: The settings without a dot that are choices of Hydra's.
_CHOICES = frozenset(name for name, kind in get_type_hints(Config).items() if dataclasses.is_dataclass(kind))

#: What is composed in place of a choice that brings nothing along: composing takes longest, and then the choice is put in its place.
_PLAIN = {"method": "one_hot", "noise": "none", "dataset": "cifar10"}


@dataclass(frozen=True)
class PlannedRun:
    """One run that at least one cell needs, by itself or through runs that read it.

    Attributes:
        overrides: the command line that trains it.
        fields: every setting of its identity, flat.
        inputs: ids of the runs whose results it reads, labels before the teacher.
        stage: 0 for a run without inputs, else one above the largest of its inputs.
        state: one of :data:`repro.runs.state.STATES`; ``missing`` without a folder, ``changed`` where it would be done but ``changed``.
        place: what needs it first, for messages: ``demo: One-hot, 40%, seed=0``.
        specs: names of the specs that need it.
        changed: whether a different version of the code made what its folder holds.
    """

    run_id: str
    overrides: tuple[str, ...]
    fields: dict[str, Any]
    inputs: tuple[str, ...]
    stage: int
    state: str
    place: str
    specs: tuple[str, ...] = ()
    changed: bool = False


@dataclass(frozen=True)
class Plan:
    """Everything that the named specs need at a scale.

    Attributes:
        folder: where the run folders lie.
        runs: by id, in the order of the cells that need them, inputs before their readers.
        cells: of all specs, row by row.
    """

    folder: Path
    specs: tuple[Spec, ...]
    scale: Scale
    runs: dict[str, PlannedRun]
    cells: list[Cell]

    @cached_property
    def spared(self) -> frozenset[str]:
        """The runs that are not done and need not be: no cell shows them, and every run that reads them is done or spared itself."""
        read = {name for run in self.runs.values() for name in run.inputs}
        needed = {name for cell in self.cells for name in cell.run_ids} | (self.runs.keys() - read)
        # Readers come after what they read.
        for name, run in reversed(self.runs.items()):
            if name in needed and run.state != "done":
                needed.update(run.inputs)
        return frozenset(name for name, run in self.runs.items() if name not in needed and run.state != "done")

    @property
    def untuned(self) -> list[str]:
        """The tunings that have not been done, each for a dataset and a model; their values are those of ``otherwise``."""
        return list(dict.fromkeys(name for cell in self.cells for name in cell.untuned))

    def with_inputs(self, names: Iterable[str]) -> dict[str, PlannedRun]:
        """Return the runs called ``names`` in that order, each after all that it reads."""
        found: dict[str, PlannedRun] = {}
        for name in names:
            if name not in found:
                found |= self.with_inputs(self.runs[name].inputs)
                found[name] = self.runs[name]
        return found

    def part(self, cells: Sequence[Cell], first: Iterable[str] = ()) -> Plan:
        """Return the plan of ``cells`` alone; of its runs those called ``first`` come first."""
        names = [name for cell in cells for name in cell.run_ids]
        return replace(self, runs=self.with_inputs([*first, *names]), cells=list(cells))


def planned_state(folder: Path) -> str:
    """Return the state of the run in ``folder``, one of :data:`repro.runs.state.STATES`."""
    return read_state(folder) if (folder / "status.json").exists() else "missing"


def override(key: str, value: Any) -> str:
    """Return a setting in the notation of Hydra's command line, which takes values as JSON has them: ``key=value``."""
    return f"{key}={json.dumps(value, separators=(',', ':'), ensure_ascii=False)}"


def overrides_of(settings: Settings) -> tuple[str, ...]:
    """Return the command line of ``settings``: choices before dotted names, each sorted."""
    return tuple(override(key, settings[key]) for key in sorted(settings, key=lambda key: ("." in key, key)))


def make_plan(specs: Sequence[Spec], scale: Scale, folder: Path) -> Plan:
    """Compose every run of ``specs`` at ``scale`` and all that these read, and read their states in ``folder``.

    Raises:
        UserError: as :func:`sweeps.expand.expand`; a setting that does not exist or contradicts another one; inputs that a method does
            not read; two runs of a cell that are the same run; two specs of one name.
    """
    paths = {spec.name: spec.path for spec in specs}
    for spec in specs:
        if spec.path != paths[spec.name]:
            raise UserError(f"{spec.path} and {paths[spec.name]} have one name, by which plans and tables go. Rename one file.")
    with mistakes_of(scale.path, "rules: "):
        _check_rules(scale)
    graph = Graph(folder)
    cells = [graph.planned(spec, cell) for spec in specs for cell in expand(spec, scale)]
    plan = Plan(folder, tuple(specs), scale, graph.runs, cells)
    needed = {spec: plan.part([cell for cell in cells if cell.spec == spec]).runs for spec in paths}
    runs = {name: replace(run, specs=tuple(spec for spec in needed if name in needed[spec])) for name, run in graph.runs.items()}
    return replace(plan, runs=runs)


def _check_rules(scale: Scale) -> None:
    """Check the names in rules that select: one that is misspelt never applies, and the runs would be others without a word."""
    known = known_settings()
    for rule in scale.rules:
        for key, value in (rule.where | dict.fromkeys(rule.drop)).items():
            if key not in known:
                raise ValueError(f"there is no setting '{key}'.{did_you_mean(key, known)}")
            if key in registry.GROUPS and value is not None:
                registry.get(key, value)


class Graph:
    """Runs by id, inputs before their readers. Each set of choices is composed once, and so is a run, however many others read it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs: dict[str, PlannedRun] = {}
        self._ids: dict[Variant, str] = {}
        self._configs: dict[tuple[str, ...], Config] = {}
        self._trees: dict[tuple[str, ...], DictConfig] = {}
        register_with_hydra()

    def planned(self, spec: Spec, cell: Cell) -> Cell:
        """Return ``cell`` with its run ids, or with the value that a recipe's cell shows.

        Raises:
            SpecError: as :func:`make_plan`.
        """
        title = ", ".join(filter(None, (cell.row, cell.column)))
        if spec.kind == "recipe":
            with mistakes_of(spec.path, f"{title}: "):
                fields = [scientific_fields(self._compose(variant.settings)) for variant in cell.variants]
                value = [look_up(cell.setting or "", one, "there is no setting") for one in fields]
            return replace(cell, spec=spec.name, value=next(iter(value), None))
        ids: list[str] = []
        for variant in cell.variants:
            place = ", ".join([title, *(f"{key}={value}" for key, value in variant.repeat.items())])
            ids.append(self.add(spec, variant, place))
            if ids.count(ids[-1]) > 1:
                raise SpecError(f"{shown(spec.path)}: {place}: this run is in the cell already; a repeat must change what a run is.")
        return replace(cell, spec=spec.name, run_ids=ids)

    def add(self, spec: Spec, variant: Variant, place: str) -> str:
        """Return the id of the run of ``variant``, which ``place`` of ``spec`` needs; it and all that it reads are in :attr:`runs` then.

        Raises:
            SpecError: a setting is wrong, or its inputs are not those that its method reads.
        """
        if variant in self._ids:
            return self._ids[variant]
        read = {role: [self.add(spec, one, place) for one in variants] for role, variants in variant.inputs.items()}
        settings = variant.settings | {f"inputs.{role}": ids if role == "labels" else ids[0] for role, ids in read.items()}
        what = f"{variant.name} (for {place})" if variant.name else place
        with mistakes_of(spec.path, f"{what}: "):
            config = self._compose(settings)
            check_inputs(config)
        name = self._ids[variant] = run_id(config)
        if name not in self.runs:
            before = tuple(one for ids in read.values() for one in ids)
            state = planned_state(self.folder / name)
            changed = state != "missing" and differs(self.folder / name)
            self.runs[name] = PlannedRun(
                run_id=name,
                overrides=overrides_of(settings),
                fields=scientific_fields(config),
                inputs=before,
                stage=1 + max((self.runs[one].stage for one in before), default=-1),
                state="changed" if changed and state not in ("running", "failed") else state,
                place=f"{spec.name}: {what}",
                changed=changed,
            )
        return name

    def _compose(self, settings: Settings) -> Config:
        seed = settings.get("seed")
        if type(seed) is int and seed > 0:
            # Composing takes longest, and a seed decides nothing else.
            return replace(self._compose(settings | {"seed": 0}), seed=seed)
        overrides = overrides_of(settings)
        if overrides not in self._configs:
            try:
                named = [registry.get(group, settings[group]) for group in _PLAIN if group in settings]
                plain = {choice.group: choice for choice in named if not choice.values and choice.overrides.keys() <= settings.keys()}
                choices = {key: settings[key] for key in settings.keys() & _CHOICES} | {key: _PLAIN[key] for key in plain}
                tree = copy.deepcopy(self._chosen(overrides_of(choices)))
                for key, choice in plain.items():
                    tree[key] = choice.config(name=choice.name)
                for key in settings.keys() - _CHOICES:
                    OmegaConf.update(tree, key, settings[key])
                self._configs[overrides] = to_config(tree)
            except (HydraException, OmegaConfBaseException):
                # What a single run is composed with says what is wrong, with the nearest name.
                self._configs[overrides] = compose(overrides)
        return self._configs[overrides]

    def _chosen(self, choices: tuple[str, ...]) -> DictConfig:
        if choices not in self._trees:
            with initialize_config_module("repro.conf", version_base="1.3"):
                self._trees[choices] = hydra_compose("train", list(choices))
        return self._trees[choices]


def with_evidence(plan: Plan, evidence: Path) -> Plan:
    """Return ``plan`` with those runs done that have no folder here and stand in the ``evidence`` of their scale.

    So a new machine trains only what is missing, and what is read by it.

    Raises:
        UserError: there is no such evidence.
    """
    try:
        known = {json.loads(line)["run_id"] for line in (evidence / "runs.jsonl").read_bytes().splitlines()}
    except OSError as error:
        raise UserError(f"--evidence {error.filename}: {error.strerror}. Name a folder such as paper_tables/evidence/small.") from error
    runs = dict(plan.runs)
    # Readers come after what they read.
    for name, run in reversed(plan.runs.items()):
        if run.state == "missing" and name in known:
            runs[name] = replace(run, state="done")
        elif run.state != "done":
            known -= {*run.inputs}
    return replace(plan, runs=runs)


def plan_document(plan: Plan) -> dict[str, Any]:
    """Return the plan as ``python -m sweeps plan --json`` prints it."""
    runs = [vars(run) for run in plan.runs.values()]
    cells = [{"spec": cell.spec, "row": cell.row, "column": cell.column, "runs": cell.run_ids, "value": cell.value} for cell in plan.cells]
    return {"scale": plan.scale.name, "runs": runs, "cells": cells}


def plan_path(folder: Path, spec: str, scale: str) -> Path:
    """Return the plan file of a spec in the runs folder ``folder``: ``plans/[<scale>/]<spec>.json``, without the paper's own scale."""
    return folder / "plans" / ("" if scale == PAPER else scale) / f"{spec}.json"


def write_plans(plan: Plan) -> list[Path]:
    """Write for each spec which runs its cells consist of, and return the files.

    The analysis reads the runs that stand there and no others, whatever else lies in the folder.

    Raises:
        UserError: the folder cannot be written.
    """
    paths = []
    for spec in plan.specs:
        path = plan_path(plan.folder, spec.name, plan.scale.name)
        cells = [cell for cell in plan.cells if cell.spec == spec.name]
        document = {
            "schema": SCHEMA,
            "spec": spec.name,
            "scale": plan.scale.name,
            "spec_sha256": digest(cells),
            # A spec that does not come with the suite could not be found by its name.
            **({} if known_specs().get(spec.name) == spec.path else {"spec_file": str(spec.path)}),
            "cells": [_cell_document(cell) for cell in cells],
        }
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, document)
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}. Set --runs or $REPRO_RUNS to a folder you can write.") from error
        paths.append(path)
    return paths


def _cell_document(cell: Cell) -> dict[str, Any]:
    """Return a cell of a plan file; what most cells do not have is left out where it is absent."""
    seldom = {"value": cell.value, "epoch": cell.epoch, "untuned": cell.untuned or None, "at_end": cell.at_end or None}
    return {
        "row": cell.row,
        "column": cell.column,
        "skip": cell.skip,
        "runs": [{"run_id": name, "repeat": run.repeat} for name, run in zip(cell.run_ids, cell.variants, strict=False)],
        **{key: value for key, value in seldom.items() if value is not None},
    }
