"""From the settings of a spec to checked configurations, fast enough for thousands of runs."""

from __future__ import annotations

import copy
import dataclasses
import functools
import typing
from collections.abc import Sequence

from repro.compose import compose
from repro.config import Config, check
from repro.errors import UserError
from sweeps.nodes import Value
from sweeps.schema import Cell, Setting, Variant

_Key = tuple[frozenset[str], frozenset[str]]


class Composer:
    """Composes runs as ``python -m repro`` would, and asks Hydra only once for each set of choices.

    Runs with the same choices (method, dataset, ...) and the same names of values (seed, noise.rate, ...) differ in the values
    alone. Those are put into a copy, and all checks are made again. A value is only put in where Hydra would not have
    converted it, and the first time a name's value changes, the result is compared with Hydra's own: so a value that
    other settings are derived from is found out, and such runs go to Hydra one by one.
    """

    def __init__(self) -> None:
        self._composed: dict[_Key, tuple[Config, dict[str, Value]]] = {}
        self._agreed: dict[_Key, set[str]] = {}
        self._refused: set[_Key] = set()

    def compose_all(self, wanted: Sequence[tuple[Cell, Variant]]) -> list[Config]:
        """Return the checked configuration of each run of a cell, in the order given.

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

    def compose(self, cell: Cell, variant: Variant) -> Config:
        """Return the checked configuration of one run of ``cell``.

        Raises:
            UserError: as :func:`repro.compose.compose`, beginning with the file and line of the setting.
        """
        try:
            return self._compose(variant)
        except UserError as error:
            place = next((setting.place for setting in variant.settings if str(error).startswith(f"{setting.key}=")), cell.place)
            raise place.error(f"in row '{cell.row}', column '{cell.column}': {error}") from error

    def _compose(self, variant: Variant) -> Config:
        values = {setting.key: setting.value for setting in variant.settings if _is_value(setting)}
        key = _key(variant)
        if key not in self._composed:
            config = compose(variant.overrides)
            self._composed[key] = (config, values)
            self._agreed[key] = set()
            return config
        base, base_values = self._composed[key]
        changed = {name: value for name, value in values.items() if _differ(value, base_values[name])}
        copied = None if key in self._refused else _with_values(base, changed)
        if copied is None:
            return compose(variant.overrides)
        if not changed.keys() <= self._agreed[key]:
            by_hydra = compose(variant.overrides)
            if by_hydra != copied:
                self._refused.add(key)
                return by_hydra
            self._agreed[key].update(changed)
        check(copied)
        return copied


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
