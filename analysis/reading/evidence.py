"""Evidence: what the committed pages are made from, in a few files that are small enough to be committed beside them.

``paper_tables/evidence/<scale>/<spec>.jsonl`` holds the plan of a spec and its runs that have ended: a first line with what all runs
share, a line for each cell of the plan, a line for each run, sorted by id. ``<spec>.curves.jsonl`` has a line for each run with its values
epoch by epoch, where the page of that spec shows any. Where a figure shows single labels, a run's line holds those that it draws.
Every line carries a sha256 of itself. :mod:`analysis.reading.keep` writes these files, and makes run folders of them again.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.reading.runs import Row, Run
from repro.files import jsonable, number, write_text
from repro.runs.manifest import DamagedError
from sweeps.spec.load import Scale

FOLDER = "evidence"

#: Raised when the layout of these files changes.
SCHEMA = 1

#: What a run's line holds of each of these is what differs from the first line.
SHARED = ("fields", "provenance", "dataset")

_CURVES = ".curves.jsonl"

#: What stands before the sha256 of a line.
_SIGN = ', "sha256": "'

Item = dict[str, Any]


@dataclass(frozen=True)
class Evidence:
    """What one file holds: the plan, as ``python -m sweeps plan`` writes it, and the runs that have ended, by id."""

    path: Path
    plan: dict[str, Any]
    runs: dict[str, Run]

    def run(self, name: str) -> Run:
        """Return the run of that id; one that is not here is ``missing``."""
        return self.runs.get(name) or Run(name, "missing", "not started", str(self.path))


def evidence_path(scale: Scale, name: str, folder: Path) -> Path:
    """Return where the evidence of the spec ``name`` lies in ``folder``."""
    return folder / scale.title / f"{name}.jsonl"


def curves_path(path: Path) -> Path:
    """Return where the curves lie that belong to the evidence ``path``."""
    return path.with_name(path.stem + _CURVES)


def evidence_files(folder: Path) -> list[Path]:
    """Return the files of the specs in ``folder``, sorted."""
    return [path for path in sorted(folder.glob("*/*.jsonl")) if not path.name.endswith(_CURVES)]


def read_evidence(path: Path) -> Evidence:
    """Return what ``path`` holds.

    Raises:
        DamagedError: a line is not as it was written, or one is missing; the message names file and line.
    """
    head, *items = read_lines(path)
    if head.get("schema") != SCHEMA:
        raise damaged(path, 1, f"its layout is {head.get('schema')}, this code reads {SCHEMA}")
    if len(items) != head["cells"] + head["runs"]:
        raise damaged(path, 1, f"it names {head['cells']} cells and {head['runs']} runs, and {len(items)} lines follow")
    cells = [{key: value for key, value in item.items() if key != "sha256"} for item in items[: head["cells"]]]
    kept = curves_path(path)
    curves = functools.cache(lambda: {item["run_id"]: item for item in (read_lines(kept) if kept.exists() else ())})
    runs = {}
    for line, item in enumerate(items[head["cells"] :], start=head["cells"] + 2):
        runs[item["run_id"]] = _run(item, head["shared"], path, line, curves)
    return Evidence(path, {**head["plan"], "cells": cells}, runs)


def _run(item: Item, shared: Mapping[str, Any], path: Path, line: int, curves: Callable[[], dict[str, Item]]) -> Run:
    name, place = item["run_id"], f"{path}:{line}"
    status = item["status"]
    if status["state"] != "done":
        return Run(name, status["state"], str(status.get("error") or "no error noted"), place, status)

    def joined(key: str) -> dict[str, Any]:
        return merged(shared.get(key, {}), item.get(key, {}))

    def rows() -> Iterator[Row]:
        found = curves().get(name, {})
        if found.get("sha256") != item["curves"]:
            raise damaged(curves_path(path), None, f"the curves of run {name} are not those that line {line} of {path.name} names")
        return rows_of({key: values for key, values in found.items() if key not in ("run_id", "sha256")})

    return Run(
        run_id=name,
        state="done",
        problem="",
        place=place,
        status=status,
        fields=joined("fields"),
        provenance=joined("provenance"),
        dataset=joined("dataset"),
        final={metric: {rule: number(value) for rule, value in values.items()} for metric, values in item["final"].items()},
        cost=item["cost"],
        read_rows=rows if "curves" in item else None,
        excerpts=item.get("excerpts", {}),
    )


def columns_of(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Return rows as columns, sorted by name, epochs first; ``None`` where a row has no such value."""
    names = sorted({name for row in rows for name in row} - {"epoch"})
    return {name: [row.get(name) for row in rows] for name in ["epoch", *names]}


