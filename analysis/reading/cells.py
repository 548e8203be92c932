"""Which runs stand in which cell: the plan of a spec, and the runs that it names, from run folders or from evidence.

``python -m sweeps plan`` and ``run`` write ``<runs>/plans/<spec>.json``, at another scale than the paper's
``<runs>/plans/<scale>/<spec>.json``. Where there is ``<runs>/<scale>/<spec>.jsonl`` instead, that is evidence, which holds plan and runs
(:mod:`analysis.reading.evidence`). Runs that the plan does not name are never looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.reading.evidence import evidence_files, evidence_path, read_evidence
from analysis.reading.runs import Run, read_run
from repro.errors import UserError
from repro.files import read_json
from sweeps.spec.load import PAPER, Scale, Spec, known_specs, load_spec

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
    """One cell with its runs, or the reason ``skip`` why it has none; ``value`` is what a recipe's cell shows instead.

    ``untuned`` are the tunings that were not done when its runs were planned: they have the values declared for that case. ``at_end`` are
    the chosen values that lie at an end of their grids.
    """

    row: str
    column: str
    skip: str | None
    repeats: tuple[Repeat, ...]
    value: object | None = None
    untuned: tuple[str, ...] = ()
    at_end: tuple[str, ...] = ()

    @property
    def place(self) -> tuple[str, str]:
        """Row and column."""
        return self.row, self.column

    def columns(self, spec: Spec) -> dict[str, Any]:
        """Return where it stands, as columns of a table."""
        return {"spec": spec.name, "row": self.row, "column": self.column}

    @property
    def done(self) -> list[Run]:
        """Its runs that are done."""
        return [repeat.run for repeat in self.repeats if repeat.run.done]

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
    plan, found = open_plan(spec, runs)
    known: dict[str, Run] = {}
    cells = []
    for cell in plan["cells"]:
        repeats: list[Repeat] = []
        for planned in cell["runs"]:
            name = str(planned["run_id"])
            if name not in known:
                known[name] = found(name)
            repeats.append(Repeat(dict(planned["repeat"]), known[name]))
        place = str(cell["row"]), str(cell["column"])
        tuned = (tuple(cell.get(key, ())) for key in ("untuned", "at_end"))
        cells.append(Collected(*place, cell["skip"], tuple(repeats), cell.get("value"), *tuned))
    return tuple(cells)


def plans(runs: Path, scale: Scale) -> Iterator[tuple[Path, Spec | UserError]]:
    """Yield every plan in ``runs`` of that scale, by name, with its spec, or why that cannot be read.

    A spec that does not come with the suite is found by the file that its plan names.
    """
    plans = sorted((runs / "plans" / ("" if scale == PAPER else scale.title)).glob("*.json"))
    for path in [*plans, *(path for path in evidence_files(runs) if path.parent.name == scale.title)]:
        try:
            yield path, load_spec(_spec_file(path), scale)
        except UserError as error:
            yield path, error


def _spec_file(path: Path) -> str:
    try:
        plan = read_evidence(path).plan if path.suffix == ".jsonl" else read_json(path)
        named = plan.get("spec_file")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}). Delete it, or plan its spec again.") from error
    if named is None and path.stem not in known_specs():
        raise UserError(
            f"{path}: no spec of that name comes with the suite, and the plan names no file. Plan its spec again, or delete it."
        )
    if named is not None and not Path(named).is_file():
        raise UserError(f"{path}: its spec, {named}, is not there any more. Plan it again from where it is now, or delete this plan.")
    return path.stem if named is None else str(named)


def plan_path(spec: Spec, runs: Path) -> Path:
    """Return where the plan of ``spec`` lies in the runs folder ``runs``."""
    return runs / "plans" / ("" if spec.scale == PAPER else spec.scale.title) / f"{spec.name}.json"


def has_plan(spec: Spec, runs: Path) -> bool:
    """Say whether there is a plan of ``spec`` in ``runs``."""
    return evidence_path(spec.scale, spec.name, runs).exists() or plan_path(spec, runs).exists()


def open_plan(spec: Spec, runs: Path) -> tuple[dict[str, Any], Callable[[str], Run]]:
    """Return the plan of ``spec``, and what returns the run of an id.

    Raises:
        UserError: there is no plan, or it is not of this spec as it stands now; evidence is damaged.
    """
    path = evidence_path(spec.scale, spec.name, runs)
    if path.exists():
        evidence = read_evidence(path)
        _check_plan(evidence.plan, path, spec)
        return evidence.plan, evidence.run
    path = plan_path(spec, runs)
    again = f"Call: python -m sweeps plan {command_name(spec)}"
    try:
        plan: dict[str, Any] = read_json(path)
        _check_plan(plan, path, spec)
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no plan, so which runs make up {spec.name} is not known. {again}") from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}). {again}") from error
    return plan, lambda name: read_run(runs / name)


def _check_plan(plan: dict[str, Any], path: Path, spec: Spec) -> None:
    again = f"Call: python -m sweeps plan {command_name(spec)}"
    if path.suffix == ".jsonl":
        again += f", then python -m analysis evidence {command_name(spec)}"
    schema, sha256 = plan["schema"], plan["spec_sha256"]
    if schema != PLAN_SCHEMA:
        raise UserError(f"{path} has layout {schema}, this code reads {PLAN_SCHEMA}. {again}")
    if sha256 != spec.sha256:
        raise UserError(f"{path} was made from another version of {spec.path}. {again}")


def command_name(spec: Spec) -> str:
    """Return how a command names ``spec``: by its name when it comes with the suite, else by its file, without the folder."""
    name = spec.name if known_specs().get(spec.name) == spec.path else spec.path.name
    return name if spec.scale == PAPER else f"{name} --scale {spec.scale.title}"
