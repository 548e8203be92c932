"""What a plan still needs of SLURM, and sending it: live runs are left alone, interrupted ones go on, failed ones wait to be asked for.

One process at a time decides and submits, so two submissions of the same spec train nothing twice.
"""

from __future__ import annotations

import contextlib
import shutil
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from repro.config import registry
from repro.data.staging import files_of
from repro.errors import UserError, did_you_mean, first_of
from repro.runs.state import requeue
from slurm.cluster import Cluster
from slurm.jobs import queue, sbatch
from slurm.jobs.batches import Batch, make_batches, split
from slurm.jobs.job import RunJob
from slurm.jobs.ledger import Ledger
from slurm.jobs.states import ELSEWHERE, LIVE, JobStates, RunView
from sweeps.plan.plan import Plan, PlannedRun

_BEYOND = "beyond --limit"


@dataclass
class Choice:
    """What is to be done about each run of a plan.

    Attributes:
        views: how far each run is.
        send: the runs to submit, inputs before their readers.
        replaced: jobs that wait for one that is over, and are submitted anew: what they read is, too.
        left: run_id -> why it is not submitted, for runs that need somebody's attention.
        jobs: of the runs that are in the queue.
        batches: the calls of sbatch.
        hours: of each run the planner's estimate, where times come from it (``time_factor``) and there is one.
    """

    views: dict[str, RunView]
    send: list[PlannedRun] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    jobs: dict[str, str] = field(default_factory=dict)
    batches: list[Batch] = field(default_factory=list)
    hours: Mapping[str, float] = field(default_factory=dict)


@dataclass
class Sent:
    """What a submission has done.

    Attributes:
        jobs: ids of the arrays and single jobs, one for each call of sbatch.
        runs: number of runs.
        waiting: ids of runs for which there is no room in the queue now, and ``full`` says why.
        error: why it stopped early.
    """

    jobs: list[str] = field(default_factory=list)
    runs: int = 0
    waiting: list[str] = field(default_factory=list)
    full: str = ""
    error: str | None = None


def choose(
    plan: Plan, site: Cluster, cluster: JobStates, *, retry: bool, limit: int | None, names: Collection[str] | None = None
) -> Choice:
    """Decide about every run of ``plan``, or about those called ``names`` and none of the others."""
    choice = Choice(cluster.views(plan.runs, {name: run.inputs for name, run in plan.runs.items()}))
    waited_for: dict[str, list[str]] = {}
    readers: defaultdict[str, list[str]] = defaultdict(list)
    coming, sending = set[str](), set[str]()
    for name, run in plan.runs.items():
        for other in run.inputs:
            readers[other].append(name)
        view = choice.views[name]
        live = view.state in LIVE and not view.outside
        # What waits for its turn in a job that runs has a node.
        waits_in_vain = view.state == "queued" and not view.node and not sending.isdisjoint(run.inputs)
        if (live and not waits_in_vain) or (not run.changed and (view.state == "done" or name in plan.spared)):
            coming.add(name)
            continue
        if names is not None and name not in names and not waits_in_vain:
            continue
        why = _obstacle(run, view, choice, coming, retry=retry)
        if why is None and limit is not None and len(choice.send) >= limit:
            why = f"{_BEYOND} {limit}"
        if why is not None:
            choice.left[name] = why
        else:
            choice.send.append(run)
            choice.replaced += [view.job] if waits_in_vain and view.job is not None else []
            coming.add(name)
            sending.add(name)
            waited_for[name] = [other for other in run.inputs if choice.views[other].state != "done"]
    choice.jobs = {name: view.job for name, view in choice.views.items() if view.state in LIVE and view.job is not None}
    parts = {model: site.of(model) for model in {str(run.fields["model.name"]) for run in choice.send}}
    size = {model: part.runs_per_gpu * part.runs_per_job for model, part in parts.items()}
    choice.batches = make_batches(choice.send, waited_for, readers, choice.jobs, size=size, array_limit=site.array_limit)
    return choice


def _obstacle(run: PlannedRun, view: RunView, choice: Choice, coming: Collection[str], *, retry: bool) -> str | None:
    """Return why a run that no live job has, and that is not done as it should be, is not submitted all the same.

    What it reads must be ``coming``: done, in the queue, or submitted now.
    """
    if view.state.startswith(ELSEWHERE):
        return f"{view.state}; it can be cancelled or submitted again from there only"
    if view.outside:
        host = (view.status or {}).get("host")
        return f"a process on {host} trains it that no live job has started"
    if run.changed:
        return f"made by code that differs in {first_of(run.changed)}; `python -m sweeps run --changed-code` decides about it"
    if view.state == "damaged" and not retry:
        return view.why
    if view.state == "failed" and not retry:
        return f"failed before{f' ({view.why})' if view.why else ''}; --retry tries it again"
    for name in run.inputs:
        if name not in coming:
            beyond = choice.left.get(name, "").startswith(_BEYOND)
            return choice.left[name] if beyond else f"its input {name} is not submitted"
    return None


