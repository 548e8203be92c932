"""What has been submitted: a folder ``<runs>/slurm/<token>`` for each call of sbatch, and for each spec the plan it came from.

``batch.json`` is written before sbatch is called, with no job id. So a submission that was cut off at any moment is known, and its
jobs, which carry the token as their comment, are found in the queue. Several users on several clusters may share a folder of runs, and
ids of jobs mean something on one cluster only, so each submission names both.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from repro.errors import UserError
from repro.files import read_json, write_json
from repro.runs.lock import HeldError, UnwritableError, hold
from slurm.cluster import Cluster
from slurm.jobs.batches import Batch
from slurm.jobs.queue import this_user
from sweeps.plan.plan import Plan

SCHEMA = 1


@dataclass
class Submitted:
    """One call of sbatch.

    Attributes:
        token: its folder and its jobs' comment; sorts by time.
        tasks: for each job the ids of its runs, in their order.
        jobs: the id of each job; empty while it is not known that SLURM has taken them.
        after: ids of the runs that it waits for.
        ended: by job id, the last state that SLURM named of a job that is over.
        minutes: time limit.
        slurm_cluster: SLURM's name of the cluster, ``cluster`` being that of its file; empty in ledgers that are older, like ``user``.
        user: who submitted it.
        at_a_time: how many runs of a job share its GPU; 0 in ledgers that are older: all.
    """

    token: str
    name: str
    cluster: str
    code: str
    tasks: list[list[str]]
    after: list[str]
    minutes: int
    jobs: list[str] = field(default_factory=list)
    ended: dict[str, str] = field(default_factory=dict)
    slurm_cluster: str = ""
    user: str = ""
    at_a_time: int = 0

    def is_mine(self, slurm_cluster: str) -> bool:
        """Say whether ``squeue --me`` on that cluster shows its jobs."""
        return self.slurm_cluster in ("", slurm_cluster) and self.user in ("", this_user())

    @property
    def runs(self) -> list[str]:
        """The ids of its runs."""
        return [name for task in self.tasks for name in task]

    def takes_turns(self, name: str) -> bool:
        """Say whether a run begins only when another one of its job has ended."""
        return 0 < self.at_a_time <= max(task.index(name) for task in self.tasks if name in task)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Each job that is known, with each of its runs."""
        return [(job, name) for job, task in zip(self.jobs, self.tasks, strict=False) for name in task]


class Ledger:
    """The submissions of one folder of runs."""

    def __init__(self, runs: Path) -> None:
        self.folder = runs / "slurm"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Let one process at a time decide what to submit; a second one waits.

        Raises:
            UserError: the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with hold(self.folder / ".lock", timeout_s=600):
                yield
        except HeldError as error:
            raise UserError(f"{self.folder}: another submission has been going on for ten minutes. Wait for it, or end it.") from error
        except (PermissionError, UnwritableError) as error:
            raise UserError(f"{self.folder} cannot be written: {error.strerror}. Set --runs to a folder you can write.") from error

    def begin(self, batch: Batch, part: Cluster, code: Path, slurm_cluster: str) -> Submitted:
        """Note that ``batch`` is about to be submitted by this user, with what ``part`` gives its jobs."""
        token = f"{dt.datetime.now(dt.UTC):%Y%m%d-%H%M%S-%f}-{secrets.token_hex(3)}"
        tasks, after = [list(task) for task in batch.tasks], sorted({name for names in batch.after for name in names})
        item = Submitted(token, batch.name, part.name, str(code), tasks, after, part.minutes["default"])
        item.slurm_cluster, item.user, item.at_a_time = slurm_cluster, this_user(), part.runs_per_gpu
        self.folder_of(item).mkdir(parents=True)
        self.save(item)
        return item

    def folder_of(self, item: Submitted) -> Path:
        """Return where the texts, pickles and logs of a submission lie."""
        return self.folder / item.token

    def save(self, item: Submitted) -> None:
        """Write what is known of a submission."""
        write_json(self.folder_of(item) / "batch.json", {"schema": SCHEMA, **asdict(item)})

    def read(self) -> list[Submitted]:
        """Return every submission, oldest first."""
        found = []
        for path in sorted(self.folder.glob("*/batch.json")):
            with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
                document = read_json(path)
                if document.pop("schema", None) == SCHEMA:
                    # Of a later version of the suite there may be more.
                    found.append(Submitted(**{key: value for key, value in document.items() if key in Submitted.__annotations__}))
        return found

    # -- plans -----------------------------------------------------------------------------------------------------------------

    def write_plans(self, plan: Plan) -> None:
        """Keep what :mod:`slurm.watch` needs to know of each spec, so that watching composes nothing."""
        for spec in plan.specs:
            # What tunes has no cells.
            name = (spec.name if plan.cells else f"{spec.name}.tuning") + ("" if plan.scale.stamp is None else f"@{plan.scale.title}")
            runs = {
                run.run_id: {"place": run.place, "epochs": run.epochs, "inputs": list(run.inputs), "stage": run.stage}
                for run in plan.runs.values()
                if spec.name in run.specs
            }
            cells = [{"row": cell.row, "column": cell.column, "runs": list(cell.run_ids)} for cell in plan.cells if cell.spec == spec.name]
            document = {"schema": SCHEMA, "spec": name, "title": spec.title, "runs": runs, "cells": cells}
            (self.folder / "plans").mkdir(parents=True, exist_ok=True)
            write_json(self.folder / "plans" / f"{name}.json", document)

    def plans(self, names: list[str] | None = None) -> list[Mapping[str, Any]]:
        """Return the plans of the specs ``names`` that were submitted, or of all.

        Raises:
            UserError: one was not.
        """
        known = {path.stem: path for path in sorted((self.folder / "plans").glob("*.json"))}
        for name in names or ():
            if name not in known:
                there = f"Submitted were: {', '.join(known)}." if known else "Nothing was."
                raise UserError(f"{name} was not submitted from {self.folder.parent}. {there}")
        return [read_json(path) for name, path in known.items() if not names or name in names]
