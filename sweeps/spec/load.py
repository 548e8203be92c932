"""Specs: tables and figures as data. docs/specs.md describes the files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import Discriminator, Field, PlainValidator, Tag, model_validator

from repro.errors import did_you_mean
from sweeps.reported import Reported, check_labels, read_reported
from sweeps.spec.chosen import Key, Tuned, read_tuned
from sweeps.spec.data import Map, SpecError, Text, shortened
from sweeps.spec.expansion import expand, walk
from sweeps.spec.loader import load, named_file, read_file
from sweeps.spec.models import AnyText, Epoch, EpochRule, Items, Line, Metric, MetricFamily, Model, Names, Unique, integer, validate
from sweeps.spec.rows import CellRule, RecipeRow, Row, TableRow, lines
from sweeps.spec.runs import Known, Shared, read_shared
from sweeps.spec.scale import PAPER, Scale, known_scales, load_scale
from sweeps.spec.settings import Combinations, SettingList, combinations

__all__ = [
    "PAPER",
    "Epoch",
    "FigureSpec",
    "Panel",
    "Reading",
    "RecipeSpec",
    "Reported",
    "Sample",
    "Scale",
    "Spec",
    "SpecError",
    "TableSpec",
    "expand",
    "find_spec",
    "known_scales",
    "known_specs",
    "load_scale",
    "load_spec",
    "with_tuned",
]

_FOLDER = Path(__file__).resolve().parents[1] / "specs"
_LARGEST = 2**31 - 1
_Shown = Literal["percent", "fraction"]
_Spec = TypeVar("_Spec", bound="Spec")


class Reading(Model):
    """What a table shows of a run: the metric, the epoch it is read at, its scale and decimals, and which direction is better."""

    metric: Metric
    epoch: EpochRule
    scale: _Shown = "fraction"
    decimals: Annotated[int, integer(0, 12)] = Field(default_factory=lambda data: 1 if data.get("scale") == "percent" else 4)
    better: Literal["higher", "lower", "neither"] = "neither"


class Sample(Model):
    """So many classes or images, drawn with a seed."""

    count: Annotated[int, integer(1, _LARGEST)]
    seed: Annotated[int, integer(0, _LARGEST)]


_Drawn = Annotated[
    Annotated[Sample, Tag("drawn")] | Annotated[Unique[Annotated[int, integer(0, _LARGEST)]], Tag("listed")],
    Discriminator(lambda value: "listed" if isinstance(value, list | tuple) else "drawn"),
]


class Panel(Model):
    """One panel of a figure.

    Attributes:
        metric: on its y axis; empty where the panel's type needs none.
        classes: which classes it shows: drawn, or listed; ``None``: as the type does by itself.
        instances: which training images it shows, likewise.
    """

    label: Line
    metric: MetricFamily = ""
    scale: _Shown = "fraction"
    type: Literal["curve", "top_classes", "examples"] = "curve"
    rows: Names = ()
    classes: _Drawn | None = None
    instances: _Drawn | None = None

    @model_validator(mode="after")
    def _has_effect(self) -> Self:
        """Refuse what a panel of this type does not look at."""
        if self.node is None:
            return self
        if self.type == "curve":
            if not self.metric:
                raise self.place.error(f"{self.node.name}.metric is missing: a curve is that of a metric.")
            unused = ["instances", *([] if "{k}" in self.metric else ["classes"])]
            remedy = "a curve has no images, and classes only where its metric is a series per class, such as class_meta_accuracy/{k}"
        else:
            unused = ["metric", "classes"]
            remedy = f"type: {self.type} shows labels of images, chosen by instances"
        for key in unused:
            if key in self.node:
                raise self.at(key).error(f"{self.node.below(key)} has no effect: {remedy}. Take it out.")
        return self


class CellFormat(Model):
    """How the runs of a cell are summarized: the mean is the only statistic there is; ``sample_sd`` has n - 1 in the denominator."""

    statistic: Literal["mean"] = "mean"
    spread: Literal["sample_sd", "none"] = "sample_sd"


class Spec(Shared):
    """What tables, figures and recipes have in common.

    Attributes:
        repeats: every combination of what is repeated; one empty combination where nothing is.
        runs: named runs, once read those of the shared file included.
        tunings: likewise.
        scale: how its runs are retargeted.
        tuned: the chosen values of that scale.
        files_sha256: of the file's bytes, and of the shared file and the scale.
        sha256: of that and of the chosen values, so of whatever decides which runs there are; a plan remembers it.
    """

    hidden: ClassVar[tuple[str, ...]] = ("scale", "tuned", "files_sha256", "sha256")

    title: Line
    kind: Literal["table", "figure", "recipe"]
    caption: AnyText = ""
    shared: Annotated[Shared | None, PlainValidator(read_shared)] = None
    common: SettingList = ()
    rows: Annotated[tuple[Row, ...], lines(Row, "rows")]
    columns: Annotated[tuple[Row, ...], lines(Row, "columns")]
    exceptions: Items[CellRule] = Field(default=(), alias="cells")
    repeats: Combinations = ((),)
    cell: CellFormat = CellFormat()
    reported: Annotated[tuple[Reported, ...], PlainValidator(read_reported)] = ()
    scale: Scale = PAPER
    tuned: Tuned = Tuned(Path())
    files_sha256: str = ""

    @property
    def path(self) -> Path:
        """The file."""
        return self.place.path

    @property
    def name(self) -> str:
        """The file's name without ``.yaml``."""
        return self.path.stem

    @property
    def spread(self) -> str:
        """How the spread of a cell's runs is given."""
        return self.cell.spread

    @property
    def draws_labels(self) -> bool:
        """Whether it is a figure with panels of single labels."""
        return isinstance(self, FigureSpec) and any(panel.type != "curve" for panel in self.panels)


