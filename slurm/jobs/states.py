"""How far each run is: one table of what its folder says and what SLURM says of its newest job.

SLURM is asked first and the folders are read after that: a job that was over before has left everything in its folder.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from repro.runs.state import damage, read_state, read_status
from slurm.jobs import queue
from slurm.jobs.ledger import Ledger, Submitted
from slurm.jobs.queue import WAITING, Job, NoAnswerError, read_accounting, read_queue, this_cluster, this_user

#: States of a run that a job will still bring further. ``submit`` sends the others, but ``done`` never and ``failed`` and ``damaged`` only
#: with ``--retry``; what runs without a live job (:attr:`RunView.outside`) it leaves alone.
LIVE = ("queued", "starting", "running", "suspended")

#: Begins the state of a run whose newest job is not known to be over, in a queue that cannot be seen from here: that of another user or
#: cluster. Nothing of it is submitted or cancelled here.
ELSEWHERE = "elsewhere: "

#: The state of a run: in each row what SLURM says of its newest job, or where that is over the ledger, then by what its folder says.
#: A folder that is done or damaged stays so. ``none``: there is no job, or SLURM does not answer. ``gone``: the job is over, and how it
#: ended says nothing of the run.
TABLE = {
    #            missing    running  preempted  lost       failed
    "none": "    missing    running  preempted  lost       failed",
    "waiting": " queued     queued   queued     queued     failed",
    "active": "  starting   running  starting   starting   failed",
    "failed": "  failed     failed   failed     failed     failed",
    "cancelled": "cancelled running  cancelled  cancelled  failed",
    "gone": "    lost       running  preempted  lost       failed",
}
_FOLDER = ("missing", "running", "preempted", "lost", "failed")

#: What can be done about a run in a state in which no job brings it further.
REMEDIES = {
    "failed": "`retry`, when what has ended it is mended",
    "damaged": "`python -m sweeps verify` names the file; `retry` trains it again",
    "cancelled": "`submit` queues it again",
    "lost": "`submit` queues it again",
    "preempted": "`submit` queues it again",
}

#: The row of a job that is over, by its last state; ``gone`` for any other.
_ENDS = {"FAILED": "failed", "OUT_OF_MEMORY": "failed", "DEADLINE": "failed", "CANCELLED": "cancelled"}

#: What has ended a run, by what SLURM, its folder or its logs say.
_CAUSES = {
    r"No space left on device|Disk quota exceeded": "the disk is full; make room below the folder of runs, then `retry`",
    r"OUT_OF_MEMORY|oom[_ -]kill|SIGKILL.*needs more memory": "out of memory; raise `memory` in the cluster file, then `retry`",
}

#: Characters of the end of a log in which a cause is looked for.
_TAIL = 4000


@dataclass(frozen=True)
class RunView:
    """One run.

    Attributes:
        state: one of :data:`repro.runs.state.STATES`, ``suspended`` or ``elsewhere: USER on CLUSTER``.
        job: its newest job, if it was ever submitted.
        node: where it runs.
        why: what it waits for, or what has ended it.
        stuck: its job waits for what does not come by itself.
        outside: it is being trained by a process that no live job has started: by hand, or on a node that SLURM has lost.
        status: what its folder says.
    """

    run_id: str
    state: str
    job: str | None = None
    node: str = ""
    why: str = ""
    stuck: bool = False
    outside: bool = False
    status: Mapping[str, Any] | None = None


class JobStates:
    """All runs of a folder as SLURM and the ledger know them at one moment; SLURM is asked if something was submitted, or ``always``.

    Attributes:
        submitted: every submission, oldest first.
        slurm_cluster: the name of the cluster that was asked.
        jobs: this user's jobs that it still knows, by id.
        answer: why SLURM does not answer, or ``None``.
    """

    def __init__(self, runs: Path, *, always: bool = False) -> None:
        self._ledger = Ledger(runs)
        self._runs = runs
        # The ledger first: a submission that appears meanwhile is not missed by SLURM.
        self.submitted = self._ledger.read()
        self.slurm_cluster = ""
        self.jobs: dict[str, Job] = {}
        self.answer: str | None = None
        # A submission that was cut off has no ids of jobs; the next one forgets it.
        self._newest = {name: (item, job) for item in self.submitted for job, name in item.pairs}
        self._changed: list[Submitted] = []
        try:
            if self.submitted or always:
                self.slurm_cluster = this_cluster()
                self.jobs = read_queue()
        except NoAnswerError as error:
            self.answer = str(error)
            return
        self._changed = self._add_ends()

    def job_of(self, item: Submitted, job: str) -> Job | None:
        """Return what SLURM says of a job of ``item``; ``None`` where it knows none of this id that was submitted with it."""
        found = self.jobs.get(job)
        return found if found is not None and found.comment == item.token and item.is_mine(self.slurm_cluster) else None

    def _add_ends(self) -> list[Submitted]:
        """Add to the submissions how their jobs have ended, and return those that have changed."""
        newest = ((item, job) for item, job in self._newest.values() if item.is_mine(self.slurm_cluster) and job not in item.ended)
        gone = {(item.token, job): item.name for item, job in newest if self.job_of(item, job) is None}
        accounted = read_accounting({job: name for (_, job), name in gone.items()}) if gone else {}
        changed = []
        for item in self.submitted:
            found = {job: self.job_of(item, job) for job in item.jobs}
            ends = {job: known.state for job, known in found.items() if known is not None and not known.live}
            # Of a job that nobody remembers there is nothing more to ask.
            ends |= {job: accounted.get(job, "UNKNOWN") for job in item.jobs if (item.token, job) in gone}
            if not ends.items() <= item.ended.items():
                item.ended |= ends
                changed.append(item)
        return changed

    def save_ends(self) -> None:
        """Write down how jobs have ended, before SLURM forgets it; whoever only looks does not."""
        for item in self._changed:
            # Of a ledger that names no user it may be somebody else's.
            with contextlib.suppress(OSError):
                self._ledger.save(item)

    def cancel(self, jobs: Sequence[str]) -> set[str]:
        """Cancel jobs, note it, since SLURM keeps no trace of a task that has not begun, and return the ids of their runs.

        Raises:
            NoAnswerError: SLURM does not answer.
        """
        queue.cancel(jobs)
        cancelled: set[str] = set()
        for item in self.submitted:
            over = {job: "CANCELLED" for job in item.jobs if job in jobs and self.job_of(item, job)}
            if over:
                item.ended |= over
                self._ledger.save(item)
                cancelled |= {name for job, name in item.pairs if job in over}
        return cancelled

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
        job, row, why, node = self._job_of(name)
        folder = self._runs / name
        status = read_status(folder)
        says = "missing" if status is None else read_state(folder)
        if says in ("done", "damaged"):
            return RunView(name, says, job, why=(damage(folder) or "") if says == "damaged" else "", status=status)
        if row == "elsewhere" and says != "failed":
            return RunView(name, f"{ELSEWHERE}{why}", job, str((status or {}).get("node") or ""), status=status)
        if says == "queued" or (row in ("waiting", "stuck", "active") and (status or {}).get("slurm_job") != job):
            # What stands there is of an earlier attempt.
            says = "missing"
        # A run that has failed has no job that goes on, wherever that was.
        states = TABLE[{"elsewhere": "none", "stuck": "waiting"}.get(row, row)].split()
        state, error = states[_FOLDER.index(says)], str((status or {}).get("error"))
        if says == "failed":
            why = error
        elif row == "gone":
            why = why or {"lost": "its job has vanished", "preempted": error}.get(state, "")
        if state == "failed":
            why = self._cause(name, job, why) if row == "failed" or says == "failed" else why
        elif row == "active" and why in ("SUSPENDED", "STOPPED"):
            # It gives no sign of life meanwhile.
            state, why = "suspended", ""
        elif state == "starting" and says == "missing" and self._newest[name][0].takes_turns(name):
            state, why = "queued", "behind others of its job"
        why = " ".join(why.split())
        outside = state == "running" and row != "active" and self.answer is None
        return RunView(name, state, job, node, why, row == "stuck" and state == "queued", outside, status)

    def _cause(self, name: str, job: str | None, why: str) -> str:
        """Return ``why`` a run has failed, behind the name of the cause where that is known."""
        item, _ = self._newest.get(name, (None, None))
        said = [why, "" if item is None else item.ended.get(str(job), "")]
        if item is not None and why.startswith("SLURM: "):
            # The run could not say so itself: its disk was full, or the whole job was killed.
            logs = [self._runs / "logs" / f"{name}.log", self._ledger.folder_of(item) / f"{job}_0_log.err"]
            for path in logs:
                with contextlib.suppress(OSError):
                    said.append(path.read_text(errors="replace")[-_TAIL:])
        cause = next((cause for pattern, cause in _CAUSES.items() if re.search(pattern, "\n".join(said))), None)
        return why if cause is None else f"{cause} ({why})"

    def _job_of(self, name: str) -> tuple[str | None, str, str, str]:
        """Return the newest job of a run, its row in :data:`TABLE`, ``stuck`` or ``elsewhere``, what SLURM says of it, and its node."""
        item, job = self._newest.get(name, (None, None))
        # Without an answer the ledger alone says what is over.
        if item is None or job is None or (self.answer is not None and job not in item.ended and item.user in ("", this_user())):
            return job, "none", "", ""
        if job not in item.ended and not item.is_mine(self.slurm_cluster):
            return job, "elsewhere", f"{item.user} on {item.slurm_cluster}", ""
        found = self.job_of(item, job)
        if found is not None and found.live:
            if found.state in WAITING:
                remedy = found.remedy
                return (job, "waiting", found.reason, "") if remedy is None else (job, "stuck", f"{found.reason}: {remedy}", "")
            return job, "active", "" if found.state == "RUNNING" else found.state, found.node
        end = item.ended.get(job, "UNKNOWN")
        return job, _ENDS.get(end, "gone"), "" if end == "UNKNOWN" else f"SLURM: {end}", ""
