"""What a spec can say: the runs of a table, a figure or a recipe as data, and those that specs share. docs/specs.md describes it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from repro.errors import did_you_mean
from sweeps.yaml_files import Model, find, known, loaded, look_up, mistakes_of, read, shown

#: Settings of a run: a choice (``method``) or a dotted name (``noise.rate``), and a text, a number, true, false, null or a list of these.
Settings = dict[str, Any]
_Item = TypeVar("_Item")

EPOCH_RULES = ("last", "best_val", "best_test")


def _check_settings(settings: Settings) -> Settings:
    for key, value in settings.items():
        section = key.partition(".")[0]
        if section in ("exec", "tracker", "paths", "hydra"):
            raise ValueError(f"{key} says how runs are executed, not what they are. Give it to `python -m sweeps run SPEC --set`.")
        if section == "inputs":
            raise ValueError("write inputs: {labels: NAME} beside set; the planner finds the runs.")
        for item in value if isinstance(value, list) else [value]:
            if not isinstance(item, str | int | float | None) or "${" in str(item):
                raise ValueError(f"{key} must be a text, a number, true, false, null or a list of these, found {str(item)[:60]!r}.")
    return settings


def _check_axes(axes: dict[str, list[Any]]) -> dict[str, list[Any]]:
    for key, values in axes.items():
        for index, value in enumerate(values):
            _check_settings({key: value})
            if value in values[:index]:
                raise ValueError(f"{key} has {value!r} twice, so one run would count twice.")
    return axes


def _check_epoch(rule: str) -> str:
    if rule not in EPOCH_RULES and not re.fullmatch(r"epoch [1-9]\d*", rule):
        near = did_you_mean(rule, EPOCH_RULES)
        raise ValueError(f"there is no epoch rule '{rule}'.{near} Allowed: {', '.join(EPOCH_RULES)}, or epoch N from 1.")
    return rule


#: What a run is made of; each of several settings with its values; where in a run a value is read; one name or several.
Set = Annotated[Settings, AfterValidator(_check_settings)]
Axes = Annotated[dict[str, Annotated[list[Any], Field(min_length=1)]], AfterValidator(_check_axes)]
Epoch = Annotated[str, AfterValidator(_check_epoch)]
Names = Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]


class Input(Model):
    """Which runs a run reads: of a named run, with ``settings`` on top of its own, those whose ``each`` has the values ``where``."""

    run: str = Field(alias="from")
    settings: Set = Field(default={}, alias="set")
    where: Set = {}


Inputs = dict[
    Literal["labels", "teacher"], Annotated[Input, BeforeValidator(lambda value: {"from": value} if isinstance(value, str) else value)]
]


class Part(Model):
    """What a row, a column, some cells, a named run or a tuning say of a run; ``tuned`` are names of tunings."""

    settings: Set = Field(default={}, alias="set")
    inputs: Inputs = {}
    tuned: Names = []


class Run(Part):
    """A run with a name; every combination of the values of ``each`` makes one run of it."""

    each: Axes = {}


class Grid(Model):
    """What a tuning searches: for each setting its values, and what it is until it is tuned."""

    grid: Axes
    otherwise: Set


class Tuning(Part, Grid):
    """A grid of settings, of which the best on the validation set is chosen; ``otherwise`` holds until then."""


class Used(Part):
    """A part that may be made of the named run ``use``."""

    use: str | None = None


class Line(Used):
    """A row or a column; or, with ``rows`` or ``columns``, what these have in common.

    Attributes:
        epoch: where its value is read, if not where the table's is.
        setting: of a recipe's row, what it shows.
        epochs: of a group, by name where each of its rows is read.
    """

    label: str = ""
    epoch: Epoch | None = None
    setting: str | None = None
    epochs: dict[str, Epoch] = {}
    rows: list[Line] = []
    columns: list[Line] = []


class CellRule(Used):
    """What holds for some cells only: what else their runs are, or the reason why they are left out. No ``row`` means every row."""

    row: Names = []
    column: Names = []
    skip: str | None = None

    def holds_for(self, row: str, column: str) -> bool:
        """Say whether the cell of ``row`` and ``column`` is one of them."""
        return (not self.row or row in self.row) and (not self.column or column in self.column)


class Shared(Model):
    """Named runs and tunings, of one spec or of several."""

    runs: dict[str, Run] = {}
    tuning: dict[str, Tuning] = {}


class Reading(Model):
    """What a table shows of a run: the metric, the epoch it is read at, its scale and decimals, and which direction is better."""

    metric: str
    epoch: Epoch
    scale: Literal["percent", "fraction"] = "fraction"
    decimals: int = Field(default_factory=lambda data: 1 if data["scale"] == "percent" else 4, ge=0, le=12)
    better: Literal["higher", "lower", "neither"] = "neither"


class Sample(Model):
    """So many classes or images, drawn with a seed."""

    count: int = Field(ge=1)
    seed: int = Field(ge=0)


class Panel(Model):
    """One panel of a figure.

    Attributes:
        metric: of a curve; ``class_meta_accuracy/{k}`` is a series for each class.
        rows: labels of those it draws; all where it names none.
        classes: which classes it shows, drawn or listed; ``None``: as the type does by itself.
        instances: which training images it shows, likewise.
    """

    label: str
    metric: str = ""
    scale: Literal["percent", "fraction"] = "fraction"
    type: Literal["curve", "top_classes", "examples"] = "curve"
    rows: Names = []
    classes: Sample | list[int] | None = None
    instances: Sample | list[int] | None = None


class ReportedFile(Model):
    """The CSV of the published numbers, relative to the spec."""

    file: str


class Spec(Shared):
    """A table, a figure or a recipe as data; read with :func:`load_spec`, its runs and tunings include those of the shared file.

    The YAML of one may begin with ``like``, the name of a spec of the suite that says whatever it does not say itself.

    Attributes:
        repeats: what is repeated in every cell, such as ``{"seed": [0, 1, 2]}``.
        value: of a table; nothing reads that of another kind.
        panels: of a figure.
    """

    title: str
    kind: Literal["table", "figure", "recipe"]
    caption: str = ""
    shared: str | None = None
    reported: ReportedFile | None = None
    common: Set = {}
    rows: list[Line] = Field(min_length=1)
    columns: list[Line] = [Line()]
    cells: list[CellRule] = []
    repeats: Axes = {}
    value: Reading = Reading(metric="", epoch="last")
    panels: list[Panel] = []

    @property
    def name(self) -> str:
        """The file's name without ``.yaml``."""
        return self.path.stem

    @cached_property
    def row_lines(self) -> list[Line]:
        """Every row, those of groups included."""
        return list(_flat(self.rows, self.value.epoch))

    @cached_property
    def column_lines(self) -> list[Line]:
        """Every column, likewise."""
        return list(_flat(self.columns, self.value.epoch))

    @model_validator(mode="before")
    @classmethod
    def _like_another(cls, data: object) -> object:
        if not isinstance(data, dict) or "like" not in data:
            return data
        like = look_up(str(data["like"]), known_specs(), "like: there is no spec")
        return loaded(like.read_bytes()) | {key: value for key, value in data.items() if key != "like"}

    @model_validator(mode="after")
    def _means_something(self) -> Self:
        if self.kind == "table" and not self.value.metric:
            raise ValueError("a table needs value: {metric: ..., epoch: ...}.")
        rows, columns = ([line.label for line in lines] for lines in (self.row_lines, self.column_lines))
        for label in (*rows, *columns):
            if rows.count(label) > 1 or columns.count(label) > 1:
                raise ValueError(f"the label '{label}' is given twice.")
        for label in chain(*(rule.row for rule in self.cells), *(panel.rows for panel in self.panels)):
            look_up(label, dict.fromkeys(rows), "there is no row")
        for label in chain(*(rule.column for rule in self.cells)):
            look_up(label, dict.fromkeys(columns), "there is no column")
        return self


