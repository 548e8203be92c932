"""The published numbers of a table or a figure: a CSV of a line each, checked against the spec's labels."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from repro.errors import did_you_mean
from sweeps.nodes import Entry, Place
from sweeps.schema import Reported

HEADER = ("row", "column", "mean", "sd", "unit", "own_run", "source")
_TRUTH = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}


def read_reported(entry: Entry, folder: Path, *, rows: Sequence[str], columns: Sequence[str]) -> tuple[Reported, ...]:
    """Return the lines of the CSV that ``entry`` names, relative to ``folder``; each is of one of ``rows`` and one of ``columns``.

    Raises:
        SpecError: the file cannot be read; a line is damaged, stands twice, or is of a cell that the spec does not have.
    """
    named = entry.mapping(allowed=("file",), required=("file",))["file"]
    path = folder / named.line()
    try:
        path = path.resolve()
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise named.place.error(f"{named.name}: {path} cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8'}.") from error
    reader = csv.reader(io.StringIO(text, newline=""))
    found: dict[tuple[str, str], Reported] = {}
    for fields in _lines(reader, path):
        place = Place(path, reader.line_num)
        if reader.line_num == 1:
            if tuple(fields) != HEADER:
                raise place.error(f"the header must be {','.join(HEADER)}, found {','.join(fields)}.")
        elif fields:
            item = _line(fields, place)
            _check_label(item.row, rows, place, "row")
            _check_label(item.column, columns, place, "column")
            if (item.row, item.column) in found:
                before = found[item.row, item.column].place.line
                raise place.error(f"row '{item.row}', column '{item.column}' stands twice, first in line {before}. Keep one.")
            found[item.row, item.column] = item
    if not found:
        raise Place(path, 1).error("the file has no published number.")
    return tuple(found.values())


def _lines(reader: Any, path: Path) -> Iterator[list[str]]:
    try:
        yield from reader
    except csv.Error as error:
        raise Place(path, reader.line_num).error(f"not CSV: {error}.") from error


def _line(fields: list[str], place: Place) -> Reported:
    if len(fields) != len(HEADER):
        raise place.error(f"{len(fields)} fields, the header has {len(HEADER)}. A field with a comma needs quotes.")
    row, column, mean, sd, unit, own_run, source = (field.strip() for field in fields)
    truth = _TRUTH.get(own_run.lower())
    if truth is None:
        raise place.error(f"own_run must be yes or no, found '{own_run}'.")
    return Reported(row, column, _number("mean", mean, place), _number("sd", sd, place) if sd else None, unit, truth, source, place)


def _number(name: str, text: str, place: Place) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise place.error(f"{name} must be a number, found '{text}'.")
    return value


def _check_label(label: str, labels: Sequence[str], place: Place, kind: str) -> None:
    if label not in labels:
        raise place.error(f"the spec has no {kind} '{label}'.{did_you_mean(label, labels)} It has: {', '.join(labels)}.")
