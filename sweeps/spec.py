"""A table or a figure as data: which runs fill which cell, and how a number is read from them.

One YAML file describes one table (``kind: table``), figure (``kind: figure``) or table of settings (``kind: recipe``)::

    title: Label noise on digits
    kind: table
    caption: One or more sentences below the title.
    common: {dataset: digits}                                     # settings of every run
    rows:                                                         # a figure's lines
      - {label: One-hot, set: {method: one_hot}}
    columns:                                                      # a figure's columns of panels; a figure may have none
      - {label: "40%", set: {noise: uniform, noise.rate: 0.4}}
    repeats: {seed: [0, 1, 2]}                                    # what a cell's mean is over; several keys: every combination
    cells:                                                        # optional: what depends on row and column at once
      - {row: One-hot, column: "40%", skip: why this cell makes no sense}
      - {row: One-hot, column: ["40%"], set: {optim.epochs: 30}}  # no row (column): every row (column)
    value: {metric: test/accuracy, epoch: last, scale: percent, decimals: 1, better: higher}        # tables
    x: epoch                                                                                        # figures
    panels: [{metric: noise/label_error, label: Label error, scale: percent}]                       # figures
    cell: {statistic: mean, spread: sample_sd}

A setting is what ``python -m repro`` takes: a choice (``method: one_hot``) or a dotted name (``noise.rate: 0.4``). Each is given in one
place only; there is no order in which one place wins over another. Nothing here looks at whether a setting exists: the planner does,
when it composes the runs.

**Runs that read other runs.** Runs with a name are rows (``use``) or are read by others (``inputs``)::

    shared: paper                                                 # optional: sweeps/shared/paper.yaml, or a path ending in .yaml; its
                                                                  # runs and tuning are known here too
    runs:
      folds:
        set: {method: instance_labels, split: fold}
        each: {split.fold: [0, 1, 2, 3, 4]}                       # a run for each value; several keys: every combination
        tuned: label_rate                                         # put in the values that this tuning has chosen (a name, or several)
      final: {set: {method: replay, split: full}, inputs: {labels: folds}}
    rows:
      - {label: Ours, use: final}                                 # the run's set, inputs and tuned count as the row's
      - {label: Fold 0, set: {...}, inputs: {labels: {from: folds, where: {split.fold: 0}, set: {...}}}, epoch: best_val}
    columns: [{label: .., set: .., use: .., inputs: .., tuned: ..}]
    cells: [{row: .., column: .., set: .., use: .., inputs: .., tuned: ..}]

``labels`` reads one or more runs, ``teacher`` one. A run that is read trains on what its reader trains on: it begins with all
settings of its reader (common, row, column, cells, repeats, tuned values) but ``method`` and ``split``. On top come its own
``set``, that of the reference, ``each`` and its tuned values. On top means: a choice replaces the choice and everything below it, and
a ``model`` replaces ``optim`` too, because a model brings its recipe. ``epoch`` (a row of a table) is where the row is read, if
not at ``value.epoch``.

**Tuning.** A grid that ``python -m sweeps tune`` searches; the values are looked up by tuning, dataset and model (:mod:`sweeps.tuned`)::

    tuning:
      label_rate:
        set: {method: instance_labels, split: fold, split.fold: 0, seed: 0}     # on top of the settings of the first run that needs it
        inputs: {...}                                                           # optional
        grid: {method.learning_rate: [5.0, 25.0]}
        otherwise: {method.learning_rate: 50.0}                                 # the values until then; the same keys
        value: {metric: val/accuracy, epoch: last}                              # optional; no number of the test set may choose

**Recipes** (``kind: recipe``) show settings instead of results and need no run:
``rows: [{label: Learning rate, setting: optim.learning_rate}]``.

**Panels** of a figure can also say ``type: curve | top_classes | examples``, ``rows`` (labels of those it draws), ``classes`` and
``instances`` (``{count: 3, seed: 0}`` or a list of numbers); the metric of a curve may be a series per class, ``class_meta_accuracy/{k}``.

**Published numbers**: ``reported: {file: FILE.csv}``, relative to the spec (:mod:`sweeps.reported`); the column of a figure's is a
panel's label.

Every spec can be made at another scale (:mod:`sweeps.scale`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from repro.errors import did_you_mean, one_of
from sweeps.epochs import Epoch, read_epoch, read_metric
from sweeps.expansion import expand, walk
from sweeps.lines import read_lines, read_rules
from sweeps.names import read_names
from sweeps.nodes import Entry, SpecError, existing, read_file, read_yaml, shortened
from sweeps.panels import read_panel
from sweeps.reported import read_reported
from sweeps.scale import PAPER, Scale, known_scales, load_scale
from sweeps.schema import (
    BETTER,
    KINDS,
    SCALES,
    Cell,
    FigureSpec,
    Line,
    Panel,
    Reading,
    RecipeSpec,
    Reported,
    Sample,
    Spec,
    TableSpec,
    Variant,
)
from sweeps.settings import combinations, read_axes, read_settings
from sweeps.tuned import Key, Tuned, read_tuned

__all__ = [
    "PAPER",
    "Cell",
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
    "Variant",
    "expand",
    "find_spec",
    "known_scales",
    "known_specs",
    "load_scale",
    "load_spec",
    "with_tuned",
]

_FOLDER = Path(__file__).resolve().parent / "specs"
_Spec = TypeVar("_Spec", bound=Spec)


def known_specs() -> dict[str, Path]:
    """Return the specs that come with the suite, by name."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.yaml"))}


