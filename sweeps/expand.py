"""From a spec to its runs: every cell at a scale, with the settings of its runs and of all the runs that these read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, product
from pathlib import Path
from typing import Any

from repro.errors import one_of
from sweeps.scales import Scale
from sweeps.spec import Input, Line, Part, Settings, Spec, Tuning, join, merge
from sweeps.tuned_values import Chosen, Key, read_tuned
from sweeps.yaml_files import look_up, mistakes_of

#: What a run has of its own: an input trains on what its reader trains on, but by its own method on its own part of the data.
NOT_INHERITED = ("method", "split", "inputs")

#: What a recipe is composed with where it says nothing: no recipe depends on them, but there are no settings without.
_RECIPE: Settings = {"method": "one_hot", "seed": 0}

#: The tuning that the values of a grid come from while none of them has been chosen.
TRIED: Key = ("", "", "")

#: The tuning that chose a setting, by the name of the setting.
Origins = dict[str, Key]


@dataclass(frozen=True, eq=False)
class Use:
    """A run's need of a tuning's values.

    Attributes:
        key: the tuning's name, the dataset and the model.
        settings: those of the run, before the scale.
        chosen: what was chosen, or ``None``: then the values are those of ``otherwise``.
    """

    key: Key
    settings: Settings
    origins: Origins
    chosen: Chosen | None

    def __str__(self) -> str:
        """Return it as a plan lists it: ``NAME for DATASET, MODEL``."""
        return f"{self.key[0]} for {', '.join(self.key[1:])}"


@dataclass(frozen=True, eq=False)
class Variant:
    """One run.

    Attributes:
        settings: all of them, at the scale and with chosen values.
        inputs: role -> the runs it reads, sorted by role.
        repeat: what tells it from the others of its cell, such as ``{"seed": 0}``; empty for a run that others read.
        name: which named run it is, with its values of ``each``; empty for a run of a cell.
        uses: the tunings that it names, not those of its inputs.
        origins: which tuning chose which of its settings, also where it takes them over from its reader.
    """

    settings: Settings
    inputs: dict[str, list[Variant]]
    repeat: Settings
    name: str
    uses: list[Use]
    origins: Origins


@dataclass(frozen=True, eq=False)
class Cell:
    """A row and a column with the runs of the cell, or why it has none; ``spec``, ``run_ids`` and ``value`` once it is planned.

    Attributes:
        epoch: where its value is read, if not where the table's is.
        setting: of a recipe's cell, what it shows of its one variant, which is no run.
    """

    row: str
    column: str
    variants: list[Variant]
    skip: str | None
    epoch: str | None
    setting: str | None
    spec: str = ""
    run_ids: list[str] = field(default_factory=list)
    value: Any = None

    @property
    def untuned(self) -> list[str]:
        """The tunings that have not been done though its runs, or what these read, should have their values."""
        return list(dict.fromkeys(str(use) for use in uses_of(self.variants) if use.chosen is None))

    @property
    def at_end(self) -> list[str]:
        """The chosen values of its runs, and of what these read, that lie at an end of their grids: ``SETTING=VALUE (TUNING)``."""
        return list(dict.fromkeys(f"{value} ({use})" for use in uses_of(self.variants) if use.chosen for value in use.chosen.at_end))


def uses_of(variants: Iterable[Variant]) -> list[Use]:
    """Return the tunings of ``variants`` and of all that they read, those of inputs first."""
    uses: dict[Use, None] = {}
    for variant in variants:
        uses |= dict.fromkeys([*uses_of(chain(*variant.inputs.values())), *variant.uses])
    return list(uses)


def expand(spec: Spec, scale: Scale) -> list[Cell]:
    """Return every cell of ``spec``, row by row, with its runs and all that these read, at ``scale`` and with its tuned values.

    Raises:
        SpecError: a name does not exist; a setting is given in two places; a tuned value cannot be looked up.
    """
    return Expansion(spec, scale, read_tuned(scale)).cells()


def digest(cells: Sequence[Cell]) -> str:
    """Return the sha256 of all labels, settings and inputs of a spec's ``cells``: what a plan was made from."""
    known: dict[Variant, str] = {}

    def of(variant: Variant) -> str:
        if variant not in known:
            known[variant] = _sha256([variant.settings, {role: list(map(of, read)) for role, read in variant.inputs.items()}])
        return known[variant]

    return _sha256([[cell.row, cell.column, cell.skip, cell.epoch, cell.setting, list(map(of, cell.variants))] for cell in cells])


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def on_top(base: Settings, added: Settings) -> Settings:
    """Return ``base`` with ``added`` put on top of it.

    A choice (a key without a dot, such as ``model``) replaces the choice and everything below it, whose names the new choice may
    not have; a model also replaces the recipe (``optim``), because it brings its own.
    """
    replaced = {key for key in added if "." not in key}
    if "model" in replaced:
        replaced.add("optim")
    return {key: value for key, value in base.items() if key.partition(".")[0] not in replaced} | added