def rows_of(columns: Mapping[str, Sequence[Any]]) -> Iterator[Row]:
    """Yield what :func:`columns_of` was given."""
    for values in zip(*columns.values(), strict=True):
        yield {name: value for name, value in zip(columns, values, strict=True) if value is not None}


def same(one: object, other: object) -> bool:
    """Say whether two JSON values are the same text: 0, 0.0 and false are not."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def common(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what all of ``items`` have, mapping by mapping."""
    shared: dict[str, Any] = {}
    first, *others = items or [{}]
    for key, value in first.items():
        if all(key in other and same(value, other[key]) for other in others):
            shared[key] = value
        elif all(isinstance(item.get(key), Mapping) for item in items) and (inner := common([item[key] for item in items])):
            shared[key] = inner
    return shared


def without(item: Mapping[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``item`` has beside ``shared``, which is a part of it."""
    rest: dict[str, Any] = {}
    for key, value in item.items():
        if key not in shared:
            rest[key] = value
        elif not same(value, shared[key]):
            rest[key] = without(value, shared[key])
    return rest


def merged(shared: Mapping[str, Any], rest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what :func:`without` was given."""
    inner = {key: merged(shared[key], value) for key, value in rest.items() if key in shared}
    return dict(sorted({**shared, **rest, **inner}.items()))


def signed(item: Mapping[str, Any]) -> str:
    """Return the line of ``item``: its keys as they are ordered, those of what it holds sorted, and the sha256 of all of it."""
    fields = ", ".join(f"{json.dumps(key)}: {json.dumps(jsonable(value), sort_keys=True, allow_nan=False)}" for key, value in item.items())
    return _sign("{" + fields)


def sha256_of(line: str) -> str:
    """Return the sha256 that a line of :func:`signed` carries."""
    return line.rpartition(_SIGN)[2][:-2]


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write the lines, each made by :func:`signed`, to ``path`` atomically.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(f"{line}\n" for line in lines))


def read_lines(path: Path) -> list[Item]:
    """Return what the lines of ``path`` hold, each with its ``sha256``.

    Raises:
        DamagedError: the file cannot be read, or a line is not as it was written; the message has the line's number.
    """
    try:
        # A byte that is no text changes the sha256 of its line like any other.
        text = path.read_bytes().decode("utf-8", errors="replace")
    except OSError as error:
        raise damaged(path, None, error.strerror or str(error)) from error
    items = []
    for index, line in enumerate(text.split("\n")[:-1], start=1):
        if _sign(line.rpartition(_SIGN)[0]) != line:
            raise damaged(path, index, "the sha256 at its end is not that of the line")
        items.append(json.loads(line))
    if not items or not text.endswith("\n"):
        raise damaged(path, len(items) + 1, "it is cut short")
    return items


def damaged(path: Path, number: int | None, problem: str) -> DamagedError:
    """Return the error that line ``number`` of ``path``, or the file where that is ``None``, is not as it was written."""
    place = path if number is None else f"{path}:{number}"
    return DamagedError(f"{place}: the evidence is not as it was written: {problem}. Put the file back: git checkout -- {path}")


def _sign(text: str) -> str:
    return f'{text}{_SIGN}{hashlib.sha256(text.encode()).hexdigest()}"}}'
