"""What the YAML files of :mod:`sweeps` can say: specs, shared runs, scales and tuned values. docs/specs.md describes them.

A mistake is a :class:`SpecError` that names the file and the path of the value: ``sweeps/specs/table6.yaml: rows[3].set: ...``.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from repro.errors import UserError, did_you_mean, one_of

#: Settings of a run: a choice (``method``) or a dotted name (``noise.rate``), and a text, a number, true, false, null or a list of these.
Settings = dict[str, Any]
#: The name of a tuning, a dataset and a model.
Key = tuple[str, str, str]
_Item = TypeVar("_Item")
_Read = TypeVar("_Read", bound="Model")

PAPER = "paper"
EPOCH_RULES = ("last", "best_val", "best_test")
_FOLDER = Path(__file__).resolve().parent


class SpecError(UserError):
    """A mistake in a file that a user wrote; the message begins with the file."""


def shown(path: Path) -> str:
    """Return ``path`` as messages name it: relative where it lies below the working folder."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


class _Loader(yaml.SafeLoader):
    """YAML in which no key stands twice and ``1e-4`` is a number."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [key.value for key, _ in node.value]
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f"{key} is given twice, in the mapping that begins in line {node.start_mark.line + 1}.")
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789"))


@contextlib.contextmanager
def mistakes_of(path: Path, place: str = "") -> Iterator[None]:
    """Make every ``ValueError`` and ``UserError`` inside ``with`` a mistake at ``place`` of the file at ``path``."""
    try:
        yield
    except ValidationError as error:
        raise SpecError(f"{shown(path)}: {explain(error)}") from error
    except (ValueError, RecursionError, UserError) as error:
        raise SpecError(f"{shown(path)}: {place}{error}") from error


def read(model: type[_Read], path: Path) -> _Read:
    """Return the YAML file at ``path`` as a ``model``.

    Raises:
        SpecError: it cannot be read, or has a mistake.
    """
    with mistakes_of(path):
        try:
            parsed: _Read = _parse(model, path, path.read_bytes())
            return parsed
        except OSError as error:
            raise ValueError(f"it cannot be read: {error.strerror}.") from error
        except yaml.YAMLError as error:
            raise ValueError(f"it is not valid YAML: {' '.join(str(error).split())}") from error


@lru_cache(maxsize=256)
def _parse(model: type[_Read], path: Path, content: bytes) -> _Read:
    return model.model_validate(yaml.load(content.decode(), _Loader)).model_copy(update={"path": path})


def explain(error: ValidationError) -> str:
    """Return the first mistake that pydantic found, after the path of its value."""
    first = error.errors()[0]
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
    return f"{where}: {first['msg']}".removeprefix(": ").replace("Value error, ", "")


def find(name: str, known: Mapping[str, Path], kind: str) -> Path:
    """Return the file of the ``kind`` (spec, scale, cluster) that a user calls ``name``: one of ``known``, or a path ending in ``.yaml``.

    Raises:
        SpecError: there is none of that name.
    """
    if name.endswith((".yaml", ".yml")):
        return Path(name).resolve()
    if name not in known:
        near = did_you_mean(name, known)
        raise SpecError(f"there is no {kind} '{name}'.{near} Known: {one_of(known)}; or give the path of a .yaml file.")
    return known[name]


class Model(BaseModel):
    """A mapping of a file: it knows all of its keys, and says which is nearest to an unknown one. ``path`` is set of a whole file."""

    model_config = ConfigDict(frozen=True)

    path: Path = Field(default=Path(), exclude=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: object) -> object:
        allowed = [field.alias or name for name, field in cls.model_fields.items() if not field.exclude]
        for key in data if isinstance(data, dict) else ():
            if key not in allowed:
                raise ValueError(f"there is no key '{key}'.{did_you_mean(str(key), allowed)} Allowed: {', '.join(allowed)}.")
        return data


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
        return yaml.load(like.read_bytes(), _Loader) | {key: value for key, value in data.items() if key != "like"}

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


def look_up(name: str, among: Mapping[str, _Item], what: str) -> _Item:
    """Return the item called ``name``; ``what`` begins the message if there is none.

    Raises:
        ValueError: there is none.
    """
    if name not in among:
        raise ValueError(f"{what} '{name}'.{did_you_mean(name, among)} There are: {one_of(among) or 'none'}.")
    return among[name]


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


class Rule(Model):
    """One step of a scale: where a run has the settings ``where``, drop those called ``drop`` and put ``settings`` on top."""

    where: Set = {}
    drop: list[str] = []
    settings: Set = Field(default={}, alias="set")


class Scale(Model):
    """How every spec is retargeted.

    Attributes:
        name: part of the names of plans and of files of tuned values.
        disclaimer: what every page of this scale says of itself; empty at the paper's own.
        numbered_epochs: the epoch rule that stands for every ``epoch N``; ``None``: as the spec says.
        grid_points: how many values an axis of a grid has at most; ``None``: all.
        repeats: what a spec is repeated over in place of its own repeats, by its name.
        tuning: other grids for the tunings of shared files, by the name of the file and that of the tuning.
    """

    name: str = Field(alias="title", pattern=r"^[A-Za-z0-9][\w-]*$")
    disclaimer: str = ""
    rules: list[Rule] = []
    numbered_epochs: Literal["last", "best_val", "best_test"] | None = None
    grid_points: int | None = Field(default=None, ge=1)
    repeats: dict[str, Axes] = {}
    tuning: dict[str, dict[str, Grid]] = {}

    @model_validator(mode="after")
    def _means_something(self) -> Self:
        if self.name == PAPER and len(self.model_fields_set) > 1:
            raise ValueError(f"the scale {PAPER} is the paper's own and changes nothing. Give this one another title.")
        if self.name != PAPER and not self.disclaimer:
            raise ValueError("disclaimer is missing: one sentence that says on every page that the numbers are not the paper's.")
        for spec in self.repeats:
            look_up(spec, known_specs(), "repeats: there is no spec")
        return self

    def epoch(self, rule: str) -> str:
        """Return where a value is read at this scale that the spec reads at ``rule``."""
        return self.numbered_epochs if self.numbered_epochs and rule.startswith("epoch ") else rule

    def subsampled(self, values: Sequence[_Item]) -> list[_Item]:
        """Return at most :attr:`grid_points` of ``values``, evenly spaced, with the first and the last."""
        wanted = min(self.grid_points or len(values), len(values))
        return [values[index * (len(values) - 1) // max(1, wanted - 1)] for index in range(wanted)]


class Point(Model):
    """One point of a grid that was tried: its settings, the score of its run, and the run."""

    values: Set
    score: float
    run_id: str


class Chosen(Model):
    """What was chosen for one tuning, dataset and model, from what grid, and by what: the metric, its epoch rule, the seed of the runs."""

    name: str
    dataset: str
    model: str
    chosen: Set
    metric: str
    epoch: Epoch
    seed: int
    grid: list[Point]

    @property
    def key(self) -> Key:
        """What it is looked up by."""
        return self.name, self.dataset, self.model

    @property
    def at_end(self) -> list[str]:
        """The chosen numbers, or lists of them, at an end of three or more, where none inside does as well: a better one may lie beyond."""
        found = []
        best = next((point.score for point in self.grid if point.values == self.chosen), math.nan)
        for key, value in self.chosen.items():
            tried = [point.values[key] for point in self.grid]
            ends = () if isinstance(value, str) else (min(tried), max(tried))
            inside = [point.score for point in self.grid if point.values[key] not in ends]
            if value in ends and inside and best not in inside:
                found.append(f"{key}={value}")
        return found


class TunedFile(Model):
    """The chosen values of one scale."""

    version: Literal[1] = Field(alias="schema")
    scale: str
    tuned: list[Chosen]


def known_specs() -> dict[str, Path]:
    """Return the specs that come with the suite, by name."""
    return _known("specs")


def known_scales() -> dict[str, Path]:
    """Return the scales that come with the suite, by name."""
    return _known("scale")


def _known(folder: str) -> dict[str, Path]:
    return {path.stem: path for path in sorted((_FOLDER / folder).glob("*.yaml"))}


def load_spec(name: str) -> Spec:
    """Read the spec of that name, or at that path, which ends in ``.yaml``, with the runs and tunings that it shares.

    Raises:
        SpecError: there is none, or it or its shared file has a mistake.
    """
    spec = read(Spec, find(name, known_specs(), "spec"))
    if spec.shared is None:
        return spec
    beside = spec.shared.endswith((".yaml", ".yml"))
    path = spec.path.parent / spec.shared if beside else find(spec.shared, _known("shared"), "shared file")
    shared = read(Shared, path)
    with mistakes_of(spec.path):
        runs = join([(shown(path), shared.runs), ("runs", spec.runs)])
        tuning = join([(shown(path), shared.tuning), ("tuning", spec.tuning)])
    return spec.model_copy(update={"runs": runs, "tuning": tuning})


def load_scale(name: str) -> Scale:
    """Read the scale of that name, or at that path, which ends in ``.yaml``.

    Raises:
        SpecError: there is none, or it has a mistake.
    """
    return read(Scale, find(name, known_scales(), "scale"))


def tuned_folder() -> Path:
    """Return where chosen values lie: ``$REPRO_TUNED``, or ``tuned`` beside this file."""
    return Path(os.environ.get("REPRO_TUNED") or _FOLDER / "tuned")


def read_tuned(scale: Scale, folder: Path | None = None) -> dict[Key, Chosen]:
    """Return the chosen values of ``scale``, kept in ``folder``, or in that of :func:`tuned_folder`.

    Raises:
        SpecError: the file has a mistake.
    """
    path = (folder or tuned_folder()) / f"{scale.name}.yaml"
    return {chosen.key: chosen for chosen in read(TunedFile, path).tuned} if path.exists() else {}
