"""The panels of a figure, as a spec describes them."""

from __future__ import annotations

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
    return Panel(
        metric=read_metric(parts["metric"], family=True) if "metric" in parts else "",
        label=parts["label"].line(),
        scale=parts["scale"].choice(SCALES) if "scale" in parts else "fraction",
        type=kind,
        rows=_rows(parts["rows"], rows) if "rows" in parts else rows,
        classes=_sample(parts["classes"]) if "classes" in parts else None,
        instances=_sample(parts["instances"]) if "instances" in parts else None,
    )


def _rows(entry: Entry, rows: tuple[str, ...]) -> tuple[str, ...]:
    chosen = {item.choice(rows) for item in (entry.items() if entry.is_list else [entry])}
    return tuple(row for row in rows if row in chosen)


def _sample(entry: Entry) -> Sample | tuple[int, ...]:
    """Return ``{count: 3, seed: 0}``, or a list of numbers from 0."""
    if entry.is_list:
        numbers = tuple(item.integer(at_least=0, at_most=_LARGEST) for item in entry.items())
        if len(set(numbers)) < len(numbers):
            raise entry.place.error(f"{entry.name}: a number stands twice.")
        return numbers
    parts = entry.mapping(allowed=("count", "seed"), required=("count", "seed"))
    return Sample(parts["count"].integer(at_least=1, at_most=_LARGEST), parts["seed"].integer(at_least=0, at_most=_LARGEST))
