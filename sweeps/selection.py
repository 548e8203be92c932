"""Which part of a plan is run, and what of it first."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from repro.errors import UserError, did_you_mean, one_of

if TYPE_CHECKING:
    from sweeps.plan import Plan

#: States of runs that have begun and not ended: they are resumed before others begin.
BEGUN = ("running", "preempted", "lost", "queued")

_ONLY = "only cells with TEXT as label of their row or column, or as part of one, and what their runs read; twice: with both"
_SEEDS = "only the runs of cells with these seeds, and what they read"


def add_options(command: argparse.ArgumentParser) -> None:
    """Give a command the options ``--only`` and ``--seeds``, whose values :func:`select` takes."""
    command.add_argument("--only", action="append", default=[], metavar="TEXT", help=_ONLY)
    command.add_argument("--seeds", type=seeds, default=(), metavar="N,...", help=_SEEDS)


def seeds(text: str) -> tuple[int, ...]:
    """Return the seeds of a text such as ``0,1``."""
    return tuple(int(part) for part in text.split(","))


def select(plan: Plan, *, only: Sequence[str] = (), seeds: Collection[int] = ()) -> Plan:
    """Return the part of ``plan`` that consists of the chosen cells, their runs, and all that these read; what has begun comes first.

    A cell is chosen when each text of ``only`` is the label of its row or column, or, where no label is that text, a part of one; upper
    and lower case are the same. Of a cell's runs, those with one of ``seeds`` are chosen; no seeds choose all.

    Raises:
        UserError: nothing is left, with the labels and seeds that there are.
    """
    cells = [cell for cell in plan.cells if cell.run_ids]
    labels = list(dict.fromkeys(label for cell in cells for label in (cell.row, cell.column) if label))
    for text in only:
        wanted = text.lower()
        meant = [label for label in labels if label.lower() == wanted] or [label for label in labels if wanted in label.lower()]
        cells = [cell for cell in cells if cell.row in meant or cell.column in meant]
        if not cells:
            raise UserError(f"--only {text}: there is no such cell.{did_you_mean(text, labels)} Labels: {'; '.join(labels)}.")
    known = {plan.runs[name].fields["seed"] for cell in cells for name in cell.run_ids}
    if wrong := set(seeds) - known:
        raise UserError(f"--seeds {min(wrong)}: none of these cells has a run with that seed. There are: {one_of(map(str, known))}.")
    part = plan.part(
        [replace(cell, run_ids=[name for name in cell.run_ids if not seeds or plan.runs[name].fields["seed"] in seeds]) for cell in cells]
    )
    return plan.part(part.cells, [name for name, run in part.runs.items() if run.state in BEGUN])
