"""From the settings of a spec to checked configurations, fast enough for thousands of runs."""

from __future__ import annotations

import copy
import dataclasses
import functools
import typing
from collections.abc import Sequence
from typing import Protocol

from repro.compose import compose
from repro.config import Config, check
from repro.errors import UserError
from sweeps.nodes import Place, SpecError, Value
from sweeps.schema import Setting, Variant

_Key = tuple[frozenset[str], frozenset[str]]


class Owner(Protocol):
    """What needs a run, for messages: a cell, or a tuning."""

    @property
    def place(self) -> Place:
        """Where it stands."""

    @property
    def title(self) -> str:
        """What it is called."""


def explain(error: UserError, owner: Owner, variant: Variant) -> SpecError:
    """Return ``error`` about the settings of a run that ``owner`` needs, with the file and line of the setting that it begins with."""
    text = str(error)
    place = next((setting.place for setting in variant.settings if text.startswith(f"{setting.key}=")), owner.place)
    return place.error(f"in {owner.title}{f', {variant.name}' if variant.name else ''}: {text}")


class Composer:
    """Composes runs as ``python -m repro`` would, and asks Hydra only once for each set of choices.

    Runs with the same choices (method, dataset, ...) and the same names of values (seed, noise.rate, ...) differ in the values
    alone. Those are put into a copy, and all checks are made again. A value is only put in where Hydra would not have
    converted it, and the first time a name's value changes, the result is compared with Hydra's own: so a value that
    other settings are derived from is found out, and such runs go to Hydra one by one. What is derived stands in the files of
    the choices, so a name is not tried again with a set of choices each of which has been tried, with no more names set: a name
    that is set hides what its value would have been derived from.
    """

    def __init__(self) -> None:
        self._composed: dict[_Key, tuple[Config, dict[str, Value]]] = {}
        self._agreed: dict[tuple[str, str], set[frozenset[str]]] = {}
        self._refused: set[_Key] = set()

    def compose_all(self, wanted: Sequence[tuple[Owner, Variant]]) -> list[Config]:
        """Return the checked configuration of each run without its inputs, in the order given.

        Raises:
            UserError: as :func:`repro.compose.compose`, beginning with the file and line of the setting.
        """
        alike: dict[_Key, list[int]] = {}
        for index, (_, variant) in enumerate(wanted):
            alike.setdefault(_key(variant), []).append(index)
        configs: dict[int, Config] = {}
        for indices in alike.values():
            # The last usually differs from the first in every value that varies, so one comparison with Hydra serves them all.
            for index in [indices[0], *reversed(indices[1:])]:
                configs[index] = self.compose(*wanted[index])
        return [configs[index] for index in range(len(wanted))]

    def compose(self, owner: Owner, variant: Variant) -> Config:
        """Return the checked configuration of one run that ``owner`` needs, without its inputs.

        Raises:
            UserError: as :func:`repro.compose.compose`, beginning with the file and line of the setting.
        """
        try:
            return self._compose(variant)
        except UserError as error:
            raise explain(error, owner, variant) from error

    def _compose(self, variant: Variant) -> Config:
        values = {setting.key: setting.value for setting in variant.settings if _is_value(setting)}
        key = _key(variant)
        if key not in self._composed:
            config = compose(variant.overrides)
            self._composed[key] = (config, values)
            return config
        base, base_values = self._composed[key]
        changed = {name: value for name, value in values.items() if _differ(value, base_values[name])}
        copied = None if key in self._refused else _with_values(base, changed)
        if copied is None:
            return compose(variant.overrides)
        untried = [name for name in changed if not self._tried(name, key)]
        if untried:
            by_hydra = compose(variant.overrides)
            if by_hydra != copied:
                self._refused.add(key)
                return by_hydra
            for name in untried:
                for choice in key[0]:
                    self._agreed.setdefault((name, choice), set()).add(key[1])
        check(copied)
        return copied

    def _tried(self, name: str, key: _Key) -> bool:
        """Say whether putting in a value of ``name`` has agreed with Hydra for every choice of ``key``."""
        choices, names = key
        return all(any(tried <= names for tried in self._agreed.get((name, choice), ())) for choice in choices)


def _key(variant: Variant) -> _Key:
    choices = frozenset(setting.override for setting in variant.settings if not _is_value(setting))
    return choices, frozenset(setting.key for setting in variant.settings if _is_value(setting))


def _differ(value: Value, other: Value) -> bool:
    # True == 1 == 1.0 in Python, but not in a run's identity.
    return type(value) is not type(other) or value != other


def _with_values(config: Config, values: dict[str, Value]) -> Config | None:
    """Return a copy of ``config`` with ``values`` put in, or ``None`` where Hydra might convert one of them."""
    changed = copy.copy(config)
    for key, value in values.items():
        section, _, name = key.partition(".")
        owner = getattr(changed, section) if name else changed
        before = getattr(owner, name or section)
        if isinstance(value, tuple) or type(value) is not type(before) or (isinstance(value, str) and "$" in value):
            return None
        setattr(changed, section, dataclasses.replace(owner, **{name: value}) if name else value)
    return changed


def _is_value(setting: Setting) -> bool:
    """Say whether a setting is a value rather than one of Hydra's choices."""
    return "." in setting.key or setting.key in _plain_fields()


@functools.cache
def _plain_fields() -> frozenset[str]:
    hints = typing.get_type_hints(Config)
    return frozenset(name for name, kind in hints.items() if not dataclasses.is_dataclass(kind))
