"""How large an experiment is: the paper's own size, or a small copy of it with the same graph of runs.

A scale is a YAML file under ``sweeps/scale/`` that retargets every run of every spec::

    title: smoke
    stamp: One sentence that is printed on every page.            # absent at the paper's own scale only
    rules:                                                        # applied in this order to the settings of every run
      - drop: [augment, optim, meta]                              # these settings and everything below them
      - {where: {dataset: cifar100}, set: {dataset: digits}}      # runs with these settings get those, put on top
      - set: {optim.epochs: 2}
    numbered_epochs: last                                         # what 'epoch 84' is read at, where there are not so many
    grid_points: 2                                                # at most so many values of each axis of a tuning's grid
    repeats: {table1: {seed: [0, 1, 2, 3]}}                       # how often a spec is repeated, in place of its own repeats
    tuning:                                                       # other grids for tunings of a shared file, here sweeps/shared/paper.yaml
      paper:
        focal: {grid: {method.gamma: [1.0, 2.0]}, otherwise: {method.gamma: 2.0}}      # the same keys as there

Tuned values are looked up by the dataset and the model that stand in the spec, before any rule.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self, TypeVar

from pydantic import Field, PlainValidator, model_validator

from sweeps.spec.data import Map
from sweeps.spec.loader import load, named_file, read_file
from sweeps.spec.models import AnyText, Items, Line, Model, integer, matching, validate
from sweeps.spec.settings import Axes, SettingList, SettingName, Settings, on_top, read_axes, without

_FOLDER = Path(__file__).resolve().parents[1] / "scale"
_PAPER = "paper"
_CHANGES = ("rules", "numbered_epochs", "grid_points", "repeats", "tuning")
_Item = TypeVar("_Item")


class Rule(Model):
    """One step of a scale: where a run has the settings ``where``, drop those called ``drop`` and put ``settings`` on top."""

    where: SettingList = ()
    drop: Items[SettingName] = ()
    settings: SettingList = Field(default=(), alias="set")

    @model_validator(mode="after")
    def _changes(self) -> Self:
        if self.node is not None and not {"drop", "set"} & set(self.node):
            raise self.place.error(f"{self.node.name} needs drop (names of settings) or set (settings), or both.")
        return self

    def apply(self, settings: Settings) -> Settings:
        """Return ``settings`` after this step; what was tuned of a recipe stays where the rule replaces the model or the recipe."""
        if any(setting.key not in settings or settings[setting.key].override != setting.override for setting in self.where):
            return settings
        kept = without(settings, self.drop)
        tuned = {key: setting for key, setting in kept.items() if setting.origin is not None and key.startswith("optim.")}
        return tuned | on_top(kept, self.settings)


class Grid(Model):
    """What a tuning searches: for each setting its values, and what it is until it is tuned."""

    axes: Axes = Field(alias="grid")
    otherwise: SettingList

    @model_validator(mode="after")
    def _same_keys(self) -> Self:
        given, wanted = {setting.key for setting in self.otherwise}, {axis[0].key for axis in self.axes}
        if given != wanted:
            keys, found = ", ".join(sorted(wanted)), ", ".join(sorted(given)) or "none"
            raise self.at("otherwise").error(f"otherwise must have the keys of grid, {keys}; it has {found}.")
        return self

    @property
    def keys(self) -> tuple[str, ...]:
        """The settings that it chooses."""
        return tuple(axis[0].key for axis in self.axes)


class Scale(Model):
    """How every spec is retargeted.

    Attributes:
        title: part of the names of plans and of files of tuned values.
        stamp: what every page of this scale says of itself; ``None`` at the paper's own.
        numbered_epochs: the epoch rule that stands for every ``epoch N``; ``None``: as the spec says.
        grid_points: how many values an axis of a grid has at most; ``None``: all.
        repeats: what a spec is repeated over in place of its own repeats, by the name of the spec.
        grids: those of tunings of shared files, by the name of the file and that of the tuning.
        sha256: of the file's bytes, or empty where nothing is retargeted.
    """

    hidden: ClassVar[tuple[str, ...]] = ("sha256",)

    title: Annotated[AnyText, matching(r"[A-Za-z0-9][\w-]*", "a word that can be part of a file's name: letters, digits, _ and -")]
    stamp: Line | None = None
    rules: Items[Rule] = ()
    numbered_epochs: Literal["last", "best_val", "best_test"] | None = None
    grid_points: Annotated[int, integer(1, 1_000_000)] | None = None
    repeats: dict[str, Annotated[Axes, PlainValidator(read_axes)]] = {}
    grids: dict[str, dict[str, Grid]] = Field(default={}, alias="tuning")
    sha256: str = ""

    def apply(self, settings: Settings) -> Settings:
        """Return the settings of one run at this scale."""
        for rule in self.rules:
            settings = rule.apply(settings)
        return settings

    def thinned(self, values: Sequence[_Item]) -> tuple[_Item, ...]:
        """Return at most :attr:`grid_points` of ``values``, evenly spaced, with the first and the last."""
        wanted = self.grid_points
        if wanted is None or wanted >= len(values):
            return tuple(values)
        steps = max(1, wanted - 1)
        return tuple(values[(2 * index * (len(values) - 1) + steps) // (2 * steps)] for index in range(wanted))


#: The paper's own scale: nothing is retargeted.
PAPER = Scale(title=_PAPER)


def known_scales() -> dict[str, Path]:
    """Return the scales that come with the suite, by name."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.yaml"))}


def load_scale(name: str) -> Scale:
    """Read and check the scale of that name, or at that path, which ends in ``.yaml``.

    Raises:
        SpecError: there is none, or it has a mistake; the message names the file and the line.
    """
    path = named_file(name, known_scales(), "scale")
    content = read_file(path)
    data: Map = load(path, content)
    scale = validate(Scale, data)
    if scale.title == _PAPER:
        if {"stamp", *_CHANGES} & set(data):
            raise data.place.error(
                f"the scale {_PAPER} is the paper's own: it changes nothing and has no stamp. Give this one another title."
            )
        return PAPER
    if scale.stamp is None:
        raise data.place.error(
            "stamp is missing: the pages of every scale but the paper's own say in one sentence that they are not the paper's."
        )
    return scale.model_copy(update={"sha256": hashlib.sha256(content).hexdigest()})
