"""From a spec to its runs: every cell, with the settings of its runs and of all the runs that these read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING

from sweeps.spec.chosen import Chosen, Key
from sweeps.spec.data import Place, SpecError, Text, Value
from sweeps.spec.models import Epoch
from sweeps.spec.runs import Input, Part, Tuning, merge
from sweeps.spec.settings import Setting, Settings, combinations, in_order, join, on_top, without

if TYPE_CHECKING:
    from sweeps.spec.load import Spec

#: What a run has of its own: an input trains on what its reader trains on, but by its own method on its own part of the data.
NOT_INHERITED = ("method", "split", "inputs")

#: What a recipe is composed with where it says nothing: no recipe depends on them, but there are no settings without.
_RECIPE = (("method", "one_hot"), ("seed", 0))

#: The origin of the values of a grid while none of them has been chosen.
_TRIED = ("", "", "")

#: More runs than a spec can mean.
MOST_RUNS = 100_000

_Shared = tuple[object, frozenset[tuple[str, Key | None]]]


@dataclass(frozen=True)
class TuningUse:
    """A run's need of a tuning's values.

    Attributes:
        key: the tuning's name, the dataset and the model.
        context: the settings of the run, before the scale.
        found: what was chosen, or ``None``: then its values are those of ``otherwise``.
    """

    tuning: Tuning
    key: Key
    context: tuple[Setting, ...]
    found: Chosen | None

    @property
    def chosen(self) -> bool:
        """Whether there are chosen values."""
        return self.found is not None

    @property
    def at_end(self) -> tuple[str, ...]:
        """The chosen values that lie at an end of their grid."""
        return () if self.found is None else self.found.at_end

    @property
    def place(self) -> Place:
        """Where the tuning stands."""
        return self.tuning.place

    @property
    def title(self) -> str:
        """It in words, for messages."""
        return f"tuning '{self.tuning.name}' for {', '.join(self.key[1:])}"

    def __str__(self) -> str:
        """Return it as a plan lists it: ``NAME for DATASET, MODEL``."""
        return f"{self.tuning.name} for {', '.join(self.key[1:])}"


@dataclass(frozen=True)
class Variant:
    """One run: what it repeats in its cell (such as ``seed``), all its settings, and the runs it reads.

    Attributes:
        repeat: empty for a run that is read by others.
        settings: at the spec's scale, with chosen values.
        inputs: role -> runs, sorted by role.
        name: which named run it is, with its values of ``each``; empty for a run of a cell.
        uses: the tunings whose values it has, not those of its inputs.
    """

    repeat: tuple[Setting, ...]
    settings: tuple[Setting, ...]
    inputs: tuple[tuple[str, tuple[Variant, ...]], ...] = ()
    name: str = ""
    uses: tuple[TuningUse, ...] = ()

    @cached_property
    def overrides(self) -> tuple[str, ...]:
        """The run's command line without its inputs: choices before dotted names, each sorted."""
        return in_order(self.settings)

    @property
    def repeat_values(self) -> dict[str, Value]:
        """The settings that tell this run from the others of its cell."""
        return {setting.key: setting.value for setting in self.repeat}

    @property
    def read(self) -> tuple[Variant, ...]:
        """The runs it reads, in the order of the roles."""
        return tuple(variant for _, variants in self.inputs for variant in variants)


@dataclass(frozen=True)
class Cell:
    """A row and a column: the runs of the cell, or why it has none; ``spec``, ``run_ids`` and ``value`` once it is planned.

    Attributes:
        place: of the row.
        epoch: where its value is read, if not where the table's is.
        setting: of a recipe's cell, what it shows.
        recipe: of a recipe's cell, the settings that the value is one of.
    """

    row: str
    column: str
    variants: tuple[Variant, ...]
    skip: str | None
    place: Place
    epoch: Epoch | None = None
    setting: str | None = None
    recipe: Variant | None = None
    spec: str = ""
    run_ids: tuple[str, ...] = ()
    value: object | None = None

    @property
    def untuned(self) -> tuple[str, ...]:
        """The tunings whose values its runs, or what these read, should have, and which have not been done."""
        return tuple(dict.fromkeys(str(use) for use in self._uses if not use.chosen))

    @property
    def at_end(self) -> tuple[str, ...]:
        """The chosen values of its runs, and of what these read, that lie at an end of their grids: ``SETTING=VALUE (TUNING)``."""
        return tuple(dict.fromkeys(f"{value} ({use})" for use in self._uses for value in use.at_end))

    @cached_property
    def _uses(self) -> tuple[TuningUse, ...]:
        seen: set[int] = set()
        return tuple(use for variant in self.composed for run in walk(variant, seen) for use in run.uses)

    @property
    def repeats(self) -> tuple[dict[str, Value], ...]:
        """For each run, what tells it from the others of the cell."""
        return tuple(variant.repeat_values for variant in self.variants)

    @property
    def title(self) -> str:
        """The cell in words, for messages."""
        return f"row '{self.row}', column '{self.column}'"

    @property
    def composed(self) -> tuple[Variant, ...]:
        """The runs of the cell, or the settings of a recipe's cell."""
        return self.variants if self.recipe is None else (self.recipe,)


