"""Settings of a run as a spec writes them: reading them, joining them, and putting some on top of others."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import product
from typing import Annotated, Any

from pydantic import PlainValidator

from sweeps.spec.data import Map, Place, Scalar, Seq, SpecError, Text, Value, found, shortened
from sweeps.spec.models import mapping, refused, text

_KEY = re.compile(r"[A-Za-z_]\w*(\.\w+)*", re.ASCII)
_BEFORE_QUOTE = re.compile(r"(\\*)('|\Z)")
#: The sections of a run's settings that are no part of what it is (:data:`repro.config.schema.NOT_SCIENTIFIC`), and Hydra's own.
NOT_IN_SPECS = ("exec", "tracker", "paths", "hydra")
#: More combinations than anybody trains.
MOST_COMBINATIONS = 10_000
_UNQUOTED = re.compile(r"[A-Za-z_][\w./-]*", re.ASCII)


@dataclass(frozen=True)
class Setting:
    """A setting of a run, the place that gives it, and the name, dataset and model of the tuning that chose it (``None``: a spec)."""

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
    if _UNQUOTED.fullmatch(value) and value.lower() not in ("null", "true", "false", "inf", "nan"):
        return value
    # Hydra takes a backslash as it is, but for those in front of a quote.
    escaped = _BEFORE_QUOTE.sub(lambda found: found[1] * 2 + (found[2] and "\\'"), value)
    return f"'{escaped}'"


def setting_value(given: Map | Seq, at: str | int, *, lists: bool = True) -> Value:
    """Return the value at ``at``: a scalar, or, with ``lists``, a tuple of scalars for a list (an empty list is a value too).

    Raises:
        SpecError: it is something else.
    """
    value: Any = given[at]  # type: ignore[index]  # a list has numbers, a mapping has words
    several = lists and isinstance(value, list)
    for item in value if several else (value,):
        if isinstance(item, list | dict):
            raise given.at[at].error(f"{given.below(at)} must be a text, a number, true, false or null, found {found(item)}.")
    return tuple(map(_plain, value)) if several else _plain(value)


def _plain(value: Scalar) -> Scalar:
    return str(value) if isinstance(value, str) else value


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
            f"{name}: '{shortened(key)}' is no part of a run: say how and where runs are executed when you start them, with "
            "`python -m sweeps run SPEC --set exec.NAME=VALUE` or in a cluster file. Take it out."
        )
    if key.partition(".")[0] == "inputs":
        raise place.error(f"{name}: '{key}' is no setting here: the planner finds the runs. Write inputs: {{labels: NAME}} beside set.")
    return key


def read_settings(value: object) -> tuple[Setting, ...]:
    """Return the settings of a mapping.

    Raises:
        SpecError: a key or a value cannot be that of a setting.
    """
    if isinstance(value, tuple):  # made by code
        return value
    given = mapping(value)
    return tuple(_setting(read_key(given.name, key, given.at[key]), given, key, setting_value(given, key)) for key in given)


def _setting(key: str, given: Map | Seq, at: str | int, value: Value) -> Setting:
    """Return a setting whose value means the same wherever the spec is read; it stands at ``at`` in ``given``."""
    for item in value if isinstance(value, tuple) else (value,):
        if isinstance(item, str) and "${" in item:
            said = "refers to something else, so that the file would mean other runs elsewhere. Write the value itself."
            raise given.error(at, f"'{shortened(item)}' {said}")
        if isinstance(item, str) and any(sign in item for sign in "\r\n"):
            raise given.at[at].error(f"{given.below(at)} must be a text of one line, found {found(item)}.")
    return Setting(key, value, given.at[at])


def read_axes(value: object, *, lists: bool = False) -> tuple[tuple[Setting, ...], ...]:
    """Return for each key of a mapping its values, as settings; ``lists`` says whether a value may be a list itself.

    Raises:
        SpecError: a key is no name of a setting, or has no list of values, or one twice; there is no key.
    """
    given = mapping(value)
    axes = []
    for key, items in given.items():
        read_key(given.name, key, given.at[key])
        if not isinstance(items, Seq):
            raise given.at[key].error(f"{given.below(key)} must be a list, found {found(items)}.")
        if not items:
            raise given.at[key].error(f"{given.below(key)} is empty: it needs at least one entry.")
        seen: dict[object, Setting] = {}
        for index in range(len(items)):
            setting = _setting(key, items, index, setting_value(items, index, lists=lists))
            # 1 and 1.0 are one run, but True is no 1.
            if seen.setdefault((isinstance(setting.value, bool), setting.value), setting) is not setting:
                said = f"the value {setting.value} is given twice, so one run would be counted twice."
                raise setting.place.error(f"{items.name}: {said}")
        axes.append(tuple(seen.values()))
    if not axes:
        raise refused(" is empty: it needs at least one setting with its values, such as {seed: [0]}.")
    if (count := math.prod(map(len, axes))) > MOST_COMBINATIONS:
        raise refused(f" has {count} combinations; at most {MOST_COMBINATIONS} are allowed. Name fewer values.")
    return tuple(axes)


def _name(value: object) -> Text:
    name = text(value)
    try:
        read_key("", name, name.place)
    except SpecError as error:
        raise refused(str(error).partition(": ")[2]) from error
    return name


def combinations(axes: Iterable[Sequence[Setting]]) -> tuple[tuple[Setting, ...], ...]:
    """Return every combination of the values of ``axes``, the last axis fastest."""
    return tuple(product(*axes))


#: Settings; values of each of several settings, where a value may be a list; every combination of values; the name of a setting.
SettingList = Annotated[tuple[Setting, ...], PlainValidator(read_settings)]
Axes = Annotated[tuple[tuple[Setting, ...], ...], PlainValidator(partial(read_axes, lists=True))]
Combinations = Annotated[tuple[tuple[Setting, ...], ...], PlainValidator(lambda value: combinations(read_axes(value)))]
SettingName = Annotated[Text, PlainValidator(_name)]