def without(base: Settings, names: Sequence[str]) -> Settings:
    """Return ``base`` without the settings called ``names`` and everything below them."""
    below = tuple(f"{name}." for name in names)
    return {key: value for key, value in base.items() if key not in names and not key.startswith(below)}


def combinations(axes: Mapping[str, Sequence[Any]]) -> list[Settings]:
    """Return every combination of the values of ``axes``, the last axis fastest."""
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]


def _has(settings: Settings, wanted: Settings) -> bool:
    """Say whether ``settings`` has those ``wanted``; 1, 1.0 and true are three values."""
    return all(key in settings and repr(settings[key]) == repr(value) for key, value in wanted.items())


def _named(name: str, values: Settings) -> str:
    return ", ".join([name, *(f"{key}={value}" for key, value in values.items())])


class Expansion:
    """Makes the runs of one spec at a scale, with the ``chosen`` values. Runs that several others read are made once.

    Raises:
        SpecError: the scale has another grid for a tuning that does not exist, or repeats what the spec does not.
    """

    def __init__(self, spec: Spec, scale: Scale, chosen: Mapping[Key, Chosen]) -> None:
        self.spec, self.scale, self.chosen = spec, scale, chosen
        self.tunings: dict[str, Tuning] = dict(spec.tuning)
        self.repeats = scale.repeats.get(spec.name, spec.repeats)
        self._read: dict[str, list[Variant]] = {}
        with mistakes_of(scale.path):
            if self.repeats.keys() != spec.repeats.keys():
                raise ValueError(f"repeats.{spec.name} must have the keys that the spec repeats: {one_of(spec.repeats)}.")
            file = Path(spec.shared or "").stem
            for name, grid in scale.tuning.get(file, {}).items():
                tuning = look_up(name, spec.tuning, f"tuning.{file}: there is no tuning")
                self.tunings[name] = tuning.model_copy(update={"grid": grid.grid, "otherwise": grid.otherwise})

    def cells(self) -> list[Cell]:
        """Return every cell; see :func:`expand`."""
        cells = []
        for row, column in product(self.spec.row_lines, self.spec.column_lines):
            with mistakes_of(self.spec.path, f"in row '{row.label}', column '{column.label}': "):
                cells.append(self._cell(row, column))
        return cells

    def grid(self, use: Use) -> list[tuple[Settings, Variant]]:
        """Return each point of the grid of ``use``, with its run.

        It begins with the settings of the run that needs the values, as an input does with those of its reader.

        Raises:
            SpecError: as :func:`expand`.
        """
        tuning, name = self.tunings[use.key[0]], f"tuning.{use.key[0]}"
        inherited = without(use.settings, NOT_INHERITED)
        points = []
        for values in combinations({key: self.scale.subsampled(axis) for key, axis in tuning.grid.items()}):
            with mistakes_of(self.spec.path, f"{name}: "):
                own = join([("set", tuning.settings), ("grid", values)])
                origins = without(use.origins, tuple(tuning.settings)) | dict.fromkeys(values, TRIED)
                points.append((values, self._variant(on_top(inherited, own), tuning, origins, fixed={}, name=_named(name, values))))
        return points

    def _cell(self, row: Line, column: Line) -> Cell:
        rules = [rule for rule in self.spec.cells if rule.holds_for(row.label, column.label)]
        skip = next((rule.skip for rule in rules if rule.skip), None)
        parts: list[tuple[str, Part]] = [("common", Part.model_construct(settings=self.spec.common))]
        for title, part in (("its row", row), ("its column", column), *(("cells", rule) for rule in rules)):
            if part.use:
                run = look_up(part.use, self.spec.runs, "use: there is no run")
                if run.each:
                    raise ValueError(f"use: '{part.use}' is several runs, one for each {one_of(run.each)}; a cell needs one.")
                parts.append((f"run '{part.use}'", run))
            parts.append((title, part))
        merged = merge(parts)
        variants = []
        for repeat in [] if skip else combinations(self.repeats):
            settings = join([("its row, column or cell", merged.settings), ("repeats", repeat)])
            if self.spec.kind == "recipe":
                settings = _RECIPE | settings
            variants.append(self._variant(settings, merged, {}, fixed=settings, repeat=repeat))
        epoch = None if row.epoch is None else self.scale.epoch(row.epoch)
        return Cell(row.label, column.label, variants, skip, epoch, row.setting)

    def _variant(
        self, settings: Settings, part: Part, origins: Origins, *, fixed: Settings, repeat: Settings | None = None, name: str = ""
    ) -> Variant:
        """Return the run with ``settings`` (before the scale), of which those in ``fixed`` are its own rather than its reader's."""
        origins = {key: origin for key, origin in origins.items() if key in settings and key not in fixed}
        needed: list[tuple[Key, Chosen | None]] = []
        for tuning in part.tuned:
            key, chosen, values = self._tuned(tuning, settings)
            if twice := values.keys() & fixed.keys():
                raise ValueError(f"{min(twice)} is tuned by '{tuning}' and also set. Leave one out.")
            settings = on_top(settings, values) | fixed
            fixed = fixed | values
            origins |= dict.fromkeys(values, key)
            needed.append((key, chosen))
        # The runs of a grid have what is tuned beside it, whatever is named first.
        uses = [Use(key, settings, origins, chosen) for key, chosen in needed]
        inherited = without(settings, NOT_INHERITED)
        inputs: dict[str, list[Variant]] = {role: self._inputs(role, ref, inherited, origins) for role, ref in sorted(part.inputs.items())}
        return Variant(self._scaled(settings, origins), inputs, repeat or {}, name, uses, origins)

    def _inputs(self, role: str, ref: Input, inherited: Settings, origins: Origins) -> list[Variant]:
        same = repr((role, ref, sorted(inherited.items()), sorted(origins.items())))
        if same not in self._read:
            run = look_up(ref.run, self.spec.runs, f"inputs.{role}: there is no run")
            chosen = [each for each in combinations(run.each) if _has(each, ref.where)]
            if not chosen or (role == "teacher" and len(chosen) > 1):
                raise ValueError(f"inputs.{role}: {len(chosen)} runs of '{ref.run}' match where; one is needed, of labels one or more.")
            found = []
            for each in chosen:
                own = join([("set", on_top(run.settings, ref.settings)), ("each", each)])
                name = _named(ref.run, ref.settings | each)
                found.append(self._variant(on_top(inherited, own), run, origins, fixed=own, name=name))
            self._read[same] = found
        return self._read[same]

    def _tuned(self, name: str, settings: Settings) -> tuple[Key, Chosen | None, Settings]:
        """Return what the tuning called ``name`` is looked up by for a run with ``settings``, what was chosen, and the values."""
        tuning = look_up(name, self.tunings, "tuned: there is no tuning")
        if not {"dataset", "model"} <= settings.keys():
            raise ValueError(f"tuned: '{name}' is looked up by dataset and model. Set both.")
        key = (name, settings["dataset"], settings["model"])
        chosen = self.chosen.get(key)
        values = tuning.otherwise if chosen is None else chosen.chosen
        if values.keys() != tuning.grid.keys():
            what = "otherwise" if chosen is None else "what was chosen"
            raise ValueError(f"tuned: of '{name}' {what} has not the keys of its grid, {one_of(tuning.grid)}.")
        return key, chosen, values

    def _scaled(self, settings: Settings, origins: Origins) -> Settings:
        """Return ``settings`` at the scale; what was tuned of a recipe stays where a rule replaces the model or the recipe."""
        tuned = {key for key in origins if key.startswith("optim.")}
        for rule in self.scale.rules:
            if _has(settings, rule.where):
                kept = without(settings, rule.drop)
                settings = {key: kept[key] for key in tuned & kept.keys()} | on_top(kept, rule.settings)
                tuned -= rule.settings.keys()
        return settings