def find_spec(name: str) -> Path:
    """Return the file of a spec: a name such as ``demo``, or a path that ends in ``.yaml``.

    Raises:
        SpecError: there is no such spec; the message lists those there are.
    """
    if name.endswith((".yaml", ".yml")):
        return existing(name)
    known = known_specs()
    if name not in known:
        near = did_you_mean(name, known)
        raise SpecError(
            f"'{shortened(name)}': there is no spec of that name.{near} Known: {one_of(known)}; or give the path of a .yaml file."
        )
    return known[name]


def load_spec(name: str, scale: Scale = PAPER, tuned: Tuned | None = None) -> TableSpec | FigureSpec | RecipeSpec:
    """Read and check the spec of that name or path, at ``scale``; ``tuned`` are its chosen values, read from their file unless given.

    Raises:
        SpecError: there is none, or it has a mistake; the message names the file and the line.
    """
    path = find_spec(name)
    spec = _parse(path, read_file(path), scale)
    return with_tuned(spec, read_tuned(scale) if tuned is None else tuned)


def with_tuned(spec: _Spec, tuned: Tuned) -> _Spec:
    """Return ``spec`` with other chosen values, checked.

    Raises:
        SpecError: a tuned value cannot be looked up, or is set as well.
    """
    spec = replace(spec, tuned=tuned)
    used = _used(expand(spec))
    parts = [spec.files_sha256, *(f"{key}: {', '.join(item.override for item in tuned.chosen[key].values)}" for key in used)]
    return replace(spec, sha256=parts[0] if len(parts) == 1 else hashlib.sha256("\n".join(parts).encode()).hexdigest())


def _used(cells: Iterable[Cell]) -> list[Key]:
    """Return whose chosen values the runs of ``cells`` have."""
    seen: set[int] = set()
    keys: set[Key] = set()
    for cell in cells:
        for variant in (*cell.variants, *((cell.recipe,) if cell.recipe else ())):
            for item in walk(variant, seen):
                keys.update(use.key for use in item.uses if use.chosen)
    return sorted(keys)


_COMMON = ("title", "kind", "caption", "shared", "runs", "tuning", "common", "rows", "columns", "cells", "reported")
_OWN = {"table": ("repeats", "cell", "value"), "figure": ("repeats", "cell", "x", "panels"), "recipe": ()}
_REQUIRED = {
    "table": ("title", "rows", "columns", "repeats", "value"),
    "figure": ("title", "rows", "repeats", "x", "panels"),
    "recipe": ("title", "rows", "columns"),
}


