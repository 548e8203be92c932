"""The panels of a figure, as a spec describes them."""

from __future__ import annotations

from collections.abc import Mapping

from sweeps.epochs import read_metric
from sweeps.nodes import Entry
from sweeps.schema import PANELS, SCALES, Panel, Sample

_LARGEST = 2**31 - 1


def read_panel(entry: Entry, rows: tuple[str, ...]) -> Panel:
    """Return one panel of a figure with the given ``rows``.

    Raises:
        SpecError: a key that its type does not have, or lacks; a row that the figure does not have.
    """
    parts = entry.mapping(allowed=("metric", "label", "scale", "type", "rows", "classes", "instances"), required=("label",))
    kind = parts["type"].choice(PANELS) if "type" in parts else PANELS[0]
    if kind == "curve" and "metric" not in parts:
        raise entry.place.error(f"{entry.name}.metric is missing: a curve is that of a metric.")
    metric = read_metric(parts["metric"], family=True) if "metric" in parts else ""
    _check_effect(parts, kind, metric)
    return Panel(
        metric=metric,
        label=parts["label"].line(),
        scale=parts["scale"].choice(SCALES) if "scale" in parts else "fraction",
        place=parts.get("metric", entry).place,
        type=kind,
        rows=_rows(parts["rows"], rows) if "rows" in parts else rows,
        classes=_sample(parts["classes"]) if "classes" in parts else None,
        instances=_sample(parts["instances"]) if "instances" in parts else None,
    )


def _check_effect(parts: Mapping[str, Entry], kind: str, metric: str) -> None:
    """Refuse what a panel of this type does not look at."""
    if kind == "curve":
        unused = ["instances", *([] if "{k}" in metric else ["classes"])]
        remedy = "a curve has no images, and classes only where its metric is a series per class, such as class_meta_accuracy/{k}"
    else:
        unused = ["metric", "classes"]
        remedy = f"type: {kind} shows labels of images, chosen by instances"
    for key in unused:
        if key in parts:
            raise parts[key].place.error(f"{parts[key].name} has no effect: {remedy}. Take it out.")


def _rows(entry: Entry, rows: tuple[str, ...]) -> tuple[str, ...]:
    chosen = read_labels(entry, rows)
    return tuple(row for row in rows if row in chosen)


def read_labels(entry: Entry, labels: tuple[str, ...]) -> tuple[str, ...]:
    """Return one or more of ``labels``: a label, or a list.

    Raises:
        SpecError: there is no such label, or it stands twice.
    """
    chosen: dict[str, None] = {}
    for item in entry.items() if entry.is_list else [entry]:
        label = item.choice(labels)
        if label in chosen:
            raise item.place.error(f"{item.name}: '{label}' stands twice. Keep one.")
        chosen[label] = None
    return tuple(chosen)


def _sample(entry: Entry) -> Sample | tuple[int, ...]:
    """Return ``{count: 3, seed: 0}``, or a list of numbers from 0."""
    if entry.is_list:
        numbers = tuple(item.integer(at_least=0, at_most=_LARGEST) for item in entry.items())
        if len(set(numbers)) < len(numbers):
            raise entry.place.error(f"{entry.name}: a number stands twice.")
        return numbers
    parts = entry.mapping(allowed=("count", "seed"), required=("count", "seed"))
    return Sample(parts["count"].integer(at_least=1, at_most=_LARGEST), parts["seed"].integer(at_least=0, at_most=_LARGEST))