class TableSpec(Spec):
    """A table: one number a cell."""

    rows: Annotated[tuple[TableRow, ...], lines(TableRow, "rows")]
    repeats: Combinations
    value: Reading


class FigureSpec(Spec):
    """A figure: curves over epochs, a line for each row, a panel for each metric and column."""

    columns: Annotated[tuple[Row, ...], lines(Row, "columns")] = (Row.model_construct(label=""),)
    repeats: Combinations
    x: Literal["epoch"]
    panels: Items[Panel]


class RecipeSpec(Spec):
    """A table of settings: a cell holds the value that a setting has, and needs no run."""

    hidden = (*Spec.hidden, "repeats", "cell")

    rows: Annotated[tuple[RecipeRow, ...], lines(RecipeRow, "rows")]


_KINDS: dict[str, type[TableSpec | FigureSpec | RecipeSpec]] = {"table": TableSpec, "figure": FigureSpec, "recipe": RecipeSpec}


def known_specs() -> dict[str, Path]:
    """Return the specs that come with the suite, by name."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.yaml"))}


def find_spec(name: str) -> Path:
    """Return the file of a spec: a name such as ``demo``, or a path that ends in ``.yaml``.

    Raises:
        SpecError: there is no such spec; the message lists those there are.
    """
    return named_file(name, known_specs(), "spec")


def load_spec(name: str, scale: Scale = PAPER, tuned: Tuned | None = None) -> TableSpec | FigureSpec | RecipeSpec:
    """Read and check the spec of that name or path, at ``scale``; ``tuned`` are its chosen values, read from their file unless given.

    Raises:
        SpecError: there is none, or it has a mistake; the message names the file and the line.
    """
    path = find_spec(name)
    content = read_file(path)
    data = load(path, content)
    value = data.get("value")
    context = {"numbered_epochs": scale.numbered_epochs, "epoch": value.get("epoch") if isinstance(value, Map) else None}
    spec = validate(_KINDS.get(str(data.get("kind")), TableSpec), data, context)
    spec = _repeated(spec, scale)
    spec = _resolved(spec, scale)
    shared = spec.shared.sha256 if spec.shared else ""
    parts = [hashlib.sha256(content).hexdigest(), *(item for item in (shared, scale.sha256) if item)]
    sha256 = parts[0] if len(parts) == 1 else hashlib.sha256(" ".join(parts).encode()).hexdigest()
    spec = spec.model_copy(update={"files_sha256": sha256, "scale": scale})
    return with_tuned(spec, read_tuned(scale) if tuned is None else tuned)


def _repeated(spec: _Spec, scale: Scale) -> _Spec:
    """Return ``spec`` with the repeats that the scale has for it."""
    for name, axes in scale.repeats.items():
        if name not in known_specs():
            raise axes[0][0].place.error(f"repeats: there is no spec '{name}'.{did_you_mean(name, known_specs())}")
        if name == spec.name:
            if {axis[0].key for axis in axes} != {setting.key for setting in spec.repeats[0]}:
                raise axes[0][0].place.error(f"repeats.{name} must have the keys that the spec repeats.")
            return spec.model_copy(update={"repeats": combinations(axes)})
    return spec


def with_tuned(spec: _Spec, tuned: Tuned) -> _Spec:
    """Return ``spec`` with other chosen values, checked.

    Raises:
        SpecError: a tuned value cannot be looked up, or is set as well.
    """
    spec = spec.model_copy(update={"tuned": tuned})
    seen: set[int] = set()
    runs = (run for cell in expand(spec) for variant in cell.composed for run in walk(variant, seen))
    used: set[Key] = {use.key for run in runs for use in run.uses if use.chosen}
    parts = [spec.files_sha256, *(f"{key}: {', '.join(item.override for item in tuned.chosen[key].values)}" for key in sorted(used))]
    return spec.model_copy(update={"sha256": parts[0] if len(parts) == 1 else hashlib.sha256("\n".join(parts).encode()).hexdigest()})


def _resolved(spec: _Spec, scale: Scale) -> _Spec:
    """Return ``spec`` with every name looked up: runs that rows use, labels that cells and panels name."""
    names = Known(spec, spec.shared, scale)
    update: dict[str, Any] = {"runs": names.runs, "tunings": names.tunings}
    for kind, items in (("row", spec.rows), ("column", spec.columns)):
        seen: dict[str, Row] = {}
        for item in items:
            if item.label in seen:
                line = seen[item.label].place.line
                raise item.at("label").error(f"{kind}s: the label '{item.label}' is given twice, first in line {line}.")
            seen[item.label] = item.model_copy(update=names.part(item, item.use, f"{kind} '{item.label}'"))
        update[f"{kind}s"] = tuple(seen.values())
    rows, columns = [item.label for item in spec.rows], [item.label for item in spec.columns]
    exceptions = []
    for rule in spec.exceptions:
        title = rule.node.name if rule.node else "cells"
        labels = {"rows": _labels(rule.rows, rows, f"{title}.row"), "columns": _labels(rule.columns, columns, f"{title}.column")}
        exceptions.append(rule.model_copy(update=labels | names.part(rule, rule.use, title)))
    _check_effect(exceptions)
    names.check_used(spec, spec.node["shared"] if spec.shared and spec.node else None)
    update["exceptions"] = tuple(exceptions)
    if isinstance(spec, FigureSpec):
        update["panels"] = _panels(spec, rows)
        columns = [panel.label for panel in spec.panels]
    check_labels(spec.reported, rows, list(dict.fromkeys(columns)))
    return spec.model_copy(update=update)


def _labels(given: Iterable[Text], labels: Sequence[str], name: str) -> tuple[str, ...]:
    for label in given:
        if label not in labels:
            near = did_you_mean(label, labels)
            raise label.place.error(f"{name}: '{shortened(label)}' does not exist.{near} Allowed: {', '.join(labels)}.")
    chosen = tuple(given)
    return tuple(label for label in labels if not chosen or label in chosen)


def _check_effect(rules: Sequence[CellRule]) -> None:
    """Refuse cells that are left out twice, and entries about cells that are all left out."""
    left_out: dict[tuple[str, str], int] = {}
    for index, rule in enumerate(rules):
        for cell in product(rule.rows, rule.columns) if rule.skip is not None else ():
            if cell in left_out:
                said = f"cells[{index}]: row '{cell[0]}', column '{cell[1]}' is left out already, in line {left_out[cell]}."
                raise rule.place.error(said)
            left_out[cell] = rule.place.line
    for index, rule in enumerate(rules):
        if rule.skip is None and all(cell in left_out for cell in product(rule.rows, rule.columns)):
            raise rule.place.error(f"cells[{index}] has no effect: all of its cells are left out. Take it out.")


def _panels(spec: FigureSpec, rows: Sequence[str]) -> tuple[Panel, ...]:
    panels: dict[Panel, Panel] = {}
    for index, panel in enumerate(spec.panels):
        panel = panel.model_copy(update={"rows": _labels(panel.rows, rows, f"panels[{index}].rows")})
        same = panel.model_copy(update={"label": "", "node": None})
        if same in panels:
            twin = panels[same]
            said = f"draws the same as the panel '{twin.label}' (line {twin.place.line}). Take one out."
            raise panel.place.error(f"panels[{index}] {said}")
        panels[same] = panel
    for row in spec.rows:
        if not any(row.label in panel.rows for panel in panels.values()):
            raise row.place.error(f"the row '{row.label}' is drawn by no panel. Take it out, or name it in the rows of one.")
    return tuple(panels.values())
