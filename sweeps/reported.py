"""The published numbers of a table or a figure: a CSV of a line each, checked against the spec's labels."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from typing import Annotated

from pydantic import PlainValidator

from repro.errors import did_you_mean
from sweeps.spec.data import Map, Place
from sweeps.spec.models import Line, Model, mapping, validate, wrong

HEADER = ("row", "column", "mean", "sd", "unit", "own_run", "source")
_TRUTH = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}


def _number(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise wrong("a number")
    return number


def _truth(value: str) -> bool:
    if value.lower() not in _TRUTH:
        raise wrong("yes or no")
    return _TRUTH[value.lower()]


class Reported(Model):
    """A published number: of which row and column, with its spread, unit and source; ``own_run``: whether its source ran it itself."""

    row: str
    column: str
    mean: Annotated[float, PlainValidator(_number)]
    sd: Annotated[float | None, PlainValidator(lambda value: _number(value) if value else None)]
    unit: str
    own_run: Annotated[bool, PlainValidator(_truth)]
    source: str


class _Named(Model):
    file: Line


def read_reported(value: object) -> tuple[Reported, ...]:
    """Return the lines of the CSV that ``{file: NAME}`` names, relative to the file in which it stands.

    Raises:
        SpecError: the file cannot be read; a line is damaged, or is given twice.
    """
    named = validate(_Named, mapping(value))
    path = named.place.path.parent / named.file
    try:
        path = path.resolve()
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        said = f"{path} cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8'}."
        raise mapping(value).error("file", said) from error
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        header, *lines = [(reader.line_num, fields) for fields in reader if fields or reader.line_num == 1] or [(1, list(HEADER))]
    except csv.Error as error:
        raise Place(path, reader.line_num).error(f"not CSV: {error}.") from error
    if tuple(header[1]) != HEADER:
        raise Place(path, 1).error(f"the header must be {','.join(HEADER)}, found {','.join(header[1])}.")
    found: dict[tuple[str, str], Reported] = {}
    for number, fields in lines:
        place = Place(path, number)
        if len(fields) != len(HEADER):
            raise place.error(f"{len(fields)} fields, the header has {len(HEADER)}. A field with a comma needs quotes.")
        given = Map("the file", place)
        for name, field in zip(HEADER, fields, strict=True):
            given[name], given.at[name] = field.strip(), place
        item = validate(Reported, given)
        if (item.row, item.column) in found:
            before = found[item.row, item.column].place.line
            raise place.error(f"row '{item.row}', column '{item.column}' is given twice, first in line {before}. Keep one.")
        found[item.row, item.column] = item
    if not found:
        raise Place(path, 1).error("the file has no published number.")
    return tuple(found.values())


def check_labels(reported: Iterable[Reported], rows: Sequence[str], columns: Sequence[str]) -> None:
    """Check that each number is of one of ``rows`` and one of ``columns``.

    Raises:
        SpecError: one is of a cell that the spec does not have.
    """
    for item in reported:
        for kind, label, labels in (("row", item.row, rows), ("column", item.column, columns)):
            if label not in labels:
                near = did_you_mean(label, labels)
                raise item.place.error(f"the spec has no {kind} '{label}'.{near} It has: {', '.join(labels)}.")
