"""From a batch to sbatch, through submitit: the text, the pickles and the call."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from repro.errors import UserError
from slurm.batches import Batch
from slurm.cluster import Cluster
from slurm.job import RunJob
from slurm.ledger import Submitted
from sweeps.plan import Plan

#: The overrides that stand for the W&B mode of a cluster, where the run itself says nothing.
_TRACKER = "tracker="


def parameters(cluster: Cluster, batch: Batch, *, token: str, code: Path, after: list[str], max_parallel: int | None) -> dict[str, Any]:
    """Return what submitit needs to know of a batch; ``after`` are ids of jobs, ``code`` is the copy of the code that they run."""
    more: dict[str, Any] = {"comment": token, "requeue": True}
    if after:
        more |= {"dependency": "afterok:" + ":".join(after), "kill-on-invalid-dep": "yes"}
    if cluster.gpu != "none":
        more["gres"] = "gpu:1" if cluster.gpu == "any" else f"gpu:{cluster.gpu}:1"
    found: dict[str, Any] = {
        "job_name": batch.name,
        "partition": cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "constraint": cluster.constraint,
        "time": cluster.minutes_of(batch.model),
        "mem": f"{cluster.memory_of(batch.model) * batch.width}M",
        "nodes": 1,
        "ntasks_per_node": 1,
        "cpus_per_task": cluster.cpus,
        # sbatch forgets to tell srun.
        "srun_args": [f"--cpus-per-task={cluster.cpus}"],
        "signal_delay_s": cluster.warning_s,
        "array_parallelism": max_parallel or cluster.max_parallel or len(batch.tasks),
        "setup": setup_lines(cluster, code),
        "additional_parameters": more | dict(cluster.sbatch),
    }
    # submitit gives a workload key of its own unless told otherwise, which sites with such keys refuse.
    return {key: value for key, value in found.items() if value is not None} | {"wckey": None}


def data_folder(cluster: Cluster) -> Path:
    """Return where the datasets of runs on ``cluster`` lie."""
    return Path(cluster.data or os.environ.get("REPRO_DATA", "data")).resolve()


def setup_lines(cluster: Cluster, code: Path) -> list[str]:
    """Return the lines of shell before a run: modules, environment, and the way to the copy of the code."""
    # Relative to the folder of the one who submits; jobs start elsewhere.
    environment = dict(cluster.environment) | {"REPRO_DATA": str(data_folder(cluster))}
    if cluster.scratch is not None:
        environment["TMPDIR"] = cluster.scratch
    return [
        *(f"module load {shlex.quote(module)}" for module in cluster.modules),
        *(f"export {key}={shlex.quote(value)}" for key, value in environment.items()),
        *cluster.setup,
        # `python -m` looks into the working folder first, PYTHONPATH second, and into what is installed last.
        f"cd {shlex.quote(str(code))} || exit 1",
        f"export PYTHONPATH={shlex.quote(str(code))}",
    ]


def overrides_of(plan: Plan, name: str, cluster: Cluster) -> tuple[str, ...]:
    """Return the overrides of a run on ``cluster``; what the run itself says comes first and stays."""
    own = plan.runs[name].overrides
    keys = {override.partition("=")[0] for override in own}
    mode = (f"{_TRACKER}{cluster.wandb}",) if "tracker" not in keys else ()
    return (*own, *mode, *(item for item in cluster.settings if item.partition("=")[0] not in keys))


def dry_text(cluster: Cluster, batch: Batch, code: Path, folder: Path, after: list[str], max_parallel: int | None) -> str:
    """Return the text that sbatch would get."""
    given = parameters(cluster, batch, token="TOKEN", code=code, after=after, max_parallel=max_parallel)
    if len(batch.tasks) > 1:
        given["map_count"] = len(batch.tasks)
    command = f"{shlex.quote(cluster.python or sys.executable)} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    # submitit has no public name for it; a test holds this to what is really submitted.
    text: str = _slurm_module()._make_sbatch_string(command=command, folder=folder, **given)
    return text


@functools.cache
def _slurm_module() -> Any:
    return importlib.import_module("submitit.slurm.slurm")


def send(
    plan: Plan, cluster: Cluster, item: Submitted, batch: Batch, folder: Path, code: Path, after: list[str], width: int | None
) -> list[str]:
    """Call sbatch for ``batch`` and return the ids of its jobs; ``folder`` is that of the submission.

    Raises:
        UserError: SLURM refuses or does not answer; what was prepared for submitit is gone again.
    """
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    functions = [
        RunJob(tuple((name, overrides_of(plan, name, cluster)) for name in task), str(plan.folder.resolve()), str(folder.resolve()))
        for task in batch.tasks
    ]
    try:
        executor = _slurm_module().SlurmExecutor(folder, python=None if cluster.python is None else shlex.quote(cluster.python))
        executor.update_parameters(**parameters(cluster, batch, token=item.token, code=code, after=after, max_parallel=width))
        with outside_of_jobs(), executor.batch():
            jobs = [executor.submit(function) for function in functions]
        return [str(job.job_id) for job in jobs]
    except (FailedJobError, FailedSubmissionError, RuntimeError, OSError) as error:
        for path in folder.glob("*.pkl"):
            with contextlib.suppress(OSError):
                path.unlink()
        raise UserError(f"{batch.name}: {_reason(error)}") from error


@contextlib.contextmanager
def outside_of_jobs() -> Iterator[None]:
    """Submit as from a login node: sbatch hands its environment on, and a job would take the array of its submitter for its own."""
    own = {key: os.environ.pop(key) for key in list(os.environ) if key.startswith("SLURM_") and key != "SLURM_CONF"}
    try:
        yield
    finally:
        os.environ.update(own)


def _reason(error: Exception) -> str:
    """Return what sbatch said, without submitit's frame."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if "sbatch: error" in line or "slurm_" in line]
    return " ".join(said or lines[-3:]) or type(error).__name__


def forget(folder: Path) -> None:
    """Delete the folder of a submission that never was."""
    shutil.rmtree(folder, ignore_errors=True)


def options(given: Mapping[str, Any]) -> str:
    """Return a short text of the limits of a batch."""
    return f"{given['time']} min, {given['mem']}, {given['cpus_per_task']} CPUs"
