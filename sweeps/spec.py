"""A table or a figure as data: which runs fill which cell, and how a number is read from them.

One YAML file describes one table (``kind: table``) or figure (``kind: figure``)::

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
"""

from __future__ import annotations

import hashlib
import re
from itertools import product
from pathlib import Path
from typing import Any

from repro.errors import did_you_mean, one_of
from sweeps.nodes import Entry, SpecError, read_yaml
from sweeps.schema import (
    BETTER,
    EPOCH_RULES,
    KINDS,
    SCALES,
    Cell,
    CellRule,
    Epoch,
    FigureSpec,
    Line,
    Panel,
    Reading,
    Setting,
    Spec,
    TableSpec,
    Variant,
)

__all__ = [
    "Cell",
    "Epoch",
    "FigureSpec",
    "Panel",
    "Reading",
    "Spec",
    "SpecError",
    "TableSpec",
    "Variant",
    "expand",
    "find_spec",
    "known_specs",
    "load_spec",
]

_FOLDER = Path(__file__).resolve().parent / "specs"
_KEY = re.compile(r"[A-Za-z_]\w*(\.\w+)*", re.ASCII)
_METRIC = re.compile(r"\w+/\w+", re.ASCII)


def known_specs() -> dict[str, Path]:
    """Return the specs that come with the suite, by name."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.yaml"))}


def find_spec(name: str) -> Path:
    """Return the file of a spec: a name such as ``demo``, or a path that ends in ``.yaml``.

    Raises:
        SpecError: there is no such spec; the message lists those there are.
    """
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise SpecError(f"{name}: there is no such file.")
        return Path(name).resolve()
    known = known_specs()
    if name not in known:
        raise SpecError(
            f"'{name}': there is no spec of that name.{did_you_mean(name, known)} Known: {one_of(known)}; or give the path of a .yaml file."
        )
    return known[name]


def load_spec(name: str) -> TableSpec | FigureSpec:
    """Read and check the spec of that name or path.

    Raises:
        SpecError: there is none, or it has a mistake; the message names the file and the line.
    """
    path = find_spec(name)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}.") from error
    spec = _parse(path, content)
    expand(spec)
    return spec


def expand(spec: Spec) -> tuple[Cell, ...]:
    """Return every cell, row by row, with the settings of its runs.

    Raises:
        SpecError: a setting is given in two places, or for a cell that is left out.
    """
    cells = []
    for row, column in product(spec.rows, spec.columns):
        own = [item for item in spec.exceptions if row.label in item.rows and column.label in item.columns]
        skip = next((item.skip for item in own if item.skip is not None), None)
        sources = [
            ("common", spec.common),
            (f"row '{row.label}'", row.settings),
            (f"column '{column.label}'", column.settings),
            *(("cells", item.settings) for item in own),
        ]
        variants = tuple(Variant(repeat, _join([*sources, ("repeats", repeat)])) for repeat in spec.repeats) if skip is None else ()
        cells.append(Cell(row.label, column.label, variants, skip, row.place))
    return tuple(cells)


def _join(sources: list[tuple[str, tuple[Setting, ...]]]) -> tuple[Setting, ...]:
    seen: dict[str, tuple[str, Setting]] = {}
    for source, settings in sources:
        for setting in settings:
            if setting.key in seen:
                other, before = seen[setting.key]
                raise setting.place.error(f"{setting.key} is set by {source} and by {other} ({before.place}). Set it in one place.")
            seen[setting.key] = (source, setting)
    return tuple(setting for _, setting in seen.values())


_SHARED = ("title", "kind", "caption", "common", "rows", "columns", "repeats", "cells", "cell")
_OWN = {"table": ("value",), "figure": ("x", "panels")}
_REQUIRED = {"table": ("title", "rows", "columns", "repeats", "value"), "figure": ("title", "rows", "repeats", "x", "panels")}


def _parse(path: Path, content: bytes) -> TableSpec | FigureSpec:
    root = read_yaml(path, content)
    every = root.mapping(allowed=(*_SHARED, *_OWN["table"], *_OWN["figure"]), required=("kind",))
    kind = every["kind"].choice(KINDS)
    entries = root.mapping(allowed=(*_SHARED, *_OWN[kind]), required=_REQUIRED[kind])
    rows = _lines(entries["rows"])
    columns = _lines(entries["columns"]) if "columns" in entries else (Line("", (), root.place),)
    shared: dict[str, Any] = {
        "name": path.stem,
        "path": path,
        "sha256": hashlib.sha256(content).hexdigest(),
        "title": entries["title"].line(),
        "caption": entries["caption"].text() if "caption" in entries else "",
        "common": _settings(entries["common"]) if "common" in entries else (),
        "rows": rows,
        "columns": columns,
        "repeats": _repeats(entries["repeats"]),
        "exceptions": _exceptions(entries["cells"], rows, columns) if "cells" in entries else (),
        "spread": _spread(entries.get("cell")),
    }
    if kind == "table":
        return TableSpec(value=_reading(entries["value"]), **shared)
    entries["x"].choice(("epoch",))
    return FigureSpec(panels=tuple(_panel(item) for item in entries["panels"].items()), **shared)


def _settings(entry: Entry) -> tuple[Setting, ...]:
    settings = []
    for key, item in entry.mapping().items():
        if not _KEY.fullmatch(key):
            raise item.place.error(f"{entry.name}: '{key}' is no name of a setting. Write a choice (method) or a dotted name (noise.rate).")
        settings.append(Setting(key, item.value(), item.place))
    return tuple(settings)


def _lines(entry: Entry) -> tuple[Line, ...]:
    lines: dict[str, Line] = {}
    for item in entry.items():
        parts = item.mapping(allowed=("label", "set"), required=("label",))
        label = parts["label"].line()
        if label in lines:
            raise parts["label"].place.error(f"{entry.name}: the label '{label}' stands twice, first in line {lines[label].place.line}.")
        lines[label] = Line(label, _settings(parts["set"]) if "set" in parts else (), item.place)
    return tuple(lines.values())


def _repeats(entry: Entry) -> tuple[tuple[Setting, ...], ...]:
    axes = []
    for key, item in entry.mapping().items():
        if not _KEY.fullmatch(key):
            raise item.place.error(f"{entry.name}: '{key}' is no name of a setting.")
        values = [Setting(key, value.scalar(), value.place) for value in item.items()]
        if len({setting.override for setting in values}) < len(values):
            raise item.place.error(f"{item.name}: a value stands twice, and one run would be counted twice.")
        axes.append(values)
    if not axes:
        raise entry.place.error("repeats is empty: it needs at least one setting with its values, such as {seed: [0]}.")
    return tuple(product(*axes))


def _exceptions(entry: Entry, rows: tuple[Line, ...], columns: tuple[Line, ...]) -> tuple[CellRule, ...]:
    found = []
    for item in entry.items():
        parts = item.mapping(allowed=("row", "column", "set", "skip"))
        if ("set" in parts) == ("skip" in parts):
            raise item.place.error(f"{item.name} needs either set (settings) or skip (the reason why the cell is left out).")
        found.append(
            CellRule(
                rows=_labels(parts.get("row"), rows),
                columns=_labels(parts.get("column"), columns),
                settings=_settings(parts["set"]) if "set" in parts else (),
                skip=parts["skip"].line() if "skip" in parts else None,
            )
        )
    return tuple(found)


def _labels(entry: Entry | None, lines: tuple[Line, ...]) -> tuple[str, ...]:
    labels = tuple(line.label for line in lines)
    if entry is None:
        return labels
    return tuple(item.choice(labels) for item in (entry.items() if isinstance(entry.value(), tuple) else [entry]))


def _reading(entry: Entry) -> Reading:
    parts = entry.mapping(allowed=("metric", "epoch", "scale", "decimals", "better"), required=("metric", "epoch"))
    scale = parts["scale"].choice(SCALES) if "scale" in parts else "fraction"
    return Reading(
        metric=_metric(parts["metric"]),
        epoch=_epoch(parts["epoch"]),
        scale=scale,
        decimals=parts["decimals"].integer(at_least=0, at_most=12) if "decimals" in parts else {"percent": 1, "fraction": 4}[scale],
        better=parts["better"].choice(BETTER) if "better" in parts else "neither",
    )


def _metric(entry: Entry) -> str:
    metric = entry.text()
    if not _METRIC.fullmatch(metric):
        raise entry.wrong("the name of a metric, such as test/accuracy")
    return metric


def _epoch(entry: Entry) -> Epoch:
    rule = entry.text()
    numbered = re.fullmatch(r"epoch ([1-9]\d*)", rule)
    if numbered:
        return Epoch("epoch", int(numbered[1]))
    if rule not in EPOCH_RULES:
        raise entry.place.error(
            f"{entry.name}: there is no epoch rule '{rule}'.{did_you_mean(rule, EPOCH_RULES)} "
            f"Allowed: {', '.join(EPOCH_RULES)}, or 'epoch N' with N completed epochs, from 1."
        )
    return Epoch(rule)


def _panel(entry: Entry) -> Panel:
    parts = entry.mapping(allowed=("metric", "label", "scale"), required=("metric", "label"))
    scale = parts["scale"].choice(SCALES) if "scale" in parts else "fraction"
    return Panel(metric=_metric(parts["metric"]), label=parts["label"].line(), scale=scale)


def _spread(entry: Entry | None) -> str:
    """Return how the spread of a cell's runs is given; the mean is the only statistic there is."""
    if entry is None:
        return "sample_sd"
    parts = entry.mapping(allowed=("statistic", "spread"))
    if "statistic" in parts:
        parts["statistic"].choice(("mean",))
    return parts["spread"].choice(("sample_sd", "none")) if "spread" in parts else "sample_sd"
