"""Typed settings with their limits: what :mod:`repro.config.schema` is written in.

A limit stands beside the field it limits, as dataclass metadata; :func:`violations` checks any dataclass against its own.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterator, Mapping
from typing import Any, TypedDict, Unpack

from omegaconf import MISSING

from repro.errors import did_you_mean

_HOLDS = {"at_least": operator.ge, "above": operator.gt, "at_most": operator.le, "below": operator.lt}


class Limits(TypedDict, total=False):
    """What a value may be; and ``neutral``: the value at which a field that was added later is no part of a run's identity."""

    at_least: float
    above: float
    at_most: float
    below: float
    choices: tuple[str, ...] | tuple[int, ...]
    neutral: Any


def setting(default: Any = MISSING, *, help: str, **limits: Unpack[Limits]) -> Any:
    """Declare a field of a settings dataclass: its default, its meaning and unit, and its limits, which hold for each item of a list."""
    metadata = {"help": help, **limits}
    if isinstance(default, list):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def violations(settings: Any, prefix: str = "") -> Iterator[str]:
    """Yield a message for each value of the dataclass ``settings`` that breaks its limits, and for each name that it has no field for."""
    fields = {field.name: field for field in dataclasses.fields(settings)}
    for name, value in vars(settings).items():
        if name not in fields:
            yield f"{prefix}{name}: there is no such setting.{did_you_mean(name, fields)}"
        elif dataclasses.is_dataclass(value):
            yield from violations(value, f"{prefix}{name}.")
        else:
            for item in value if isinstance(value, list) else [value]:
                if problem := _problem(item, fields[name].metadata):
                    yield f"{prefix}{name}={item}: must be {problem}"


def _problem(value: Any, limits: Mapping[str, Any]) -> str | None:
    """Return what ``value`` must be if it is not; ``None`` for a value within the limits, or none at all."""
    if "choices" in limits and value not in (None, *limits["choices"]):
        names = [str(choice) for choice in limits["choices"]]
        return f"one of {', '.join(names)}.{did_you_mean(str(value), names)}"
    if isinstance(value, int | float):
        bounds = [name for name in _HOLDS if name in limits]
        if not all(_HOLDS[name](value, limits[name]) for name in bounds):
            return " and ".join(f"{name.replace('_', ' ')} {limits[name]}" for name in bounds) + "."
    return None
