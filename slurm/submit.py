"""From a plan to jobs: which runs are sent, in which arrays, and what these wait for."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from repro.config import registry
from repro.config.compose import compose
from repro.errors import UserError, did_you_mean, first_of
from repro.runs.lock import acquire
from repro.runs.state import read_state, requeue
from slurm.cluster import Cluster
from slurm.sbatch import Batch, sbatch, text
from slurm.snapshot import take_snapshot
from slurm.states import Jobs, View, call, look_at_queue, read_queue
from slurm.status import keep_plan
from sweeps import tuning
from sweeps.launch import Outcome
from sweeps.plan import Plan, PlannedRun
from sweeps.printing import print_chosen, print_hours
from sweeps.scales import Scale
from sweeps.spec import Spec
from sweeps.tuned_values import tuned_folder
from sweeps.yaml_files import SpecError, shown


def check_site(site: Cluster) -> None:
    """Check what of a cluster file needs the code of runs: the models that it names, and its settings.

    Raises:
        SpecError: there is no such model or setting.
    """
    known = registry.choices("model")
    for model in site.by_model:
        if model not in known:
            raise SpecError(f"{shown(site.path)}: by_model: there is no model '{model}'.{did_you_mean(model, known)}")
    try:
        compose(["method=one_hot", "dataset=digits", "seed=0", *site.overrides()])
    except UserError as error:
        raise SpecError(f"{shown(site.path)}: settings: {error}") from error


def walk(
    plan: Plan,
    jobs: Jobs,
    site: Cluster,
    send: Callable[[Batch], Sequence[str]],
    *,
    retry: bool = False,
    after: Sequence[str] = (),
    changed_code: str = "refuse",
) -> dict[str, str]:
    """``send`` what is neither done nor in the queue, inputs before their readers, and return why other runs were left.

    ``send`` returns the ids of the jobs of a batch. ``retry`` sends failed and corrupted runs too. All jobs wait for those of ``after``.
    ``changed_code`` (refuse, retrain, accept) says what becomes of runs that a different version of the code made.
    """
    left: dict[str, str] = {}
    # The job of each run that is in the queue; empty for a run that is done.
    coming: dict[str, str] = {}
    sent: set[str] = set()
    room = len(plan.runs) if site.max_jobs is None else max(0, site.max_jobs - len(jobs.queue.jobs))
    for stage in sorted({run.stage for run in plan.runs.values()}):
        alike: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
        for name, run in plan.runs.items():
            if run.stage != stage:
                continue
            view = jobs.view(name)
            # Of a job that waits for one which has failed nothing comes.
            in_vain = view.state == "queued" and not sent.isdisjoint(run.inputs)
            finished = view.state == "done" and (not run.changed or changed_code == "accept")
            if finished or name in plan.spared or (view.job and not in_vain):
                coming[name] = view.job
            elif run.changed and changed_code == "refuse":
                left[name] = "made by a different version of the code; --changed-code retrain or accept decides about it"
            elif why := _obstacle(run, view, coming, retry=retry):
                left[name] = why
            else:
                waits = sorted({coming[other] for other in run.inputs} - {""})
                alike[str(run.fields["model.name"]), f"{run.specs[0]}-{run.fields['method.name']}", *waits].append(name)
        for (model, title, *waits), names in alike.items():
            part = site.of(model)
            tasks = [tuple(names[start : start + part.runs_per_gpu]) for start in range(0, len(names), part.runs_per_gpu)]
            left |= {name: f"the queue has as many jobs as max_jobs allows, {site.max_jobs}" for task in tasks[room:] for name in task}
            tasks, room = tasks[:room], max(0, room - len(tasks))
            for start in range(0, len(tasks), jobs.queue.max_array):
                batch = Batch(f"{title}-{model}", part, tuple(tasks[start : start + jobs.queue.max_array]), (*waits, *after))
                for job, task in zip(send(batch), batch.tasks, strict=True):
                    coming |= dict.fromkeys(task, job)
                    sent |= set(task)
    return left


def _obstacle(run: PlannedRun, view: View, coming: Mapping[str, str], *, retry: bool) -> str | None:
    """Return why a run that is neither done nor in the queue is not sent."""
    if view.state in ("running", "elsewhere"):
        return view.why or "a process trains it that is no job of yours"
    if view.state in ("failed", "corrupted") and not retry:
        return f"{view.state}; `retry` trains it again"
    return next((f"its input {name} is not submitted" for name in run.inputs if name not in coming), None)


def sender(plan: Plan, jobs: Jobs, code: Path, changed_code: str) -> Callable[[Batch], list[str]]:
    """Return what submits a batch of ``plan`` to run the copy ``code``, and writes down its jobs."""

    def send(batch: Batch) -> list[str]:
        names = [name for task in batch.tasks for name in task]
        if in_vain := [job for name in names if (job := jobs.view(name).job)]:
            call("scancel", *in_vain)
        for name in names:
            # This takes the mark of a failure away; the checkpoint stays.
            requeue(plan.folder / name)
        more = [*batch.site.overrides(), f"exec.on_changed_code={changed_code}"]
        folder = jobs.new_folder()
        ids = sbatch(batch, plan.folder, {name: [*plan.runs[name].overrides, *more] for name in names}, folder, code)
        jobs.note(folder, {name: job for job, task in zip(ids, batch.tasks, strict=True) for name in task})
        return ids

    return send


def tune(specs: Sequence[Spec], scale: Scale, runs: Path, site: Cluster, args: Namespace) -> None:
    """Submit the grids of the tunings that ``specs`` need; choose the values of those that are done."""
    waits: list[str] = []

    def execute(plan: Plan) -> Outcome:
        if not args.dry_run:
            keep_plan(plan)
        submit(plan, site, args)
        waits.extend(name for name in plan.runs if read_state(runs / name) not in ("done", "failed"))
        return Outcome(changed={name: run.state for name, run in plan.runs.items() if run.changed}, out_of_time=bool(waits))

    chosen = tuning.tune(specs, scale, runs, tuned_folder(), execute)
    if waits:
        print(f"{len(waits)} runs of the grids are not done; when they are, the same command chooses the values")
    else:
        print_chosen(chosen, tuned_folder() / f"{scale.name}.yaml")


def submit(plan: Plan, site: Cluster, args: Namespace) -> None:
    """Show what of ``plan`` is missing, and submit it if that is agreed to."""
    batches: list[Batch] = []

    def collect(batch: Batch) -> list[str]:
        batches.append(batch)
        return [f"JOB{len(batches)}_{index}" for index in range(len(batch.tasks))]

    options = {"retry": args.command == "retry", "after": args.after, "changed_code": args.changed_code}
    left = walk(plan, Jobs(plan.folder, look_at_queue() if args.dry_run else read_queue()), site, collect, **options)
    _print_choice(plan, site, batches, left)
    if args.dry_run and batches:
        print(f"\nthe text for the first call:\n{text(batches[0], plan.folder)}")
    elif batches and (args.yes or _agreed()):
        with acquire(plan.folder / "slurm" / ".lock", timeout_s=600):
            jobs = Jobs(plan.folder, read_queue())
            walk(plan, jobs, site, sender(plan, jobs, take_snapshot(plan.folder), args.changed_code), **options)
        print("submitted; `python -m slurm status` shows how far the runs are")


def _print_choice(plan: Plan, site: Cluster, batches: Sequence[Batch], left: Mapping[str, str]) -> None:
    for name in plan.untuned:
        print(f"not tuned yet: {name}")
    for why, count in Counter(left.values()).items():
        print(f"not submitted, {count} runs: {why} ({first_of([name for name in left if left[name] == why], 2)})")
    calls = Counter(
        f"{batch.name}: {len(batch.tasks)} jobs after {len(batch.after)} others, each {batch.site.time} min, {batch.site.cpus} CPUs, "
        f"{batch.site.runs_per_gpu} x {batch.site.memory}, GPU: {batch.site.gpu}"
        for batch in batches
    )
    for call_of_sbatch, count in calls.items():
        print(f"{count} x {call_of_sbatch}")
    sent = [name for batch in batches for task in batch.tasks for name in task]
    print(f"{len(sent)} of {len(plan.runs)} runs to submit to {site.name}, with {len(batches)} calls of sbatch")
    if sent:
        print_hours(plan, sent)


def _agreed() -> bool:
    if not sys.stdin.isatty():
        raise UserError("this is no terminal to ask in: --yes submits without a question, --dry-run shows what would be submitted.")
    return input("Submit? [y/N] ").strip().lower() in ("y", "yes")
