"""The states of networks within the state of a method, told apart by how their names begin."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def prefixed(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return ``state`` with names that begin with ``prefix`` and a dot."""
    return {f"{prefix}.{name}": value for name, value in state.items()}


def stripped(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what :func:`prefixed` was given; tensors of other prefixes are left out."""
    start = f"{prefix}."
    return {name.removeprefix(start): value for name, value in state.items() if name.startswith(start)}
