"""From a plan to job arrays: which runs are sent, what they wait for, and the call of sbatch, through submitit."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import shutil
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.slurm.slurm import SlurmExecutor, _make_sbatch_string

from repro.config import registry
from repro.config.compose import compose
from repro.errors import UserError, did_you_mean
from repro.runs.state import requeue
from slurm.cluster import Cluster
from slurm.job import REQUEUE, Train
from slurm.states import Jobs, View, call
from sweeps.plan import Plan, PlannedRun
from sweeps.spec import SpecError, shown


@dataclass(frozen=True)
class Batch:
    """What one call of sbatch submits: a job, or an array of jobs that have the same limits and wait for the same jobs.

    Attributes:
        site: the cluster as jobs of this model have it.
        tasks: for each job the ids of its runs, which share a GPU.
        after: ids of the jobs that must have ended well before.
    """

    name: str
    site: Cluster
    tasks: tuple[tuple[str, ...], ...]
    after: tuple[str, ...] = ()


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
    # The job of each run that is in the queue; None for a run that is done.
    coming: dict[str, str | None] = {}
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
            if finished or name in plan.spared or (view.job is not None and not in_vain):
                coming[name] = view.job
            elif run.changed and changed_code == "refuse":
                left[name] = "made by a different version of the code; --changed-code retrain or accept decides about it"
            elif why := _obstacle(run, view, coming, retry=retry):
                left[name] = why
            else:
                waits = sorted({job for other in run.inputs if (job := coming[other]) is not None})
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


def _obstacle(run: PlannedRun, view: View, coming: Mapping[str, str | None], *, retry: bool) -> str | None:
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


def sbatch(batch: Batch, runs: Path, overrides: Mapping[str, Sequence[str]], folder: Path, code: Path) -> list[str]:
    """Call sbatch for ``batch``, whose runs train below ``runs``, and return the ids of its jobs; texts and pickles go to ``folder``.

    Raises:
        UserError: SLURM refuses.
    """
    executor = SlurmExecutor(folder, python=batch.site.python)
    executor.update_parameters(**_parameters(batch, runs, code))
    try:
        with contextlib.redirect_stderr(io.StringIO()), executor.batch():
            work = [Train(runs.resolve(), tuple((name, tuple(overrides[name])) for name in task)) for task in batch.tasks]
            jobs = [executor.submit(part) for part in work]
    except (FailedJobError, FailedSubmissionError, OSError) as error:
        shutil.rmtree(folder)
        lines = [line.strip() for line in str(error).splitlines() if "error:" in line] or [str(error)]
        raise UserError(f"{batch.name}: {' '.join(lines)}") from error
    return [str(job.job_id) for job in jobs]


def text(batch: Batch, runs: Path, folder: Path, code: Path) -> str:
    """Return the text that sbatch gets for ``batch``."""
    command = shlex.join(["-u", "-m", "submitit.core._submit", str(folder)])
    parameters = _parameters(batch, runs, code) | ({"map_count": len(batch.tasks)} if len(batch.tasks) > 1 else {})
    # submitit has no public name for it; a test compares it with what is really sent.
    return str(_make_sbatch_string(command=f"{batch.site.python or shlex.quote(sys.executable)} {command}", folder=folder, **parameters))


def _parameters(batch: Batch, runs: Path, code: Path) -> dict[str, Any]:
    site = batch.site
    more = dict(site.sbatch) | {"requeue": True}
    if batch.after:
        more |= {"dependency": f"afterok:{':'.join(batch.after)}", "kill-on-invalid-dep": "yes"}
    return {
        "job_name": batch.name,
        "partition": site.partition,
        "account": site.account,
        "qos": site.qos,
        "constraint": site.constraint,
        "gres": {"none": None, "any": "gpu:1"}.get(site.gpu, f"gpu:{site.gpu}:1"),
        "time": site.time,
        "mem": f"{int(site.memory[:-1]) * site.runs_per_gpu}{site.memory[-1]}",
        "nodes": 1,
        "ntasks_per_node": site.runs_per_gpu,
        "cpus_per_task": site.cpus_per_run,
        # sbatch forgets to tell srun, and one run that fails must not end those beside it.
        "srun_args": [f"--cpus-per-task={site.cpus_per_run}", "--kill-on-bad-exit=0", *site.srun],
        "signal_delay_s": site.warning_s,
        "array_parallelism": site.max_parallel or len(batch.tasks),
        "setup": [
            # SLURM numbers GPUs by PCI bus, CUDA by itself begins with the fastest.
            "export CUDA_DEVICE_ORDER=PCI_BUS_ID",
            f"export REPRO_DATA={shlex.quote(str(data_folder(site)))}",
            f"export REPRO_RUNS={shlex.quote(str(runs.resolve()))}",
            f"export REPRO_GPU_SHARE={site.runs_per_gpu}",
            *site.setup,
            f"cd {shlex.quote(str(code))} || exit 1",
            f"export PYTHONPATH={shlex.quote(str(code))}",
        ],
        "teardown": [REQUEUE],
        # submitit gives a workload key of its own unless told otherwise, which sites with such keys refuse.
        "wckey": None,
        "additional_parameters": more,
    }


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


def data_folder(site: Cluster) -> Path:
    """Return where the jobs look for datasets."""
    return Path(site.paths.data or os.environ.get("REPRO_DATA", "data")).resolve()
