"""Typed settings with their limits: what :mod:`repro.config.schema` is written in.

A limit stands beside the field it limits, as dataclass metadata; :func:`violations` checks any dataclass against its own.
"""

from __future__ import annotations

import dataclasses
import math
import operator
import types
import typing
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import MISSING

from repro.errors import did_you_mean, shown

#: What no number exceeds, whatever it means: 64 bits for whole numbers, and for the others well inside float32, in which they are used.
LARGEST_INT = 2**63 - 1
LARGEST_FLOAT = 1e30


def setting(
    default: Any = MISSING,
    *,
    help: str,
    at_least: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: tuple[str, ...] | tuple[int, ...] | None = None,
    **metadata: Any,
) -> Any:
    """Declare a field of a settings dataclass: its default, its meaning and unit, and its limits.

    ``metadata`` may hold ``neutral``: the value at which a field that was added later leaves the identity of a run as it was
    before the field existed (see :mod:`repro.config.identity`).
    """
    limits = {"at_least": at_least, "at_most": at_most, "above": above, "below": below, "choices": choices}
    known = {name: limit for name, limit in limits.items() if limit is not None} | metadata | {"help": help}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=known)
    return dataclasses.field(default=default, metadata=known)


def violations(settings: Any, prefix: str = "") -> Iterator[str]:
    """Yield one message for every field of the dataclass ``settings`` that breaks its limits, naming field, value and limit."""
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        name = f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            yield from violations(value, f"{name}.")
        elif value is not None:
            for item in value if isinstance(value, list) else [value]:
                if problem := _problem(item, field.metadata):
                    yield f"{name}={shown(str(item))}: {problem}"


#: Limits by their name: their words, and when a value keeps them.
_LIMITS = {
    "at_least": ("at least", operator.ge),
    "above": ("above", operator.gt),
    "at_most": ("at most", operator.le),
    "below": ("below", operator.lt),
}


def _problem(value: Any, limits: Mapping[str, Any]) -> str | None:
    if isinstance(value, str) and not value:
        return "must not be empty."
    if isinstance(value, str) and any(unicodedata.category(char) in ("Cc", "Cs") for char in value):
        return "must be printable text in UTF-8, without line breaks or other control characters."
    if isinstance(value, int | float) and not isinstance(value, bool):
        if isinstance(value, float) and not math.isfinite(value):
            return "must be a finite number."
        # Before anything else is done with it: a whole number may be too large to be a float.
        largest = LARGEST_INT if isinstance(value, int) else LARGEST_FLOAT
        if abs(value) > largest:
            return f"must be at most {largest} in size."
        # Equal to 0.0, but it would be another run's identity.
        if value == 0 and math.copysign(1.0, value) < 0:
            return "must be written 0."
        wanted = [(words, limits[name], holds) for name, (words, holds) in _LIMITS.items() if name in limits]
        if not all(holds(value, limit) for _, limit, holds in wanted):
            return f"must be {' and '.join(f'{words} {limit}' for words, limit, _ in wanted)}."
    allowed = limits.get("choices", (value,))
    if value not in allowed:
        # By its letters alone, gpu would be nearest to cpu.
        meant = "cuda" if value == "gpu" else str(value)
        return f"must be one of {', '.join(map(str, allowed))}.{did_you_mean(meant, map(str, allowed))}"
    return None


#: What the values of a field are called in messages.
_WORDS: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def misfit(value: Any, kind: Any, *, references: bool = False) -> str | None:
    """Say what is wrong with ``value`` for a field of the type ``kind``, or return ``None`` where the field can hold it as it is.

    Nothing is converted but a whole number to a float, so that a field never holds anything else than what was typed. With
    ``references``, a text with one (``${...}``) fits everywhere, since it may become anything.
    """
    if typing.get_origin(kind) is types.UnionType:
        (kind,) = (member for member in typing.get_args(kind) if member is not type(None))
        return None if value is None else misfit(value, kind, references=references)
    if references and isinstance(value, str) and "${" in value:
        return None
    if typing.get_origin(kind) is list:
        (item_kind,) = typing.get_args(kind)
        if not isinstance(value, list):
            return f"must be a list, such as {'[A,B]' if item_kind is str else '[1,2]'}; [] is an empty one."
        return next((problem for item in value if (problem := misfit(item, item_kind, references=references))), None)
    if kind is float and type(value) is int:
        try:
            return None if float(value) == value else "has more digits than a float64 can hold."
        except OverflowError:
            return "is too large for a float64."
    if type(value) is kind:
        return None
    remedy = " Write it in double quotes within single ones: '\"...\"'." if kind is str and not isinstance(value, list | dict) else ""
    if value is None:
        return f"must be {_WORDS[kind]}; null is not allowed."
    given = "a list" if isinstance(value, list) else "several settings" if isinstance(value, dict) else _WORDS[type(value)]
    return f"must be {_WORDS[kind]}, not {given}.{remedy}"
