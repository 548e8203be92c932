"""Runs with a name, which rows use and others read, and tunings: what a spec and the file it shares say, and who needs whom."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from repro.errors import did_you_mean, one_of
from sweeps.spec.data import Map, Place, SpecError, Text, shortened
from sweeps.spec.loader import existing, load, named_file, read_file
from sweeps.spec.models import Model, Names, Placed, keys, line, text, validate
from sweeps.spec.scale import Grid, Scale
from sweeps.spec.settings import Combinations, Setting, SettingList, in_order, join

_SHARED_FOLDER = Path(__file__).resolve().parents[1] / "shared"
#: What a run can read of others: label trajectories of one or more, the model of one.
ROLES = ("labels", "teacher")
#: What can be said of a run in more than one place.
PART = ("set", "use", "inputs", "tuned")
#: So many runs may read one another in a row.
_LONGEST = 40

_Named = TypeVar("_Named", "Run", "Tuning")


class Input(Model):
    """Which runs a run reads: of a named run, with ``settings`` on top of its own, those of its ``each`` that have the values ``where``."""

    run: Placed = Field(alias="from")
    settings: SettingList = Field(default=(), alias="set")
    where: SettingList = ()

    @cached_property
    def key(self) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
        """What two references to the same runs have in common."""
        return self.run, in_order(self.settings), in_order(self.where)


def _reference(value: object) -> object:
    if isinstance(value, Map | list):
        return value
    made = Map("inputs", text(value).place)
    made["from"], made.at["from"] = value, made.place
    return made


Inputs = Annotated[dict[str, Annotated[Input, BeforeValidator(_reference)]], keys(ROLES)]


class Part(Model):
    """What a row, a column, some cells, a named run or a tuning say of a run; ``tuned`` are names of tunings."""

    settings: SettingList = Field(default=(), alias="set")
    inputs: Inputs = Field(default={})
    tuned: Names = ()

    @property
    def said(self) -> dict[str, Any]:
        """What it says, by field."""
        return {"settings": self.settings, "inputs": self.inputs, "tuned": self.tuned}

    @property
    def named(self) -> dict[tuple[str, str], Place]:
        """The kind and name of what it reads or is tuned by, and where it says so."""
        named = {("run", str(ref.run)): ref.place for ref in self.inputs.values()}
        return named | {("tuning", str(name)): name.place for name in self.tuned}


class Run(Part):
    """A run with a name; ``each`` holds every combination of values that makes one run of it."""

    hidden: ClassVar[tuple[str, ...]] = ("name",)

    name: str = ""
    each: Combinations = ((),)

    @model_validator(mode="after")
    def _set_once(self) -> Self:
        join([("set", self.settings), ("each", self.each[0])])
        return self

    def selected(self, where: tuple[Setting, ...]) -> tuple[tuple[Setting, ...], ...]:
        """Return those combinations of ``each`` that have the values ``where``."""
        wanted = {setting.override for setting in where}
        return tuple(chosen for chosen in self.each if wanted <= {setting.override for setting in chosen})


class Tuning(Part, Grid):
    """A grid of settings, of which the best on the validation set is chosen; ``otherwise`` holds until the tuning has been done."""

    hidden: ClassVar[tuple[str, ...]] = ("name", "tuned")

    name: str = ""

    @model_validator(mode="after")
    def _set_once(self) -> Self:
        join([("set", self.settings), ("grid", [axis[0] for axis in self.axes])])
        return self


def _with_names(found: dict[str, _Named]) -> dict[str, _Named]:
    return {name: item.model_copy(update={"name": name}) for name, item in found.items()}


Runs = Annotated[dict[str, Run], AfterValidator(_with_names)]
Tunings = Annotated[dict[str, Tuning], AfterValidator(_with_names)]


class Shared(Model):
    """Runs and tunings that several specs know; ``sha256`` is that of the file."""

    hidden: ClassVar[tuple[str, ...]] = ("sha256",)

    runs: Runs = Field(default={})
    tunings: Tunings = Field(default={}, alias="tuning")
    sha256: str = ""


def read_shared(value: object) -> Shared:
    """Return the shared file that a spec names: a name, or a path ending in ``.yaml`` relative to the spec.

    Raises:
        SpecError: there is none, or it has a mistake.
    """
    name = line(value)
    known = {item.stem: item for item in sorted(_SHARED_FOLDER.glob("*.yaml"))}
    try:
        beside = name.endswith((".yaml", ".yml"))
        file = existing(str(name.place.path.parent / name)) if beside else named_file(name, known, "shared file")
        content = read_file(file)
    except SpecError as error:
        raise name.place.error(f"shared: {error}") from error
    return validate(Shared, load(file, content)).model_copy(update={"sha256": hashlib.sha256(content).hexdigest()})


def merge(parts: Iterable[tuple[str, Part]]) -> Part:
    """Return what several parts, each with its name, say together.

    Raises:
        SpecError: a setting or an input is given by two of them.
    """
    parts = list(parts)
    inputs: dict[str, tuple[str, Input]] = {}
    for what, part in parts:
        for role, ref in part.inputs.items():
            if role in inputs:
                other, before = inputs[role]
                raise ref.place.error(f"inputs.{role} is set by {what} and by {other} ({before.place}). Set it in one place.")
            inputs[role] = (what, ref)
    return Part.model_construct(
        settings=tuple(join((what, part.settings) for what, part in parts).values()),
        inputs={role: ref for role, (_, ref) in inputs.items()},
        tuned=tuple(dict.fromkeys(name for _, part in parts for name in part.tuned)),
    )


class Known:
    """The runs and tunings that a spec knows, its own and those it shares; ``used`` are those that its rows, columns and cells name."""

    def __init__(self, own: Shared, shared: Shared | None, scale: Scale) -> None:
        self.runs: dict[str, Run] = dict(shared.runs) if shared else {}
        self.tunings: dict[str, Tuning] = dict(shared.tunings) if shared else {}
        self.used: set[tuple[str, str]] = set()
        if shared:
            file = shared.place.path.stem
            for name, grid in scale.grids.get(file, {}).items():
                self.tunings[name] = _with_grid(known(name, self.tunings, grid.place, f"tuning.{file}", "tuning"), grid)
        _add("runs", own.runs, self.runs)
        _add("tuning", own.tunings, self.tunings)
        for owner in (*self.runs.values(), *self.tunings.values()):
            self._check_names(owner)
        self._check_order()

    def part(self, own: Part, use: Text | None, what: str) -> dict[str, Any]:
        """Return what ``own`` says together with the run that it uses, by field; ``what`` is what it stands in.

        Raises:
            SpecError: a name does not exist; a setting or an input is given twice; a used run is several.
        """
        self._check_names(own)
        self.used.update(own.named)
        found = own
        if use is not None:
            run = known(use, self.runs, use.place, f"{own.node.below('use') if own.node else 'use'}", "run")
            if run.each != ((),):
                raise use.place.error(f"use: '{run.name}' is {len(run.each)} runs ({run.place} has each); a cell needs one.")
            self.used.add(("run", run.name))
            found = merge([(f"run '{run.name}'", run), (what, own)])
        return found.said

    def check_used(self, own: Shared, shared: Text | None) -> None:
        """Check that what a spec names is used, also through others, and something of what it shares.

        Raises:
            SpecError: one is not; it would mean nothing.
        """
        reached = list(self.used)
        for node in reached:
            reached += [item for item in self._owner(node).named if item not in reached]
        named = [("run", item) for item in own.runs.values()] + [("tuning", item) for item in own.tunings.values()]
        for kind, item in named:
            if (kind, item.name) not in reached:
                where = "runs" if kind == "run" else "tuning"
                said = f"no row, column or cell uses this {kind}, also not through others. Take it out."
                raise item.place.error(f"{where}.{item.name}: {said}")
        if shared is not None and not set(reached) - {(kind, item.name) for kind, item in named}:
            raise shared.place.error("shared: nothing of it is used. Take it out.")

    def _owner(self, node: tuple[str, str]) -> Run | Tuning:
        kind, name = node
        return self.runs[name] if kind == "run" else self.tunings[name]

    def _check_names(self, part: Part) -> None:
        """Check that what ``part`` reads and is tuned by exists, and that its inputs are as many as their role reads."""
        for name in part.tuned:
            known(name, self.tunings, name.place, "tuned", "tuning")
        for role, ref in part.inputs.items():
            run = known(ref.run, self.runs, ref.place, f"inputs.{role}", "run")
            names = [setting.key for setting in run.each[0]]
            for setting in ref.where:
                if setting.key not in names:
                    near, has = did_you_mean(setting.key, names), ", ".join(names) or "no each"
                    raise setting.place.error(f"where: run '{run.name}' has no each over {setting.key}.{near} It has: {has}.")
            matches = run.selected(ref.where)
            if not matches:
                raise ref.place.error(f"inputs.{role}: no run of '{run.name}' matches. There are: {_combinations(run.each)}.")
            if role == "teacher" and len(matches) > 1:
                listed = f"{len(matches)} of '{run.name}' match: {_combinations(matches)}"
                raise ref.place.error(f"inputs.teacher: one run is needed, {listed}. Add where to choose one.")

    def _check_order(self) -> None:
        """Refuse runs and tunings that need themselves, or others through more than :data:`_LONGEST` steps."""
        needed = {("run", name): run.named for name, run in self.runs.items()}
        needed |= {("tuning", name): tuning.named for name, tuning in self.tunings.items()}
        depths: dict[tuple[str, str], int] = {}
        try:
            for node in TopologicalSorter(needed).static_order():
                depths[node] = 1 + max((depths[item] for item in needed[node]), default=0)
                if depths[node] > _LONGEST:
                    said = f"reads runs that read runs, and so on, more than {_LONGEST} deep. Shorten the chain."
                    raise self._owner(node).place.error(f"{node[0]} '{node[1]}' {said}")
        except CycleError as error:
            nodes = error.args[1][::-1]
            cycle = " -> ".join(f"{kind} '{name}'" for kind, name in nodes)
            place = self._owner(nodes[-2]).named[nodes[-1]]
            raise place.error(f"a cycle, so none of these can be trained first: {cycle}.") from error


def known(name: str, among: Mapping[str, _Named], place: Place, where: str, kind: str) -> _Named:
    """Return the run or tuning called ``name``.

    Raises:
        SpecError: there is none.
    """
    if name not in among:
        near = did_you_mean(name, among)
        raise place.error(f"{where}: there is no {kind} '{shortened(name)}'.{near} Known: {one_of(among) or 'none'}.")
    return among[name]


def _add(section: str, own: Mapping[str, _Named], found: dict[str, _Named]) -> None:
    for name, item in own.items():
        if name in found:
            raise item.place.error(f"{section}.{name} is given twice, first in {found[name].place}. Give one another name.")
        found[name] = item


def _with_grid(tuning: Tuning, grid: Grid) -> Tuning:
    if set(grid.keys) != set(tuning.keys):
        wanted, has = ", ".join(tuning.keys), ", ".join(grid.keys)
        raise grid.place.error(f"the grid must have the keys of tuning '{tuning.name}' ({tuning.place}), {wanted}; it has {has}.")
    return tuning.model_copy(update={"axes": grid.axes, "otherwise": grid.otherwise})


def _combinations(each: Iterable[tuple[Setting, ...]]) -> str:
    return "; ".join(", ".join(setting.override for setting in chosen) or "one without each" for chosen in each)