def same_runs(spec: Spec, cells: Iterable[tuple[str, str, Iterable[str]]]) -> list[str]:
    """Return in words which ``cells`` (row, column, run ids) have the same runs, read at the same epoch: between them nothing is compared.

    It happens where a scale undoes what tells rows or columns apart, and where what is chosen for one is what another has.
    """
    epochs = {row.label: row.epoch for row in spec.rows}
    groups: defaultdict[tuple[frozenset[str], Epoch | None], list[tuple[str, str]]] = defaultdict(list)
    for row, column, run_ids in cells:
        if names := frozenset(run_ids):
            groups[names, epochs[row]].append((row, column))
    # Rows that are one in several columns are named once, with these, and columns likewise.
    alike: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for group in groups.values():
        rows, columns = (tuple(dict.fromkeys(labels)) for labels in zip(*group, strict=True))
        if len(group) == 1:
            continue
        if len(columns) == 1:
            alike[rows] += columns
        elif len(rows) == 1:
            alike[columns] += rows
        else:
            alike[tuple(map(", ".join, group))] = []
    found = []
    for labels, places in alike.items():
        where = "; ".join(filter(None, places))
        found.append(" and ".join(f"'{label}'" for label in labels) + (f" ({where})" if where else ""))
    return found


def expand(spec: Spec) -> tuple[Cell, ...]:
    """Return every cell, row by row, with its runs and all that these read, at the spec's scale and with its chosen values.

    Raises:
        SpecError: a setting or an input is given in two places; a tuned value cannot be looked up.
    """
    return Expansion(spec).cells()


def walk(variant: Variant, seen: set[int] | None = None) -> Iterator[Variant]:
    """Return the runs that ``variant`` reads, directly or through others, and then ``variant``: inputs before their readers, each once.

    Those whose ``id`` is in ``seen`` are left out; the others are added to it.
    """
    seen = set() if seen is None else seen
    if id(variant) not in seen:
        seen.add(id(variant))
        for read in variant.read:
            yield from walk(read, seen)
        yield variant


