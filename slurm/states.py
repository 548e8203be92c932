"""How far each run is, by its folder and by what SLURM says of its job.

The folder has the last word on what has ended (done, failed); SLURM has it on what will still happen. What SLURM says is asked first and
the folders are read after that: a job that was over before has left everything in its folder.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from repro.files import read_json
from repro.rundir import damage, read_state
from slurm.ledger import Ledger, Submitted
from slurm.queue import WAITING, Job, NoAnswerError, read_accounting, read_queue

#: In the order of a run's life.
STATES = ("missing", "queued", "starting", "running", "preempted", "cancelled", "lost", "failed", "damaged", "done")

#: States of a run that a job will still bring further.
LIVE = ("queued", "starting", "running")

#: Last states of a job that say that its run has failed.
_BAD_ENDS = ("FAILED", "OUT_OF_MEMORY", "DEADLINE")


@dataclass(frozen=True)
class RunView:
    """One run.

    Attributes:
        state: one of :data:`STATES`.
        job: its newest job, if it was ever submitted.
        node: where it runs.
        why: what it waits for, or what has ended it.
        outside: it is being trained by a process that no job of ours has started.
        status: what its folder says.
    """

    run_id: str
    state: str
    job: str | None = None
    node: str = ""
    why: str = ""
    left: str = ""
    outside: bool = False
    status: Mapping[str, Any] | None = None


class JobStates:
    """All runs of a folder as SLURM and the ledger know them at one moment; SLURM is asked if something was submitted, or ``always``.

    Attributes:
        answer: why SLURM does not answer, or ``None``.
        submitted: every submission, oldest first.
    """

    def __init__(self, runs: Path, *, always: bool = False) -> None:
        self._runs = runs
        self._ledger = Ledger(runs)
        # The ledger first: a submission that appears meanwhile is not missed by SLURM.
        self.submitted = self._ledger.read()
        self.answer: str | None = None
        self.jobs: dict[str, Job] = {}
        try:
            self.jobs = read_queue() if self.submitted or always else {}
        except NoAnswerError as error:
            self.answer = str(error)
        self._newest: dict[str, tuple[Submitted, str | None]] = {}
        for item in self.submitted:
            for index, names in enumerate(item.tasks):
                self._newest |= dict.fromkeys(names, (item, item.jobs[index] if item.jobs else None))
        if self.answer is None:
            self._note_ends()

    def _note_ends(self) -> None:
        """Write down how jobs have ended, before SLURM forgets it."""
        newest = {job for _, job in self._newest.values() if job is not None}
        gone = [job for item, job in self._newest.values() if job is not None and job not in self.jobs and job not in item.ended]
        accounted = read_accounting(gone) if gone else {}
        for item in self.submitted:
            ends = {job: self.jobs[job].state for job in item.jobs if job in self.jobs and not self.jobs[job].live}
            ends |= {job: accounted[job] for job in item.jobs if job in accounted and job not in item.ended}
            # Of a job that nobody remembers there is nothing more to ask.
            ends |= {job: "UNKNOWN" for job in item.jobs if job in gone and job not in ends and job in newest}
            if any(item.ended.get(job) != end for job, end in ends.items()):
                item.ended |= ends
                # Whoever only looks may look at the runs of somebody else.
                with contextlib.suppress(OSError):
                    self._ledger.save(item)

    def unconfirmed(self) -> list[Submitted]:
        """Return the submissions of which it is not known whether SLURM has taken them: they were cut off."""
        return [item for item in self.submitted if not item.jobs]

    def jobs_of(self, token: str) -> list[str]:
        """Return the live jobs of a submission by its comment."""
        return [job.job for job in self.jobs.values() if job.comment == token and job.live]

    def views(self, names: Iterable[str], inputs: Mapping[str, Collection[str]]) -> dict[str, RunView]:
        """Return how far the runs ``names`` are; ``inputs`` are those that each reads."""
        found = {name: self.view(name) for name in names}
        for name, view in found.items():
            # SLURM forgets why it has killed a job soon; the graph does not.
            bad = [other for other in inputs.get(name, ()) if other in found and found[other].state == "failed"]
            if view.state in ("cancelled", "lost") and bad and view.status is None:
                found[name] = replace(view, state="cancelled", why=f"its input {bad[0]} failed")
        return found

    def view(self, name: str) -> RunView:
        """Return how far a run is."""
        folder = self._runs / name
        item, job = self._newest.get(name, (None, None))
        found = self.jobs.get(job) if job is not None else None
        status = _status(folder)
        state = read_state(folder) if status is not None else "missing"
        view = RunView(name, state, job=job, status=status)
        # Without a job id, a submission was cut off, and the next one forgets it.
        if state == "damaged":
            return replace(view, why=damage(folder) or "")
        if state == "done" or item is None or job is None or self.answer is not None:
            return replace(view, outside=state == "running" and self.answer is None)
        own = status is not None and status.get("slurm_job") == job
        if found is not None and found.live:
            if state == "failed" and own:
                return replace(view, why=str((status or {}).get("error")))
            if found.state in WAITING:
                return replace(view, state="queued", why=found.reason)
            shown = "running" if state == "running" and own else "starting"
            return replace(view, state=shown, node=found.node, left=found.left, why="" if found.state == "RUNNING" else found.state)
        return _without_job(view, item.ended.get(job, "UNKNOWN"))


def _status(folder: Path) -> dict[str, Any] | None:
    try:
        return dict(read_json(folder / "status.json"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, RecursionError):
        return {}


def _without_job(view: RunView, end: str) -> RunView:
    """Return the view of a run whose job has ended in the state ``end`` while its folder says no end."""
    said = "" if end == "UNKNOWN" else f"SLURM: {end}"
    if view.state == "failed":
        return replace(view, why=str((view.status or {}).get("error")))
    if end in _BAD_ENDS:
        return replace(view, state="failed", why=said)
    if view.state == "running":
        # With a sign of life, although its job is over: on a node that SLURM has lost, or started by hand.
        return replace(view, outside=True, why=said)
    if end == "CANCELLED":
        return replace(view, state="cancelled", why=said)
    if view.state == "preempted":
        return replace(view, why=said or str((view.status or {}).get("error")))
    return replace(view, state="lost", why=said or "its job has vanished")
