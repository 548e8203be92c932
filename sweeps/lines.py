"""Reads the rows, the columns and the single cells of a spec."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from sweeps.epochs import read_epoch
from sweeps.names import PART, Names
from sweeps.nodes import Entry
from sweeps.panels import read_labels
from sweeps.scale import Scale
from sweeps.schema import CellRule, Line
from sweeps.settings import read_key


def read_lines(entry: Entry, names: Names, scale: Scale, *, own: tuple[str, ...] = ()) -> tuple[Line, ...]:
    """Return rows or columns; ``own`` are the keys that these lines may have beside those of every line.

    Raises:
        SpecError: a key is missing or unknown; a label stands twice; a name does not exist.
    """
    lines: dict[str, Line] = {}
    for item in entry.items():
        needed = tuple(key for key in own if key == "setting")
        parts = item.mapping(allowed=("label", *PART, *own), required=("label", *needed))
        label = parts["label"].line()
        if label in lines:
            raise parts["label"].place.error(f"{entry.name}: the label '{label}' stands twice, first in line {lines[label].place.line}.")
        part = names.part(parts, f"{entry.name.removesuffix('s')} '{label}'")
        lines[label] = Line(
            label=label,
            settings=part.settings,
            place=item.place,
            inputs=part.inputs,
            tuned=part.tuned,
            epoch=read_epoch(parts["epoch"], numbered=scale.numbered_epochs) if "epoch" in parts else None,
            setting=_setting_name(parts["setting"]) if "setting" in parts else None,
        )
    return tuple(lines.values())


def _setting_name(entry: Entry) -> str:
    return read_key(entry.name, entry.text(), entry.place)


def read_rules(entry: Entry, rows: tuple[Line, ...], columns: tuple[Line, ...], names: Names) -> tuple[CellRule, ...]:
    """Return what holds for some cells only.

    Raises:
        SpecError: an entry says nothing, or leaves the cells out and says something of them too; a label does not exist; an entry has no
            effect, since others leave its cells out.
    """
    found: list[CellRule] = []
    for item in entry.items():
        parts = item.mapping(allowed=("row", "column", *PART, "skip"))
        if any(key in parts for key in PART) == ("skip" in parts):
            raise item.place.error(f"{item.name} needs either {', '.join(PART)}, or skip (the reason why the cell is left out).")
        part = names.part(parts, item.name)
        found.append(
            CellRule(
                rows=_labels(parts.get("row"), rows),
                columns=_labels(parts.get("column"), columns),
                settings=part.settings,
                skip=parts["skip"].line() if "skip" in parts else None,
                inputs=part.inputs,
                tuned=part.tuned,
            )
        )
    _check_effect(entry, found)
    return tuple(found)


def _check_effect(entry: Entry, rules: Sequence[CellRule]) -> None:
    """Refuse cells that are left out twice, and entries about cells that are all left out."""
    left_out: dict[tuple[str, str], int] = {}
    for item, rule in zip(entry.items(), rules, strict=True):
        for cell in product(rule.rows, rule.columns) if rule.skip is not None else ():
            if cell in left_out:
                raise item.place.error(f"{item.name}: row '{cell[0]}', column '{cell[1]}' is left out already, in line {left_out[cell]}.")
            left_out[cell] = item.place.line
    for item, rule in zip(entry.items(), rules, strict=True):
        if rule.skip is None and all(cell in left_out for cell in product(rule.rows, rule.columns)):
            raise item.place.error(f"{item.name} has no effect: all of its cells are left out. Take it out.")


def _labels(entry: Entry | None, lines: tuple[Line, ...]) -> tuple[str, ...]:
    labels = tuple(line.label for line in lines)
    if entry is None:
        return labels
    return read_labels(entry, labels)
