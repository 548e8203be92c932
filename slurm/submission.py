"""What a plan still needs of SLURM, and sending it: live runs are left alone, interrupted ones go on, failed ones wait to be asked for.

One process at a time decides and submits, so two submissions of the same spec train nothing twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from repro.errors import UserError, first_of
from repro.rundir import requeue
from slurm import queue, sbatch
from slurm.batches import Batch, make_batches
from slurm.cluster import Cluster
from slurm.ledger import Ledger
from slurm.snapshot import take_snapshot
from slurm.states import LIVE, JobStates, RunView
from sweeps.plan import Plan, PlannedRun

_BEYOND = "beyond --limit"
_OTHER_CODE = "made by code that differs"


@dataclass
class Choice:
    """What is to be done about each run of a plan.

    Attributes:
        views: how far each run is.
        send: the runs to submit, inputs before their readers.
        left: run_id -> why it is not submitted, for runs that need somebody's attention.
        batches: the calls of sbatch.
    """

    views: dict[str, RunView]
    send: list[PlannedRun] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    batches: list[Batch] = field(default_factory=list)

    def count(self, *states: str) -> int:
        """Return how many runs are in one of ``states``."""
        return sum(view.state in states for view in self.views.values())


@dataclass
class Sent:
    """What a submission has done.

    Attributes:
        jobs: ids of the arrays and single jobs.
        runs: number of runs.
        calls: number of calls of sbatch that were accepted.
        error: why it stopped early.
    """

    jobs: list[str] = field(default_factory=list)
    runs: int = 0
    calls: int = 0
    error: str | None = None


def choose(plan: Plan, site: Cluster, cluster: JobStates, *, retry: bool, limit: int | None) -> Choice:
    """Decide about every run of ``plan``."""
    inputs = {name: run.inputs for name, run in plan.runs.items()}
    choice = Choice(cluster.views(plan.runs, inputs))
    waited_for: dict[str, list[str]] = {}
    chosen: set[str] = set()
    for run in plan.runs.values():
        view = choice.views[run.run_id]
        if run.changed and view.state not in LIVE:
            choice.left[run.run_id] = f"{_OTHER_CODE} in {first_of(run.changed)}; `python -m sweeps run --changed-code` decides about it"
            continue
        if view.state == "done" or run.run_id in plan.spared or (view.state in LIVE and not view.outside):
            continue
        why = _obstacle(run, view, choice, chosen, retry=retry)
        if why is None and limit is not None and len(choice.send) >= limit:
            why = f"{_BEYOND} {limit}"
        if why is not None:
            choice.left[run.run_id] = why
            continue
        choice.send.append(run)
        chosen.add(run.run_id)
        waited_for[run.run_id] = [name for name in run.inputs if choice.views[name].state != "done"]
    readers: defaultdict[str, list[str]] = defaultdict(list)
    for run in plan.runs.values():
        for name in run.inputs:
            readers[name].append(run.run_id)
    choice.batches = make_batches(choice.send, waited_for, readers, runs_per_gpu=site.runs_per_gpu, array_limit=site.array_limit)
    return choice


def _obstacle(run: PlannedRun, view: RunView, choice: Choice, chosen: set[str], *, retry: bool) -> str | None:
    if view.outside:
        host = (view.status or {}).get("host")
        return f"a process on {host} trains it that no live job has started"
    if view.state == "damaged" and not retry:
        return view.why
    if view.state == "failed" and not retry:
        return f"failed before ({view.why}); --retry tries it again" if view.why else "failed before; --retry tries it again"
    for name in run.inputs:
        there = choice.views[name]
        if choice.left.get(name, "").startswith(_BEYOND):
            return choice.left[name]
        if choice.left.get(name, "").startswith(_OTHER_CODE):
            return f"its input {name} was made by other code"
        if there.state != "done" and name not in chosen and (there.state not in LIVE or there.outside):
            return f"its input {name} is {there.state} and is not submitted"
    return None


def check_models(plan: Plan, site: Cluster) -> None:
    """Check that the models that the cluster file has limits for exist.

    Raises:
        UserError: one does not.
    """
    from repro import registry
    from repro.errors import did_you_mean

    known = registry.choices("model")
    for key, values in (("time", site.minutes), ("memory", site.memory_mib)):
        for name in values:
            if name != "default" and name not in known:
                raise site.error(key, f"{key}.{name}: there is no such model.{did_you_mean(name, known)}")


def send(plan: Plan, site: Cluster, *, retry: bool, limit: int | None, max_parallel: int | None) -> Sent:
    """Submit what ``plan`` needs now. What SLURM refuses ends the submission; what it has taken stays, and the next call goes on.

    Raises:
        UserError: the folder cannot be written, SLURM does not answer.
    """
    ledger = Ledger(plan.folder)
    sent = Sent()
    with ledger.lock():
        cluster = JobStates(plan.folder, always=True)
        if cluster.answer is not None:
            raise UserError(f"{cluster.answer} Nothing was submitted.")
        _forget_cut_off(ledger, cluster)
        choice = choose(plan, site, cluster, retry=retry, limit=limit)
        ledger.write_plans(plan)
        if not choice.batches:
            return sent
        code = take_snapshot(plan.folder)
        jobs = {name: view.job for name, view in choice.views.items() if view.state in LIVE and view.job is not None}
        for batch in choice.batches:
            for name in batch.runs:
                # A retry takes the mark of the failure away; the checkpoint stays.
                requeue(plan.folder / name)
            try:
                jobs |= _send_one(plan, site, ledger, batch, code, jobs, max_parallel)
            except UserError as error:
                sent.error = str(error)
                break
            sent.jobs.append(jobs[batch.runs[0]].partition("_")[0])
            sent.runs += len(batch.runs)
            sent.calls += 1
    return sent


def _send_one(
    plan: Plan, site: Cluster, ledger: Ledger, batch: Batch, code: Path, jobs: Mapping[str, str], max_parallel: int | None
) -> dict[str, str]:
    item = ledger.begin(batch, site.name, code, site.minutes_of(batch.model))
    folder = ledger.folder_of(item)
    after = list(dict.fromkeys(jobs[name] for name in batch.after))
    try:
        item.jobs = sbatch.send(plan, site, item, batch, folder, code, after, max_parallel)
    except UserError:
        # A call that took too long may have been heard nevertheless: then the next submission finds the job by its comment.
        if _refused(item.token):
            sbatch.forget(folder)
        raise
    ledger.save(item)
    return {name: job for job, names in zip(item.jobs, item.tasks, strict=True) for name in names}


def _refused(token: str) -> bool:
    """Say whether SLURM is known not to have the jobs of a submission."""
    try:
        return all(job.comment != token for job in queue.read_queue().values())
    except queue.NoAnswerError:
        return False


def _forget_cut_off(ledger: Ledger, cluster: JobStates) -> None:
    """Cancel what was submitted by a call that was cut off before it knew: its jobs have nothing to run."""
    for item in cluster.unconfirmed():
        jobs = cluster.jobs_of(item.token)
        if jobs:
            queue.cancel(jobs)
        sbatch.forget(ledger.folder_of(item))
