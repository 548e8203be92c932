"""What a spec says, once it is read: see :mod:`sweeps.spec`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from sweeps.nodes import Place, Value

KINDS = ("table", "figure")
SCALES = ("percent", "fraction")
BETTER = ("higher", "lower", "neither")
#: Where in a run a value is read: after the last epoch, at the best validation accuracy, at the best test accuracy.
EPOCH_RULES = ("last", "best_val", "best_test")

_BEFORE_QUOTE = re.compile(r"(\\*)('|\Z)")
_PLAIN = re.compile(r"[A-Za-z_][\w./-]*", re.ASCII)


@dataclass(frozen=True)
class Setting:
    """One setting of a run and the place in the spec that gives it."""

    key: str
    value: Value
    place: Place

    @property
    def override(self) -> str:
        """The setting as ``python -m repro`` takes it: ``key=value``."""
        return f"{self.key}={override_value(self.value)}"


@dataclass(frozen=True)
class Line:
    """A row or a column: its label, its settings, its place."""

    label: str
    settings: tuple[Setting, ...]
    place: Place


@dataclass(frozen=True)
class CellRule:
    """What holds for some cells only: further settings, or the reason why they are left out."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    settings: tuple[Setting, ...]
    skip: str | None


@dataclass(frozen=True)
class Epoch:
    """Where in a run a value is read: one of :data:`EPOCH_RULES`, or after ``number`` completed epochs (rule ``epoch``)."""

    rule: str
    number: int | None = None

    def __str__(self) -> str:
        """Return the rule as a spec writes it."""
        return self.rule if self.number is None else f"epoch {self.number}"


@dataclass(frozen=True)
class Reading:
    """What a table shows of a run: the metric, the epoch it is read at, its scale and decimals, and which direction is better."""

    metric: str
    epoch: Epoch
    scale: str
    decimals: int
    better: str


@dataclass(frozen=True)
class Panel:
    """One panel of a figure: the metric on its y axis, the axis's label, and its scale."""

    metric: str
    label: str
    scale: str


@dataclass(frozen=True)
class Spec:
    """What tables and figures have in common.

    Attributes:
        name: the file's name without ``.yaml``.
        path: the file.
        sha256: of the file's bytes; a plan remembers it.
        spread: ``sample_sd`` (n - 1 in the denominator) or ``none``.
    """

    name: str
    path: Path
    sha256: str
    title: str
    caption: str
    common: tuple[Setting, ...]
    rows: tuple[Line, ...]
    columns: tuple[Line, ...]
    repeats: tuple[tuple[Setting, ...], ...]
    exceptions: tuple[CellRule, ...]
    spread: str


@dataclass(frozen=True)
class TableSpec(Spec):
    """A table: one number a cell."""

    value: Reading


@dataclass(frozen=True)
class FigureSpec(Spec):
    """A figure: curves over epochs, a line for each row, a panel for each metric and column."""

    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Variant:
    """One run of a cell: what it repeats (such as ``seed``), and all its settings."""

    repeat: tuple[Setting, ...]
    settings: tuple[Setting, ...]

    @property
    def overrides(self) -> tuple[str, ...]:
        """The run's command line: choices before dotted names, each sorted."""
        ordered = sorted(self.settings, key=lambda setting: ("." in setting.key, setting.key))
        return tuple(setting.override for setting in ordered)

    @property
    def repeat_values(self) -> dict[str, Value]:
        """The settings that tell this run from the others of its cell."""
        return {setting.key: setting.value for setting in self.repeat}


@dataclass(frozen=True)
class Cell:
    """A row and a column: the runs of the cell, or why it has none."""

    row: str
    column: str
    variants: tuple[Variant, ...]
    skip: str | None
    place: Place


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
