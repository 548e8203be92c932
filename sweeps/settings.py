"""Settings of a run as a spec writes them: reading them, joining them, and putting some on top of others."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product

from sweeps.nodes import Entry, Place, Value, shortened

_KEY = re.compile(r"[A-Za-z_]\w*(\.\w+)*", re.ASCII)
_BEFORE_QUOTE = re.compile(r"(\\*)('|\Z)")
#: The sections of a run's settings that are no part of what it is (:data:`repro.config.NOT_SCIENTIFIC`), and Hydra's own.
NOT_IN_SPECS = ("exec", "tracker", "paths", "hydra")
#: More combinations than anybody trains.
MOST_COMBINATIONS = 10_000
_PLAIN = re.compile(r"[A-Za-z_][\w./-]*", re.ASCII)


@dataclass(frozen=True)
class Setting:
    """One setting of a run and the place in the file that gives it.

    Attributes:
        origin: the name, dataset and model of the tuning that chose the value; ``None`` where a spec says it.
    """

    key: str
    value: Value
    place: Place
    origin: tuple[str, str, str] | None = field(default=None, compare=False)

    @cached_property
    def override(self) -> str:
        """The setting as ``python -m repro`` takes it: ``key=value``."""
        return f"{self.key}={override_value(self.value)}"


#: Settings by their key.
Settings = dict[str, Setting]


def override_value(value: Value) -> str:
    """Return ``value`` in the notation of Hydra's command line, quoted where it needs to be."""
    if isinstance(value, tuple):
        return f"[{','.join(map(override_value, value))}]"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if _PLAIN.fullmatch(value) and value.lower() not in ("null", "true", "false", "inf", "nan"):
        return value
    # Hydra takes a backslash as it is, but for those in front of a quote.
    escaped = _BEFORE_QUOTE.sub(lambda found: found[1] * 2 + (found[2] and "\\'"), value)
    return f"'{escaped}'"


def in_order(settings: Iterable[Setting]) -> tuple[str, ...]:
    """Return the overrides of ``settings``: choices before dotted names, each sorted."""
    return tuple(setting.override for setting in sorted(settings, key=lambda setting: ("." in setting.key, setting.key)))


def on_top(base: Mapping[str, Setting], added: Iterable[Setting]) -> Settings:
    """Return ``base`` with ``added`` put on top of it.

    A choice (a key without a dot, such as ``model``) replaces the choice and everything below it, whose names the new choice may
    not have; a model also replaces the recipe (``optim``), because it brings its own.
    """
    new = {setting.key: setting for setting in added}
    replaced = {key for key in new if "." not in key}
    if "model" in replaced:
        replaced.add("optim")
    return {**{key: setting for key, setting in base.items() if key.partition(".")[0] not in replaced}, **new}


def without(base: Mapping[str, Setting], names: Sequence[str]) -> Settings:
    """Return ``base`` without the settings called ``names`` and everything below them."""
    below = tuple(f"{name}." for name in names)
    return {key: setting for key, setting in base.items() if key not in names and not key.startswith(below)}


def join(sources: Iterable[tuple[str, Iterable[Setting]]]) -> Settings:
    """Return the settings of several sources, each given as what it is called and what it says.

    Raises:
        SpecError: a setting is given by two of them.
    """
    seen: dict[str, tuple[str, Setting]] = {}
    for source, settings in sources:
        for setting in settings:
            if setting.key in seen:
                other, before = seen[setting.key]
                raise setting.place.error(f"{setting.key} is set by {source} and by {other} ({before.place}). Set it in one place.")
            seen[setting.key] = (source, setting)
    return {key: setting for key, (_, setting) in seen.items()}


def read_key(name: str, key: str, place: Place) -> str:
    """Return ``key``, the name of a setting in the mapping or list called ``name``.

    Raises:
        SpecError: it is no such name, or an input, which has a place of its own.
    """
    if not _KEY.fullmatch(key):
        raise place.error(f"{name}: '{shortened(key)}' is no name of a setting. Write a choice (method) or a dotted name (noise.rate).")
    if key.partition(".")[0] in NOT_IN_SPECS:
        raise place.error(
            f"{name}: '{shortened(key)}' is part of no run: how and where runs are executed is said when they are, by "
            "`python -m sweeps run SPEC --set exec.NAME=VALUE` or in a cluster file. Take it out."
        )
    if key.partition(".")[0] == "inputs":
        raise place.error(f"{name}: '{key}' is no setting here: the planner finds the runs. Write inputs: {{labels: NAME}} beside set.")
    return key


def read_settings(entry: Entry) -> tuple[Setting, ...]:
    """Return the settings of a mapping.

    Raises:
        SpecError: it is no mapping, or holds what cannot be a setting.
    """
    return tuple(_setting(read_key(entry.name, key, item.place), item, item.value()) for key, item in entry.mapping().items())


def _setting(key: str, entry: Entry, value: Value) -> Setting:
    """Return a setting whose value means the same wherever the spec is read."""
    for item in value if isinstance(value, tuple) else (value,):
        if isinstance(item, str) and "${" in item:
            raise entry.place.error(
                f"{entry.name}: '{shortened(item)}' refers to something else, so that the file would mean other runs elsewhere. "
                "Write the value itself."
            )
        if isinstance(item, str) and any(sign in item for sign in "\r\n"):
            raise entry.wrong("a text of one line")
    return Setting(key, value, entry.place)


def read_axes(entry: Entry, *, lists: bool = False) -> tuple[tuple[Setting, ...], ...]:
    """Return for each key of a mapping its values, as settings; ``lists`` says whether a value may be a list itself.

    Raises:
        SpecError: a key is no name of a setting, or has no list of values, or one twice; there is no key.
    """
    axes = []
    for key, item in entry.mapping().items():
        read_key(entry.name, key, item.place)
        values = tuple(_setting(key, value, value.value() if lists else value.scalar()) for value in item.items())
        seen: dict[object, Setting] = {}
        for setting in values:
            # 1 and 1.0 are one run, but True is no 1.
            same = seen.setdefault((isinstance(setting.value, bool), setting.value), setting)
            if same is not setting:
                raise setting.place.error(f"{item.name}: a value stands twice, {setting.value}, and one run would be counted twice.")
        axes.append(values)
    if not axes:
        raise entry.place.error(f"{entry.name} is empty: it needs at least one setting with its values, such as {{seed: [0]}}.")
    if (count := math.prod(map(len, axes))) > MOST_COMBINATIONS:
        raise entry.place.error(f"{entry.name} has {count} combinations; at most {MOST_COMBINATIONS} are allowed. Name fewer values.")
    return tuple(axes)


def combinations(axes: Iterable[Sequence[Setting]]) -> tuple[tuple[Setting, ...], ...]:
    """Return every combination of the values of ``axes``, the last axis fastest."""
    return tuple(product(*axes))