class Expansion:
    """Makes the runs of one spec. Runs that several others read are made once."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self._inputs: dict[_Shared, tuple[Variant, ...]] = {}
        self._values: dict[Key, tuple[Chosen | None, tuple[Setting, ...]]] = {}
        self._made = 0

    def cells(self) -> tuple[Cell, ...]:
        """Return every cell; see :func:`expand`."""
        spec = self.spec
        if len(spec.rows) * len(spec.columns) * len(spec.repeats) > MOST_RUNS:
            raise self._too_many()
        cells = []
        for row, column in product(spec.rows, spec.columns):
            own = [item for item in spec.exceptions if row.label in item.rows and column.label in item.columns]
            skip = next((item.skip for item in own if item.skip is not None), None)
            title = f"row '{row.label}', column '{column.label}'"
            sources: list[tuple[str, Part]] = [
                ("common", Part.model_construct(settings=spec.common)),
                (f"row '{row.label}'", row),
                (f"column '{column.label}'", column),
                *(("cells", item) for item in own),
            ]
            variants = []
            for repeat in spec.repeats if skip is None else ():
                settings = join([*((what, item.settings) for what, item in sources), ("repeats", repeat)])
                if spec.kind == "recipe":
                    settings = {**{key: Setting(key, value, row.place) for key, value in _RECIPE}, **settings}
                variants.append(self._variant(settings, merge(sources), title, fixed=settings, repeat=repeat))
            recipe = variants[0] if spec.kind == "recipe" and variants else None
            runs = () if spec.kind == "recipe" else tuple(variants)
            cells.append(Cell(row.label, column.label, runs, skip, row.place, row.epoch, row.setting, recipe))
        return tuple(cells)

    def base(self, use: TuningUse) -> Settings:
        """Return what the runs of the grid of ``use`` have in common, before the scale.

        They begin with the settings of the run that needs the values, as an input does with those of its reader.
        """
        return on_top(without({setting.key: setting for setting in use.context}, NOT_INHERITED), use.tuning.settings)

    def grid(self, use: TuningUse) -> tuple[tuple[tuple[Setting, ...], Variant], ...]:
        """Return each point of the grid of ``use``, with its run."""
        tuning = use.tuning
        base = self.base(use)
        points = []
        for values in combinations(self.spec.scale.thinned(axis) for axis in tuning.axes):
            name = f"tuning {tuning.name}, {', '.join(in_order(values))}"
            settings = on_top(base, [replace(setting, origin=_TRIED) for setting in values])
            points.append((values, self._variant(settings, tuning, name, fixed={}, name=name)))
        return tuple(points)

    def _too_many(self) -> SpecError:
        return self.spec.place.error(
            f"more than {MOST_RUNS} runs: rows times columns times repeats, and what they read. Cut it into several specs."
        )

    def _variant(
        self, settings: Settings, part: Part, title: str, *, fixed: Mapping[str, Setting], repeat: tuple[Setting, ...] = (), name: str = ""
    ) -> Variant:
        """Return the run with ``settings`` (before the scale), of which those in ``fixed`` are its own rather than its reader's."""
        self._made += 1
        if self._made > MOST_RUNS:
            raise self._too_many()
        uses = []
        for ref in part.tuned:
            use, values = self._tuned(ref, settings, title)
            for value in values:
                if value.key in fixed:
                    raise ref.place.error(
                        f"{value.key} is tuned by '{ref}' and also set in {title} ({fixed[value.key].place}). Leave one out."
                    )
            settings = {**on_top(settings, values), **fixed}
            fixed = {**fixed, **{value.key: value for value in values}}
            uses.append(use)
        # The runs of a grid have what is tuned beside it, whatever is named first.
        uses = [replace(use, context=tuple(settings.values())) for use in uses]
        inputs: tuple[tuple[str, tuple[Variant, ...]], ...] = ()
        if part.inputs:
            inherited = without(settings, NOT_INHERITED)
            same = frozenset((setting.override, setting.origin) for setting in inherited.values())
            inputs = tuple((role, self._read(ref, inherited, same)) for role, ref in sorted(part.inputs.items()))
        return Variant(repeat, tuple(self.spec.scale.apply(settings).values()), inputs, name, tuple(uses))

    def _read(self, ref: Input, inherited: Settings, same: frozenset[tuple[str, Key | None]]) -> tuple[Variant, ...]:
        if (ref.key, same) not in self._inputs:
            run = self.spec.runs[ref.run]
            found = []
            for each in run.selected(ref.where):
                own = on_top(on_top({setting.key: setting for setting in run.settings}, ref.settings), each)
                name = ", ".join([run.name, *(setting.override for setting in (*ref.settings, *each))])
                found.append(self._variant(on_top(inherited, own.values()), run, f"run '{run.name}'", fixed=own, name=name))
            self._inputs[ref.key, same] = tuple(found)
        return self._inputs[ref.key, same]

    def _tuned(self, ref: Text, settings: Settings, title: str) -> tuple[TuningUse, tuple[Setting, ...]]:
        """Return what ``ref`` needs for a run with ``settings``, and the values: the chosen ones, or those of ``otherwise``."""
        tuning = self.spec.tunings[ref]
        found = []
        for group in ("dataset", "model"):
            value = settings[group].value if group in settings else None
            if not isinstance(value, str):
                raise ref.place.error(f"tuned: '{ref}' is looked up by dataset and model, but {group} is not set in {title}. Set it.")
            found.append(value)
        key = (str(ref), found[0], found[1])
        if key not in self._values:
            chosen = self.spec.tuned.chosen.get(key)
            if chosen is not None and {setting.key for setting in chosen.values} != set(tuning.keys):
                raise chosen.place.error(
                    f"chosen must have the keys of the grid of '{ref}' ({tuning.place}): {', '.join(tuning.keys)}; found "
                    f"{', '.join(setting.key for setting in chosen.values) or 'none'}. Tune it again."
                )
            values = tuning.otherwise if chosen is None else chosen.values
            self._values[key] = (chosen, tuple(replace(setting, origin=key) for setting in values))
        chosen, values = self._values[key]
        return TuningUse(tuning, key, tuple(settings.values()), chosen), values
