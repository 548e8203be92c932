"""Reads the named runs and tunings of a spec and of the file it shares with others, and checks who needs whom."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from repro.errors import did_you_mean, one_of
from sweeps.epochs import Epoch, read_epoch
from sweeps.nodes import Entry, Place, SpecError, existing, read_file, read_yaml, shortened
from sweeps.parts import ROLES, InputRef, NamedRun, Part, TunedRef, Tuning
from sweeps.scale import Grid, Scale
from sweeps.settings import Setting, combinations, join, read_axes, read_settings

_SHARED_FOLDER = Path(__file__).resolve().parent / "shared"
#: What can be said of a run in more than one place.
PART = ("set", "use", "inputs", "tuned")
#: What can be compared: numbers of the validation set alone.
TUNED_METRICS = ("val/accuracy", "val/loss")
#: Where final.json has it without a look at the test set.
_TUNED_RULES = ("last", "best_val")

#: The keys of a file that name runs and tunings, and what one of them is called.
_SECTIONS = (("runs", "run"), ("tuning", "tuning"))
#: So many runs may read one another in a row.
_LONGEST = 40

_Named = TypeVar("_Named", NamedRun, Tuning)


@dataclass(frozen=True)
class Names:
    """The runs and tunings that a spec knows.

    Attributes:
        sha256: of the shared file, or empty.
        used: the kind and name of those that its rows, columns and cells have named.
    """

    runs: dict[str, NamedRun] = field(default_factory=dict)
    tunings: dict[str, Tuning] = field(default_factory=dict)
    sha256: str = ""
    used: set[tuple[str, str]] = field(default_factory=set)

    @property
    def all(self) -> list[NamedRun | Tuning]:
        """Every run and every tuning."""
        return [*self.runs.values(), *self.tunings.values()]

    def part(self, parts: Mapping[str, Entry], what: str) -> Part:
        """Return what the keys :data:`PART` of ``parts`` say, that of a used run included; ``what`` is what they stand in.

        Raises:
            SpecError: a name does not exist; a setting or an input is given twice; a used run is several.
        """
        own = _part(parts)
        for ref in own.inputs:
            self.check_input(ref)
        for tuned in own.tuned:
            _known(tuned.name, self.tunings, tuned.place, "tuned", "tuning")
        self.used.update(_named_by(own))
        if "use" not in parts:
            return own
        entry = parts["use"]
        run = _known(entry.text(), self.runs, entry.place, entry.name, "run")
        if run.each != ((),):
            raise entry.place.error(f"{entry.name}: '{run.name}' is {len(run.each)} runs ({run.place} has each); a cell needs one.")
        self.used.add(("run", run.name))
        used = Part(run.settings, run.inputs, run.tuned)
        return merge([(f"run '{run.name}'", used), (what, own)])

    def check_used(self, entries: Mapping[str, Entry]) -> None:
        """Check that what a spec with the keys ``entries`` names is used, also through others, and something of what it shares.

        Raises:
            SpecError: one is not; it would mean nothing.
        """
        reached = list(self.used)
        for kind, name in reached:
            owner = self.runs[name] if kind == "run" else self.tunings[name]
            reached += [item for item in _named_by(owner) if item not in reached]
        own = [(kind, name, item) for section, kind in _SECTIONS if section in entries for name, item in entries[section].mapping().items()]
        for kind, name, item in own:
            if (kind, name) not in reached:
                raise item.place.error(f"{item.name}: no row, column or cell uses this {kind}, also not through others. Take it out.")
        if "shared" in entries and not set(reached) - {(kind, name) for kind, name, _ in own}:
            raise entries["shared"].place.error("shared: nothing of it is used. Take it out.")

    def check_input(self, ref: InputRef) -> None:
        """Check that ``ref`` means a run that there is, and as many of it as its role reads.

        Raises:
            SpecError: it does not.
        """
        run = _known(ref.run, self.runs, ref.place, f"inputs.{ref.role}", "run")
        keys = [setting.key for setting in run.each[0]]
        for setting in ref.where:
            if setting.key not in keys:
                raise setting.place.error(
                    f"where: run '{run.name}' has no each over {setting.key}.{did_you_mean(setting.key, keys)} "
                    f"It has: {', '.join(keys) or 'no each'}."
                )
        matches = run.selected(ref.where)
        if not matches:
            raise ref.place.error(f"inputs.{ref.role}: no run of '{run.name}' matches. There are: {_listed(run.each)}.")
        if ref.role == "teacher" and len(matches) > 1:
            raise ref.place.error(
                f"inputs.teacher: one run is needed, {len(matches)} of '{run.name}' match: {_listed(matches)}. Add where to choose one."
            )


def _named_by(owner: Part | NamedRun | Tuning) -> list[tuple[str, str]]:
    """Return the kind and name of what ``owner`` reads or is tuned by."""
    tuned = () if isinstance(owner, Tuning) else owner.tuned
    return [*(("run", ref.run) for ref in owner.inputs), *(("tuning", ref.name) for ref in tuned)]


def merge(parts: Iterable[tuple[str, Part]]) -> Part:
    """Return what several parts, each with its name, say together.

    Raises:
        SpecError: a setting or an input is given by two of them.
    """
    parts = list(parts)
    inputs: dict[str, tuple[str, InputRef]] = {}
    tuned: dict[str, TunedRef] = {}
    for what, part in parts:
        for ref in part.inputs:
            if ref.role in inputs:
                other, before = inputs[ref.role]
                raise ref.place.error(f"inputs.{ref.role} is set by {what} and by {other} ({before.place}). Set it in one place.")
            inputs[ref.role] = (what, ref)
        for name in part.tuned:
            tuned.setdefault(name.name, name)
    settings = join((what, part.settings) for what, part in parts)
    return Part(tuple(settings.values()), tuple(ref for _, ref in inputs.values()), tuple(tuned.values()))


def read_names(entries: Mapping[str, Entry], path: Path, scale: Scale) -> Names:
    """Return the named runs and tunings of a spec with the keys ``entries``, whose file is ``path``, with the grids of ``scale``.

    Raises:
        SpecError: a mistake in them or in the shared file; a name that stands in both; a cycle; a grid of ``scale`` fits no tuning.
    """
    runs: dict[str, NamedRun] = {}
    tunings: dict[str, Tuning] = {}
    sha256 = ""
    if "shared" in entries:
        file, shared, content = _read_shared(entries["shared"], path)
        sha256 = hashlib.sha256(content).hexdigest()
        _add(shared, runs, tunings)
        for name, grid in scale.grids.get(file.stem, {}).items():
            tunings[name] = _with_grid(_known(name, tunings, grid.place, f"tuning.{file.stem}", "tuning"), grid)
    _add(entries, runs, tunings)
    names = Names(runs, tunings, sha256)
    for owner in names.all:
        for ref in owner.inputs:
            names.check_input(ref)
        if isinstance(owner, NamedRun):
            for tuned in owner.tuned:
                _known(tuned.name, tunings, tuned.place, "tuned", "tuning")
    _check_cycles(names)
    return names


def _with_grid(tuning: Tuning, grid: Grid) -> Tuning:
    """Return ``tuning`` with the grid that a scale gives it."""
    _check_grid(grid.axes, grid.otherwise, grid.place)
    keys = tuple(axis[0].key for axis in grid.axes)
    if set(keys) != set(tuning.keys):
        raise grid.place.error(
            f"the grid must have the keys of tuning '{tuning.name}' ({tuning.place}), {', '.join(tuning.keys)}; it has {', '.join(keys)}."
        )
    return replace(tuning, axes=grid.axes, otherwise=grid.otherwise)


def _check_grid(axes: tuple[tuple[Setting, ...], ...], otherwise: tuple[Setting, ...], place: Place) -> None:
    given, wanted = {setting.key for setting in otherwise}, {axis[0].key for axis in axes}
    if given != wanted:
        keys, found = ", ".join(sorted(wanted)), ", ".join(sorted(given)) or "none"
        raise place.error(f"otherwise must have the keys of grid, {keys}; it has {found}.")


def _read_shared(entry: Entry, path: Path) -> tuple[Path, Mapping[str, Entry], bytes]:
    name = entry.line()
    if name.endswith((".yaml", ".yml")):
        try:
            file = existing(str(path.parent / name))
        except SpecError as error:
            raise entry.place.error(f"shared: {error}") from error
    else:
        known = {item.stem: item for item in sorted(_SHARED_FOLDER.glob("*.yaml"))}
        if name not in known:
            listed = one_of(known) or "none"
            raise entry.place.error(
                f"shared: there is no '{name}'.{did_you_mean(name, known)} Known: {listed}; or give the path of a .yaml file."
            )
        file = known[name]
    try:
        content = read_file(file)
    except SpecError as error:
        raise entry.place.error(f"shared: {error}") from error
    return file, read_yaml(file, content).mapping(allowed=("runs", "tuning")), content


def _add(entries: Mapping[str, Entry], runs: dict[str, NamedRun], tunings: dict[str, Tuning]) -> None:
    """Read ``runs`` and ``tuning`` of one file into the two mappings."""

    def read(section: str, known: dict[str, _Named], make: Callable[[str, Entry], _Named]) -> None:
        for name, item in entries[section].mapping().items() if section in entries else ():
            if name in known:
                raise item.place.error(f"{section}.{name} stands twice, first in {known[name].place}. Give one another name.")
            known[name] = make(name, item)

    read("runs", runs, _named_run)
    read("tuning", tunings, _tuning)


def _part(parts: Mapping[str, Entry]) -> Part:
    return Part(
        read_settings(parts["set"]) if "set" in parts else (),
        _inputs(parts["inputs"]) if "inputs" in parts else (),
        _tuned(parts["tuned"]) if "tuned" in parts else (),
    )


def _inputs(entry: Entry) -> tuple[InputRef, ...]:
    found = []
    for role, item in entry.mapping(allowed=ROLES).items():
        if item.is_mapping:
            parts = item.mapping(allowed=("from", "set", "where"), required=("from",))
            settings, where = (read_settings(parts[key]) if key in parts else () for key in ("set", "where"))
            found.append(InputRef(role, parts["from"].text(), settings, where, item.place))
        else:
            found.append(InputRef(role, item.text(), (), (), item.place))
    return tuple(found)


def _tuned(entry: Entry) -> tuple[TunedRef, ...]:
    entries = entry.items() if entry.is_list else [entry]
    found: dict[str, TunedRef] = {}
    for item in entries:
        if item.text() in found:
            raise item.place.error(f"{item.name}: '{shortened(item.text())}' stands twice. Keep one.")
        found[item.text()] = TunedRef(item.text(), item.place)
    return tuple(found.values())


def _named_run(name: str, entry: Entry) -> NamedRun:
    parts = entry.mapping(allowed=("set", "each", "inputs", "tuned"))
    part = _part(parts)
    axes = read_axes(parts["each"]) if "each" in parts else ()
    join([("set", part.settings), ("each", [axis[0] for axis in axes])])
    return NamedRun(name, part.settings, part.inputs, part.tuned, combinations(axes), entry.place)


def _tuning(name: str, entry: Entry) -> Tuning:
    parts = entry.mapping(allowed=("set", "inputs", "grid", "otherwise", "value"), required=("grid", "otherwise"))
    part = _part(parts)
    axes = read_axes(parts["grid"], lists=True)
    otherwise = read_settings(parts["otherwise"])
    join([("set", part.settings), ("grid", [axis[0] for axis in axes])])
    _check_grid(axes, otherwise, parts["otherwise"].place)
    metric, epoch = _tuned_value(parts["value"]) if "value" in parts else (TUNED_METRICS[0], Epoch("last"))
    return Tuning(name, part.settings, part.inputs, axes, otherwise, metric, epoch, entry.place)


def _tuned_value(entry: Entry) -> tuple[str, Epoch]:
    parts = entry.mapping(allowed=("metric", "epoch"))
    metric, epoch = TUNED_METRICS[0], Epoch("last")
    if "metric" in parts:
        metric = parts["metric"].text()
        if not metric.startswith("val/"):
            raise parts["metric"].wrong(
                "a metric of the validation set (val/...): nothing else may choose a setting, the test set least of all"
            )
        metric = parts["metric"].choice(TUNED_METRICS)
    if "epoch" in parts:
        epoch = read_epoch(parts["epoch"])
        if epoch.rule not in _TUNED_RULES:
            raise parts["epoch"].wrong(
                f"{' or '.join(_TUNED_RULES)}: no number of the test set may take part, and final.json has no others"
            )
    return metric, epoch


def _known(name: str, known: Mapping[str, _Named], place: Place, where: str, kind: str) -> _Named:
    if name not in known:
        raise place.error(f"{where}: there is no {kind} '{shortened(name)}'.{did_you_mean(name, known)} Known: {one_of(known) or 'none'}.")
    return known[name]


def _listed(each: Iterable[tuple[Setting, ...]]) -> str:
    return "; ".join(", ".join(setting.override for setting in chosen) or "one without each" for chosen in each)


def _check_cycles(names: Names) -> None:
    """Refuse runs and tunings that need themselves, or others through more than :data:`_LONGEST` steps."""
    depths: dict[tuple[str, str], int] = {}

    def visit(owner: NamedRun | Tuning, path: list[tuple[str, str]], place: Place) -> int:
        node = ("run" if isinstance(owner, NamedRun) else "tuning", owner.name)
        if node in path:
            cycle = " -> ".join(f"{kind} '{name}'" for kind, name in [*path[path.index(node) :], node])
            raise place.error(f"a cycle, so none of these can be trained first: {cycle}.")
        if node not in depths and len(path) < _LONGEST:
            below = [visit(names.runs[ref.run], [*path, node], ref.place) for ref in owner.inputs]
            if isinstance(owner, NamedRun):
                below += [visit(names.tunings[tuned.name], [*path, node], tuned.place) for tuned in owner.tuned]
            depths[node] = 1 + max(below, default=0)
        if depths.get(node, math.inf) > _LONGEST:
            raise place.error(f"{node[0]} '{node[1]}' reads runs that read runs, and so on, more than {_LONGEST} deep. Shorten the chain.")
        return depths[node]

    for owner in names.all:
        visit(owner, [], owner.place)