def check_models(site: Cluster) -> None:
    """Check that the models that the cluster file has limits for exist.

    Raises:
        UserError: one does not.
    """
    known = registry.choices("model")
    assert site.node is not None, "it comes from a file"
    for key in ("time", "memory", "by_model"):
        for name in (values := site.node.get(key, {})):
            if name not in known and (name != "default" or key == "by_model"):
                raise values.error(name, f"there is no such model.{did_you_mean(name, known)}")


def check_data(site: Cluster, datasets: Iterable[str]) -> None:
    """Check that the published files of ``datasets`` are where the jobs look for them; some datasets need none.

    Raises:
        UserError: one is missing or damaged; the message says which and what to do.
    """
    folder = sbatch.data_folder(site)
    for name in sorted(set(datasets)) if site.check_data else ():
        try:
            if (files := files_of(name)) is not None:
                files.read(folder)
        except UserError as error:
            raise UserError(f"{error}\nOr set paths.data of {site.path}; check_data: false if only the nodes see the files.") from error


def send(
    plan: Plan,
    site: Cluster,
    code: Path | None,
    hours: Mapping[str, float],
    *,
    retry: bool,
    limit: int | None,
    names: Collection[str] | None = None,
) -> Sent:
    """Submit what ``plan`` needs now, or what of ``names`` it needs, to run the copy ``code``; without one nothing.

    An array that is too large for SLURM is cut until what is left fits, and where there is room for none more the rest waits. What SLURM
    refuses for another reason ends the submission; what it has taken stays, and the next call goes on.

    Raises:
        NoAnswerError: SLURM does not answer.
        UserError: the folder cannot be written.
    """
    ledger = Ledger(plan.folder)
    sent = Sent()
    with ledger.lock():
        cluster = JobStates(plan.folder, always=True)
        if cluster.answer is not None:
            raise queue.NoAnswerError(f"{cluster.answer} Nothing was submitted.")
        cluster.save_ends()
        for item in cluster.submitted:
            if not item.jobs and item.is_mine(cluster.slurm_cluster):
                # The call was cut off before it knew: what SLURM has of it has nothing to run.
                queue.cancel([job.job for job in cluster.jobs.values() if job.comment == item.token and job.live])
                shutil.rmtree(ledger.folder_of(item), ignore_errors=True)
        choice = choose(plan, site, cluster, retry=retry, limit=limit, names=names)
        if not choice.batches or code is None:
            return sent
        sent.waiting = [run.run_id for run in choice.send]
        jobs = choice.jobs
        cluster.cancel(choice.replaced)
        live = sum(job.live for job in cluster.jobs.values()) - len(choice.replaced)
        batches = choice.batches[::-1]
        while batches:
            # As planned, unless arrays that it waits for were cut.
            batch, *others = split(batches.pop(), jobs)
            batches += others
            room = len(batch.tasks) if site.max_jobs is None else site.max_jobs - live
            if room <= 0:
                sent.full = f"{live} jobs of yours are in the queue, and max_jobs is {site.max_jobs}"
                return sent
            if room < len(batch.tasks):
                batches += batch.cut(room)
                continue
            for name in batch.runs:
                # A retry takes the mark of the failure away; the checkpoint stays.
                requeue(plan.folder / name)
            part = site.of(batch.model, batch.hours(hours))
            item = ledger.begin(batch, part, code, cluster.slurm_cluster)
            folder = ledger.folder_of(item)
            runs = {name: part.overrides(plan.runs[name].overrides, on_gpu=part.gpu != "none") for name in batch.runs}
            places = plan.folder.resolve(), folder.resolve()
            work = [RunJob({name: runs[name] for name in task}, *places, part.runs_per_gpu) for task in batch.tasks]
            try:
                item.jobs = sbatch.send(part, batch, work, folder, code, batch.dependency(jobs))
            except UserError as error:
                # A call that took too long may have been heard nevertheless: then the next submission finds the job by its comment.
                with contextlib.suppress(queue.NoAnswerError):
                    if all(job.comment != item.token for job in queue.read_queue().values()):
                        shutil.rmtree(folder, ignore_errors=True)
                if isinstance(error, sbatch.TooManyError) and len(batch.tasks) > 1:
                    batches += batch.cut(len(batch.tasks) // 2)
                    continue
                if isinstance(error, sbatch.TooManyError) and live:
                    sent.full = str(error)
                else:
                    sent.error = str(error)
                return sent
            ledger.save(item)
            jobs |= {name: job for job, names in zip(item.jobs, item.tasks, strict=True) for name in names}
            sent.jobs.append(item.jobs[0].partition("_")[0])
            sent.runs += len(batch.runs)
            gone = set(batch.runs)
            sent.waiting = [name for name in sent.waiting if name not in gone]
            live += len(batch.tasks)
    return sent
