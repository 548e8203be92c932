"""What a spec says, once it is read: see :mod:`sweeps.spec`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sweeps.epochs import Epoch
from sweeps.nodes import Place, Value
from sweeps.parts import InputRef, NamedRun, TunedRef, Tuning, TuningUse
from sweeps.scale import Scale
from sweeps.settings import Setting, in_order, override_value
from sweeps.tuned import Tuned

__all__ = [
    "Cell",
    "CellRule",
    "FigureSpec",
    "Line",
    "Panel",
    "Reading",
    "RecipeSpec",
    "Reported",
    "Sample",
    "Setting",
    "Spec",
    "TableSpec",
    "Variant",
    "override_value",
]

KINDS = ("table", "figure", "recipe")
SCALES = ("percent", "fraction")
BETTER = ("higher", "lower", "neither")
#: What a panel of a figure can show.
PANELS = ("curve", "top_classes", "examples")


@dataclass(frozen=True)
class Line:
    """A row or a column: its label, what it says of its runs (that of the run it uses included), its place.

    Attributes:
        epoch: where this row's value is read, if not where the table's is.
        setting: what a row of a recipe shows.
    """

    label: str
    settings: tuple[Setting, ...]
    place: Place
    inputs: tuple[InputRef, ...] = ()
    tuned: tuple[TunedRef, ...] = ()
    epoch: Epoch | None = None
    setting: str | None = None


@dataclass(frozen=True)
class CellRule:
    """What holds for some cells only: what else their runs are, or the reason why they are left out."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    settings: tuple[Setting, ...]
    skip: str | None
    inputs: tuple[InputRef, ...] = ()
    tuned: tuple[TunedRef, ...] = ()


@dataclass(frozen=True)
class Reading:
    """What a table shows of a run: the metric, the epoch it is read at, its scale and decimals, and which direction is better.

    Attributes:
        place: of the metric.
    """

    metric: str
    epoch: Epoch
    scale: str
    decimals: int
    better: str
    place: Place


@dataclass(frozen=True)
class Sample:
    """So many classes or images, drawn with a seed."""

    count: int
    seed: int


@dataclass(frozen=True)
class Panel:
    """One panel of a figure.

    Attributes:
        metric: on its y axis; empty where the panel's type needs none.
        label: of the y axis.
        scale: of the y axis.
        type: one of :data:`PANELS`.
        rows: labels of the rows that it draws.
        classes: which classes it shows: drawn, or listed; ``None``: as the type does by itself.
        instances: which training images it shows, likewise.
    """

    metric: str
    label: str
    scale: str
    place: Place
    type: str = "curve"
    rows: tuple[str, ...] = ()
    classes: Sample | tuple[int, ...] | None = None
    instances: Sample | tuple[int, ...] | None = None


@dataclass(frozen=True)
class Reported:
    """A published number: of which row and column, with its spread, unit and source; ``own_run``: whether its source ran it itself."""

    row: str
    column: str
    mean: float
    sd: float | None
    unit: str
    own_run: bool
    source: str
    place: Place


@dataclass(frozen=True)
class Spec:
    """What tables, figures and recipes have in common.

    Attributes:
        name: the file's name without ``.yaml``.
        path: the file.
        sha256: of the file's bytes, and of whatever else decides which runs there are: shared names, the scale, chosen values; a
            plan remembers it.
        repeats: every combination of what is repeated; one empty combination where nothing is.
        spread: ``sample_sd`` (n - 1 in the denominator) or ``none``.
        runs: named runs, those of the shared file included.
        tunings: likewise.
        scale: how its runs are retargeted.
        tuned: the chosen values of that scale.
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
    runs: dict[str, NamedRun]
    tunings: dict[str, Tuning]
    reported: tuple[Reported, ...]
    scale: Scale
    tuned: Tuned
    files_sha256: str


@dataclass(frozen=True)
class TableSpec(Spec):
    """A table: one number a cell."""

    value: Reading


@dataclass(frozen=True)
class FigureSpec(Spec):
    """A figure: curves over epochs, a line for each row, a panel for each metric and column."""

    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class RecipeSpec(Spec):
    """A table of settings: a cell holds the value that a setting has, and needs no run."""


@dataclass(frozen=True)
class Variant:
    """One run: what it repeats in its cell (such as ``seed``), all its settings, and the runs it reads.

    Attributes:
        repeat: empty for a run that is read by others.
        settings: at the spec's scale, with chosen values.
        inputs: role -> runs, sorted by role.
        name: which named run it is, with its values of ``each``; empty for a run of a cell.
        uses: the tunings whose values it has, not those of its inputs.
    """

    repeat: tuple[Setting, ...]
    settings: tuple[Setting, ...]
    inputs: tuple[tuple[str, tuple[Variant, ...]], ...] = ()
    name: str = ""
    uses: tuple[TuningUse, ...] = ()

    @cached_property
    def overrides(self) -> tuple[str, ...]:
        """The run's command line without its inputs: choices before dotted names, each sorted."""
        return in_order(self.settings)

    @property
    def repeat_values(self) -> dict[str, Value]:
        """The settings that tell this run from the others of its cell."""
        return {setting.key: setting.value for setting in self.repeat}

    @property
    def read(self) -> tuple[Variant, ...]:
        """The runs it reads, in the order of the roles."""
        return tuple(variant for _, variants in self.inputs for variant in variants)


@dataclass(frozen=True)
class Cell:
    """A row and a column: the runs of the cell, or why it has none.

    Attributes:
        epoch: where its value is read, if not where the table's is.
        setting: of a recipe's cell, what it shows.
        recipe: of a recipe's cell, the settings that the value is one of.
    """

    row: str
    column: str
    variants: tuple[Variant, ...]
    skip: str | None
    place: Place
    epoch: Epoch | None = None
    setting: str | None = None
    recipe: Variant | None = None

    @property
    def title(self) -> str:
        """The cell in words, for messages."""
        return f"row '{self.row}', column '{self.column}'"
