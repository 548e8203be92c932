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
    tuning:                                                       # other grids for tunings of a shared file, here sweeps/shared/paper.yaml
      paper:
        focal: {grid: {method.gamma: [1.0, 2.0]}, otherwise: {method.gamma: 2.0}}      # the same keys as there

Tuned values are looked up by the dataset and the model that stand in the spec, before any rule.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from repro.errors import did_you_mean, one_of
from sweeps.epochs import EPOCH_RULES
from sweeps.nodes import Entry, Place, SpecError, existing, read_file, read_yaml, shortened
from sweeps.settings import Setting, Settings, on_top, read_axes, read_key, read_settings, without

_FOLDER = Path(__file__).resolve().with_suffix("")
_PAPER = "paper"
_CHANGES = ("rules", "numbered_epochs", "grid_points", "tuning")
_TITLE = re.compile(r"[A-Za-z0-9][\w-]*", re.ASCII)
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Rule:
    """One step of a scale: where a run has the settings ``where``, drop those called ``drop`` and put ``settings`` on top."""

    where: tuple[Setting, ...]
    drop: tuple[tuple[str, Place], ...]
    settings: tuple[Setting, ...]

    def apply(self, settings: Settings) -> Settings:
        """Return ``settings`` after this step."""
        if any(setting.key not in settings or settings[setting.key].override != setting.override for setting in self.where):
            return settings
        return on_top(without(settings, [name for name, _ in self.drop]), self.settings)


@dataclass(frozen=True)
class Grid:
    """What a tuning searches at a scale, and the values until then: the same keys as in the file that has the tuning."""

    axes: tuple[tuple[Setting, ...], ...]
    otherwise: tuple[Setting, ...]
    place: Place


@dataclass(frozen=True)
class Scale:
    """How every spec is retargeted.

    Attributes:
        title: part of the names of plans and of files of tuned values.
        stamp: what every page of this scale says of itself; ``None`` at the paper's own.
        numbered_epochs: the epoch rule that stands for every ``epoch N``; ``None``: as the spec says.
        grid_points: how many values an axis of a grid has at most; ``None``: all.
        grids: those of tunings of shared files, by the name of the file and that of the tuning.
        sha256: of the file's bytes, or empty where nothing is retargeted.
    """

    title: str
    stamp: str | None = None
    rules: tuple[Rule, ...] = ()
    numbered_epochs: str | None = None
    grid_points: int | None = None
    grids: Mapping[str, Mapping[str, Grid]] = field(default_factory=dict, hash=False)
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
PAPER = Scale(_PAPER)


def known_scales() -> dict[str, Path]:
    """Return the scales that come with the suite, by name."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.yaml"))}


def load_scale(name: str) -> Scale:
    """Read and check the scale of that name, or at that path, which ends in ``.yaml``.

    Raises:
        SpecError: there is none, or it has a mistake; the message names the file and the line.
    """
    if name.endswith((".yaml", ".yml")):
        path = existing(name)
    elif name in known_scales():
        path = known_scales()[name]
    else:
        near, known = did_you_mean(name, known_scales()), one_of(known_scales())
        raise SpecError(f"'{shortened(name)}': there is no scale of that name.{near} Known: {known}; or give the path of a .yaml file.")
    content = read_file(path)
    return _parse(read_yaml(path, content), content)


def _parse(root: Entry, content: bytes) -> Scale:
    parts = root.mapping(allowed=("title", "stamp", *_CHANGES), required=("title",))
    title = parts["title"].line()
    if not _TITLE.fullmatch(title):
        raise parts["title"].wrong("a word that can be part of a file's name: letters, digits, _ and -")
    if title == _PAPER:
        if {"stamp", *_CHANGES} & set(parts):
            raise root.place.error(
                f"the scale {_PAPER} is the paper's own: it changes nothing and has no stamp. Give this one another title."
            )
        return PAPER
    if "stamp" not in parts:
        raise root.place.error(
            "stamp is missing: the pages of every scale but the paper's own say in one sentence that they are not the paper's."
        )
    return Scale(
        title=title,
        stamp=parts["stamp"].line(),
        rules=tuple(_rule(item) for item in parts["rules"].items()) if "rules" in parts else (),
        numbered_epochs=parts["numbered_epochs"].choice(EPOCH_RULES) if "numbered_epochs" in parts else None,
        grid_points=parts["grid_points"].integer(at_least=1, at_most=1_000_000) if "grid_points" in parts else None,
        grids={file: {name: _grid(grid) for name, grid in item.mapping().items()} for file, item in parts["tuning"].mapping().items()}
        if "tuning" in parts
        else {},
        sha256=hashlib.sha256(content).hexdigest(),
    )


def _grid(entry: Entry) -> Grid:
    parts = entry.mapping(allowed=("grid", "otherwise"), required=("grid", "otherwise"))
    return Grid(read_axes(parts["grid"], lists=True), read_settings(parts["otherwise"]), entry.place)


def _rule(entry: Entry) -> Rule:
    parts: Mapping[str, Entry] = entry.mapping(allowed=("where", "drop", "set"))
    if "drop" not in parts and "set" not in parts:
        raise entry.place.error(f"{entry.name} needs drop (names of settings) or set (settings), or both.")
    return Rule(
        where=read_settings(parts["where"]) if "where" in parts else (),
        drop=tuple((read_key(item.name, item.text(), item.place), item.place) for item in parts["drop"].items()) if "drop" in parts else (),
        settings=read_settings(parts["set"]) if "set" in parts else (),
    )
