"""Typed settings with their limits: what :mod:`repro.config` is written in.

A limit stands beside the field it limits, as dataclass metadata; :func:`violations` checks any dataclass against its own.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Iterator
from typing import Any

from omegaconf import MISSING

from repro.errors import did_you_mean


def setting(
    default: Any = MISSING,
    *,
    help: str,
    at_least: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: tuple[str, ...] | None = None,
    **metadata: Any,
) -> Any:
    """Declare a field of a settings dataclass: its default, its meaning and unit, and its limits.

    ``metadata`` may hold ``neutral``: the value at which a field that was added later leaves the identity of a run as it was
    before the field existed (see :mod:`repro.identity`).
    """
    limits = {"at_least": at_least, "at_most": at_most, "above": above, "below": below, "choices": choices}
    known = {name: limit for name, limit in limits.items() if limit is not None} | metadata | {"help": help}
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=known)
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
                problem = _problem(item, dict(field.metadata))
                if problem:
                    yield f"{name}={item}: {problem}"


def _problem(value: Any, limits: dict[str, Any]) -> str | None:
    if isinstance(value, str):
        allowed = limits.get("choices")
        if allowed is not None and value not in allowed:
            return f"must be one of {', '.join(allowed)}.{did_you_mean(value, allowed)}"
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not math.isfinite(value):
        return "must be a finite number."
    wanted = []
    bad = False
    for kind, words, holds in (
        ("at_least", "at least", operator.ge),
        ("above", "above", operator.gt),
        ("at_most", "at most", operator.le),
        ("below", "below", operator.lt),
    ):
        if kind in limits:
            wanted.append(f"{words} {limits[kind]}")
            bad = bad or not holds(value, limits[kind])
    return f"must be {' and '.join(wanted)}." if bad else None
