"""Reads the runs that a plan names.

``python -m sweeps plan`` and ``run`` write ``<runs>/plans/<spec>.json``, at another scale than the paper's
``<runs>/plans/<scale>/<spec>.json``: which run stands in which cell. Other folders beside them are never looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.runs import Run, read_curves, read_run, value_at
from repro.errors import UserError
from repro.files import read_json
from sweeps.spec import PAPER, Scale, Spec, load_spec

__all__ = ["Collected", "Repeat", "Run", "collect", "command_name", "read_curves", "read_run", "value_at"]

#: The layout of plan files that this code reads.
PLAN_SCHEMA = 1


@dataclass(frozen=True)
class Repeat:
    """One run of a cell, and what it repeats, such as ``{"seed": 0}``."""

    repeat: dict[str, Any]
    run: Run

    @property
    def label(self) -> str:
        """What it repeats, as text: ``seed=0``."""
        return ", ".join(f"{key}={value}" for key, value in self.repeat.items())


@dataclass(frozen=True)
class Collected:
    """One cell with its runs, or the reason ``skip`` why it has none; ``value`` is what a recipe's cell shows instead."""

    row: str
    column: str
    skip: str | None
    repeats: tuple[Repeat, ...]
    value: object | None = None

    @property
    def label(self) -> str:
        """The cell in words: row and column."""
        return ", ".join(filter(None, (self.row, self.column)))


def collect(spec: Spec, runs: Path) -> tuple[Collected, ...]:
    """Return the cells of ``spec``, row by row, with the runs that its plan in ``runs`` names.

    Raises:
        UserError: there is no plan, it is not of this spec as it stands now, or it has two runs for one place; the message says which
            command to call.
    """
    plan = _read_plan(spec, runs)
    known: dict[str, Run] = {}
    cells = []
    for cell in plan["cells"]:
        repeats: list[Repeat] = []
        for planned in cell["runs"]:
            name = str(planned["run_id"])
            if name not in known:
                known[name] = read_run(runs / name)
            if any(item.repeat == planned["repeat"] for item in repeats):
                place = f"{cell['row']}, {cell['column']}, {Repeat(planned['repeat'], known[name]).label}"
                raise UserError(
                    f"{plan_path(spec, runs)}: two runs are planned for {place}. Call: python -m sweeps plan {command_name(spec)}"
                )
            repeats.append(Repeat(dict(planned["repeat"]), known[name]))
        not_built = cell.get("not_built")
        skip = cell["skip"] if not_built is None else f"not built: {not_built}"
        cells.append(Collected(str(cell["row"]), str(cell["column"]), skip, tuple(repeats), cell.get("value")))
    return tuple(cells)


def plans(runs: Path, scale: Scale) -> Iterator[tuple[Path, Spec | UserError]]:
    """Yield every plan in ``runs`` of that scale, by name, with its spec, or why that cannot be read.

    A spec that does not come with the suite is found by the file that its plan names.
    """
    for path in sorted((runs / "plans" / ("" if scale == PAPER else scale.title)).glob("*.json")):
        try:
            yield path, load_spec(_spec_file(path), scale)
        except UserError as error:
            yield path, error


def _spec_file(path: Path) -> str:
    from sweeps.spec import known_specs

    try:
        named = read_json(path).get("spec_file")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}). Delete it, or plan its spec again.") from error
    if named is None and path.stem not in known_specs():
        raise UserError(
            f"{path}: no spec of that name comes with the suite, and the plan names no file. Plan its spec again, or delete it."
        )
    return path.stem if named is None else str(named)


def plan_path(spec: Spec, runs: Path) -> Path:
    """Return where the plan of ``spec`` lies in the runs folder ``runs``."""
    return runs / "plans" / ("" if spec.scale == PAPER else spec.scale.title) / f"{spec.name}.json"


def _read_plan(spec: Spec, runs: Path) -> dict[str, Any]:
    path = plan_path(spec, runs)
    again = f"Call: python -m sweeps plan {command_name(spec)}"
    try:
        plan = read_json(path)
        schema, sha256 = plan["schema"], plan["spec_sha256"]
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no plan, so which runs make up {spec.name} is not known. {again}") from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}). {again}") from error
    if schema != PLAN_SCHEMA:
        raise UserError(f"{path} has layout {schema}, this code reads {PLAN_SCHEMA}. {again}")
    if sha256 != spec.sha256:
        raise UserError(f"{path} was made from another version of {spec.path}. {again}")
    assert isinstance(plan, dict)
    return plan


def command_name(spec: Spec) -> str:
    """Return how a command names ``spec``: by its name when it comes with the suite, else by its file, without the folder."""
    from sweeps.spec import known_specs

    name = spec.name if known_specs().get(spec.name) == spec.path else spec.path.name
    return name if spec.scale == PAPER else f"{name} --scale {spec.scale.title}"