def _flat(lines: Sequence[Line], table_epoch: str) -> Iterator[Line]:
    for group in lines:
        below = group.rows or group.columns
        if not below:
            yield group
        for line in below:
            if group.use and line.use:
                raise ValueError(f"'{line.label}': use is set by its group too. Set it in one place.")
            given = dict(merge([("its group", group), (f"'{line.label}'", line)])) | {"use": line.use or group.use}
            if not group.epochs:
                yield line.model_copy(update=given)
            for name, rule in group.epochs.items():
                label, epoch = f"{line.label}, {name}", None if rule == table_epoch else rule
                yield line.model_copy(update=given | {"label": label, "epoch": epoch})


def join(sources: Iterable[tuple[str, Mapping[Any, _Item]]]) -> dict[Any, _Item]:
    """Return what several sources, each with its name, say together.

    Raises:
        ValueError: two of them set the same.
    """
    joined: dict[Any, _Item] = {}
    setter: dict[Any, str] = {}
    for source, items in sources:
        for key, item in items.items():
            if key in joined:
                raise ValueError(f"{key} is set by {setter[key]} and by {source}. Set it in one place.")
            joined[key], setter[key] = item, source
    return joined


def merge(parts: Sequence[tuple[str, Part]]) -> Part:
    """Return what several parts, each with its name, say of one run.

    Raises:
        ValueError: a setting or an input is given by two of them.
    """
    return Part.model_construct(
        settings=join((name, part.settings) for name, part in parts),
        inputs=join((name, part.inputs) for name, part in parts),
        tuned=list(dict.fromkeys(tuning for _, part in parts for tuning in part.tuned)),
    )


def known_specs() -> dict[str, Path]:
    """Return the specs that come with the suite, by name."""
    return known("specs")


def load_spec(name: str) -> Spec:
    """Read the spec of that name, or at that path, which ends in ``.yaml``, with the runs and tunings that it shares.

    Raises:
        SpecError: there is none, or it or its shared file has a mistake.
    """
    spec = read(Spec, find(name, known_specs(), "spec"))
    if spec.shared is None:
        return spec
    beside = spec.shared.endswith((".yaml", ".yml"))
    path = spec.path.parent / spec.shared if beside else find(spec.shared, known("shared"), "shared file")
    shared = read(Shared, path)
    with mistakes_of(spec.path):
        runs = join([(shown(path), shared.runs), ("runs", spec.runs)])
        tuning = join([(shown(path), shared.tuning), ("tuning", spec.tuning)])
    return spec.model_copy(update={"runs": runs, "tuning": tuning})
