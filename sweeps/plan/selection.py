"""Which part of a plan is run, and what of it first."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from repro.config.schema import NOT_SCIENTIFIC
from repro.errors import UserError, did_you_mean, one_of
from sweeps.plan.plan import Plan, PlannedRun

#: States of runs that have begun and not ended: the next call goes on with them before it begins others.
BEGUN = ("running", "preempted", "lost", "queued")

_ONLY = "only cells with TEXT as label of their row or column, or as part of one, and what their runs read; twice: with both"
_SEEDS = "only the runs of cells with these seeds, and what they read"


def add_options(command: argparse.ArgumentParser) -> None:
    """Give a command the options ``--only`` and ``--seeds``, whose values :func:`select` takes."""
    command.add_argument("--only", action="append", default=[], metavar="TEXT", help=_ONLY)
    command.add_argument("--seeds", type=_seeds, default=(), metavar="N,...", help=_SEEDS)


def _seeds(text: str) -> tuple[int, ...]:
    if not all(part.isascii() and part.isdigit() for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"'{text}' must be whole numbers with commas between them, such as 0,1")
    return tuple(int(part) for part in text.split(","))


def select(plan: Plan, *, only: Sequence[str] = (), seeds: Collection[int] = ()) -> Plan:
    """Return the part of ``plan`` that consists of the chosen cells, their runs, and all that these read.

    A cell is chosen when each text of ``only`` is the label of its row or column, or, where no label is that text, a part of one; upper
    and lower case are the same. Of a cell's runs, those with one of ``seeds`` are chosen; no seeds choose all. Runs that have begun come
    first, each after what it reads. Without ``only`` and ``seeds`` that is all of a plan, also of one without runs.

    Raises:
        UserError: nothing is left, with the labels and seeds that there are.
    """
    if not plan.runs:
        return plan
    cells = [cell for cell in plan.cells if cell.run_ids]
    labels = list(dict.fromkeys(label for cell in cells for label in (cell.row, cell.column) if label))
    for text in only:
        meant = _labels(text, labels)
        cells = [cell for cell in cells if cell.row in meant or cell.column in meant]
    if not cells:
        near = "".join(did_you_mean(text, labels) for text in only if not _labels(text, labels))
        raise UserError(f"--only {' --only '.join(only)}: there is no such cell with runs.{near} Labels: {'; '.join(labels)}.")
    known = sorted({_seed(plan, name) for cell in cells for name in cell.run_ids})
    if wrong := sorted(set(seeds) - set(known)):
        raise UserError(f"--seeds {wrong[0]}: none of these cells has a run with that seed. There are: {one_of(map(str, known))}.")
    chosen = []
    for cell in cells:
        kept = [pair for pair in zip(cell.run_ids, cell.variants, strict=True) if not seeds or _seed(plan, pair[0]) in seeds]
        chosen.append(replace(cell, run_ids=tuple(name for name, _ in kept), variants=tuple(variant for _, variant in kept)))
    runs = _with_inputs(plan, (name for cell in chosen for name in cell.run_ids))
    begun = [name for name, run in runs.items() if run.state in BEGUN]
    return replace(plan, runs=_with_inputs(plan, [*begun, *runs]), cells=tuple(chosen))


def check_execution(plan: Plan, settings: Sequence[str]) -> None:
    """Check that ``settings`` (``exec.device=cuda``) say how runs are executed, and nothing of what they are.

    Raises:
        UserError: one does not, or does not exist.
    """
    sections = [name for name in NOT_SCIENTIFIC if name != "paths"]
    for text in settings:
        key, sign, _ = text.partition("=")
        if not sign or (key.partition(".")[0] not in sections and key not in ("paths.data", "paths.scratch")):
            raise UserError(
                f"--set {text}: only what changes no result can be set here: KEY=VALUE with a KEY in {', '.join(sections)}, or paths.data, "
                "paths.scratch. Everything else belongs in the spec."
            )
    if settings and plan.runs:
        # With it comes PyTorch.
        from repro.config.compose import compose

        if compose([*next(iter(plan.runs.values())).overrides, *settings]).exec.debug:
            raise UserError("exec.debug=true: a debug run keeps no results. Start it as `python -m repro ... exec=debug`.")


def _labels(text: str, labels: Iterable[str]) -> list[str]:
    wanted = text.lower()
    return [label for label in labels if label.lower() == wanted] or [label for label in labels if wanted in label.lower()]


def _seed(plan: Plan, name: str) -> int:
    return int(plan.runs[name].fields["seed"])


def _with_inputs(plan: Plan, names: Iterable[str]) -> dict[str, PlannedRun]:
    """Return the runs called ``names`` in that order, each after all that it reads."""
    found: dict[str, PlannedRun] = {}

    def visit(name: str) -> None:
        if name not in found:
            for read in plan.runs[name].inputs:
                visit(read)
            found[name] = plan.runs[name]

    for name in names:
        visit(name)
    return found