def _parse(path: Path, content: bytes, scale: Scale) -> TableSpec | FigureSpec | RecipeSpec:
    root = read_yaml(path, content)
    every = root.mapping(allowed=dict.fromkeys((*_COMMON, *_OWN["table"], *_OWN["figure"])), required=("kind",))
    kind = every["kind"].choice(KINDS)
    entries = root.mapping(allowed=(*_COMMON, *_OWN[kind]), required=_REQUIRED[kind])
    names = read_names(entries, path, scale)
    rows = read_lines(entries["rows"], names, scale, own={"table": ("epoch",), "figure": (), "recipe": ("setting",)}[kind])
    columns = read_lines(entries["columns"], names, scale) if "columns" in entries else (Line("", (), root.place),)
    sha256 = hashlib.sha256(content).hexdigest()
    others = [item for item in (names.sha256, scale.sha256) if item]
    both: dict[str, Any] = {
        "name": path.stem,
        "path": path,
        "sha256": "",
        "files_sha256": hashlib.sha256(" ".join([sha256, *others]).encode()).hexdigest() if others else sha256,
        "title": entries["title"].line(),
        "caption": entries["caption"].text() if "caption" in entries else "",
        "common": read_settings(entries["common"]) if "common" in entries else (),
        "rows": rows,
        "columns": columns,
        "repeats": combinations(read_axes(entries["repeats"])) if "repeats" in entries else ((),),
        "exceptions": read_rules(entries["cells"], rows, columns, names) if "cells" in entries else (),
        "spread": _spread(entries.get("cell")),
        "runs": names.runs,
        "tunings": names.tunings,
        "scale": scale,
        "tuned": Tuned(path),
    }
    names.check_used(entries)
    panels = _panels(entries, rows) if kind == "figure" else ()
    labels = list(dict.fromkeys(item.label for item in panels or columns))
    both["reported"] = (
        read_reported(entries["reported"], path.parent, rows=[row.label for row in rows], columns=labels) if "reported" in entries else ()
    )
    if kind == "table":
        return TableSpec(value=_reading(entries["value"], scale), **both)
    return FigureSpec(panels=panels, **both) if kind == "figure" else RecipeSpec(**both)


def _panels(entries: Mapping[str, Entry], rows: tuple[Line, ...]) -> tuple[Panel, ...]:
    entries["x"].choice(("epoch",))
    panels: list[Panel] = []
    for item in entries["panels"].items():
        panel = read_panel(item, tuple(row.label for row in rows))
        twin = next((other for other in panels if replace(other, label=panel.label, place=panel.place) == panel), None)
        if twin is not None:
            raise item.place.error(f"{item.name} draws the same as the panel '{twin.label}' (line {twin.place.line}). Take one out.")
        panels.append(panel)
    for row in rows:
        if not any(row.label in panel.rows for panel in panels):
            raise row.place.error(f"the row '{row.label}' is drawn by no panel. Take it out, or name it in the rows of one.")
    return tuple(panels)


def _reading(entry: Entry, scale: Scale) -> Reading:
    parts = entry.mapping(allowed=("metric", "epoch", "scale", "decimals", "better"), required=("metric", "epoch"))
    shown = parts["scale"].choice(SCALES) if "scale" in parts else "fraction"
    return Reading(
        metric=read_metric(parts["metric"]),
        epoch=read_epoch(parts["epoch"], numbered=scale.numbered_epochs),
        scale=shown,
        decimals=parts["decimals"].integer(at_least=0, at_most=12) if "decimals" in parts else {"percent": 1, "fraction": 4}[shown],
        better=parts["better"].choice(BETTER) if "better" in parts else "neither",
        place=parts["metric"].place,
    )


def _spread(entry: Entry | None) -> str:
    """Return how the spread of a cell's runs is given; the mean is the only statistic there is."""
    if entry is None:
        return "sample_sd"
    parts = entry.mapping(allowed=("statistic", "spread"))
    if "statistic" in parts:
        parts["statistic"].choice(("mean",))
    return parts["spread"].choice(("sample_sd", "none")) if "spread" in parts else "sample_sd"
