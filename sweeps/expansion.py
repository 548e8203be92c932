"""From a spec to its runs: every cell, with the settings of its runs and of all the runs that these read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product

from sweeps.names import merge
from sweeps.nodes import Place, SpecError
from sweeps.parts import InputRef, NamedRun, Part, TunedRef, TuningUse
from sweeps.schema import Cell, RecipeSpec, Spec, Variant
from sweeps.settings import Setting, Settings, combinations, in_order, join, on_top, without
from sweeps.tuned import Key

#: What a run has of its own: an input trains on what its reader trains on, but by its own method on its own part of the data.
NOT_INHERITED = ("method", "split", "inputs")

#: What a recipe is composed with where it says nothing: no recipe depends on them, but there are no settings without.
_RECIPE = (("method", "one_hot"), ("seed", 0))

#: More runs than a spec can mean.
MOST_RUNS = 100_000

_Shared = tuple[object, frozenset[tuple[str, Key | None]]]


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
        self._spec = spec
        self._inputs: dict[_Shared, tuple[Variant, ...]] = {}
        self._values: dict[Key, tuple[bool, tuple[Setting, ...]]] = {}
        self._made = 0

    def cells(self) -> tuple[Cell, ...]:
        """Return every cell; see :func:`expand`."""
        spec = self._spec
        if len(spec.rows) * len(spec.columns) * len(spec.repeats) > MOST_RUNS:
            raise self._too_many()
        cells = []
        for row, column in product(spec.rows, spec.columns):
            own = [item for item in spec.exceptions if row.label in item.rows and column.label in item.columns]
            skip = next((item.skip for item in own if item.skip is not None), None)
            title = f"row '{row.label}', column '{column.label}'"
            sources = [
                ("common", Part(spec.common)),
                (f"row '{row.label}'", Part(row.settings, row.inputs, row.tuned)),
                (f"column '{column.label}'", Part(column.settings, column.inputs, column.tuned)),
                *(("cells", Part(item.settings, item.inputs, item.tuned)) for item in own),
            ]
            variants: tuple[Variant, ...] = ()
            if skip is None:
                part = merge(sources)
                named = [(what, item.settings) for what, item in sources]
                variants = tuple(
                    self._variant(settings, part, title, fixed=settings, repeat=repeat)
                    for repeat in spec.repeats
                    for settings in [self._defaults(join([*named, ("repeats", repeat)]), row.place)]
                )
            recipe = variants[0] if isinstance(spec, RecipeSpec) and variants else None
            runs = () if isinstance(spec, RecipeSpec) else variants
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
        for values in combinations(self._spec.scale.thinned(axis) for axis in tuning.axes):
            name = f"tuning {tuning.name}, {', '.join(in_order(values))}"
            points.append((values, self._variant(on_top(base, values), Part(inputs=tuning.inputs), name, fixed={}, name=name)))
        return tuple(points)

    def _too_many(self) -> SpecError:
        return Place(self._spec.path, 1).error(
            f"more than {MOST_RUNS} runs: rows times columns times repeats, and what they read. Cut it into several specs."
        )

    def _defaults(self, settings: Settings, place: Place) -> Settings:
        if not isinstance(self._spec, RecipeSpec):
            return settings
        return {**{key: Setting(key, value, place) for key, value in _RECIPE}, **settings}

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
                        f"{value.key} is tuned by '{ref.name}' and also set in {title} ({fixed[value.key].place}). Leave one out."
                    )
            settings = {**on_top(settings, values), **fixed}
            fixed = {**fixed, **{value.key: value for value in values}}
            uses.append(use)
        inputs: tuple[tuple[str, tuple[Variant, ...]], ...] = ()
        if part.inputs:
            inherited = without(settings, NOT_INHERITED)
            same = frozenset((setting.override, setting.origin) for setting in inherited.values())
            inputs = tuple((ref.role, self._read(ref, inherited, same)) for ref in sorted(part.inputs, key=lambda ref: ref.role))
        return Variant(repeat, tuple(self._spec.scale.apply(settings).values()), inputs, name, tuple(uses))

    def _read(self, ref: InputRef, inherited: Settings, same: frozenset[tuple[str, Key | None]]) -> tuple[Variant, ...]:
        """Return the runs of ``ref`` for a reader whose settings they inherit."""
        if (ref.key, same) not in self._inputs:
            run = self._spec.runs[ref.run]
            self._inputs[ref.key, same] = tuple(self._input(run, ref, each, inherited) for each in run.selected(ref.where))
        return self._inputs[ref.key, same]

    def _input(self, run: NamedRun, ref: InputRef, each: tuple[Setting, ...], inherited: Settings) -> Variant:
        own = on_top(on_top({setting.key: setting for setting in run.settings}, ref.settings), each)
        settings = on_top(inherited, own.values())
        name = ", ".join([run.name, *(setting.override for setting in (*ref.settings, *each))])
        return self._variant(settings, Part((), run.inputs, run.tuned), f"run '{run.name}'", fixed=own, name=name)

    def _tuned(self, ref: TunedRef, settings: Settings, title: str) -> tuple[TuningUse, tuple[Setting, ...]]:
        """Return what ``ref`` needs for a run with ``settings``, and the values: the chosen ones, or those of ``otherwise``."""
        tuning = self._spec.tunings[ref.name]
        found = []
        for group in ("dataset", "model"):
            value = settings[group].value if group in settings else None
            if not isinstance(value, str):
                raise ref.place.error(f"tuned: '{ref.name}' is looked up by dataset and model, but {group} is not set in {title}. Set it.")
            found.append(value)
        key = (ref.name, found[0], found[1])
        if key not in self._values:
            chosen = self._spec.tuned.chosen.get(key)
            if chosen is not None and {setting.key for setting in chosen.values} != set(tuning.keys):
                raise chosen.place.error(
                    f"chosen must have the keys of the grid of '{ref.name}' ({tuning.place}): {', '.join(tuning.keys)}; found "
                    f"{', '.join(setting.key for setting in chosen.values) or 'none'}. Tune it again."
                )
            values = tuning.otherwise if chosen is None else chosen.values
            self._values[key] = (chosen is not None, tuple(replace(setting, origin=key) for setting in values))
        is_chosen, values = self._values[key]
        return TuningUse(tuning, key, tuple(settings.values()), is_chosen), values
