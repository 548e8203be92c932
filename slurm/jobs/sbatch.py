"""From a batch to sbatch, through submitit: the text, the pickles and the call."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from repro.errors import UserError
from slurm.cluster import Cluster
from slurm.jobs.batches import Batch
from slurm.jobs.job import EXIT_REQUEUE
from slurm.jobs.queue import callers_options

#: How sbatch refuses an array that is larger than the cluster's MaxArraySize, or than what a qos or an association still takes of a user.
#: Older ones do not name the limit; another limit that is named has nothing to do with how many jobs there are.
TOO_MANY = r"Invalid job array specification|SubmitJob|^(?!.*\b(QOS|Assoc)[A-Z]).*accounting/QOS policy"


class TooManyError(UserError):
    """SLURM does not take so many jobs in one array, or now."""


def _parameters(cluster: Cluster, batch: Batch, folder: Path, code: Path, dependency: str | None = None) -> dict[str, Any]:
    """Return what submitit needs to know of a batch; ``cluster`` is what jobs of its model have (:meth:`slurm.cluster.Cluster.of`).

    ``folder`` is that of the submission, whose name the jobs carry as their comment; they run the copy of the code in ``code``.
    """
    more: dict[str, Any] = {"comment": folder.name, "requeue": True}
    if waits := ",".join(str(part) for part in (cluster.sbatch.get("dependency"), dependency) if part is not None):
        more |= {"dependency": waits, "kill-on-invalid-dep": "yes"}
    if cluster.min_minutes is not None:
        more["time-min"] = min(cluster.min_minutes, cluster.minutes["default"])
    if cluster.gpu != "none":
        more["gres"] = "gpu:1" if cluster.gpu == "any" else f"gpu:{cluster.gpu}:1"
    found: dict[str, Any] = {
        "job_name": batch.name,
        "partition": cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "constraint": cluster.constraint,
        "time": cluster.minutes["default"],
        "mem": f"{cluster.memory_of(batch.width)}M",
        "nodes": 1,
        "ntasks_per_node": 1,
        "cpus_per_task": cluster.cpus,
        # sbatch forgets to tell srun.
        "srun_args": [f"--cpus-per-task={cluster.cpus}", *(cluster.container if _is_for_srun(cluster) else ())],
        "signal_delay_s": cluster.warning_s,
        "array_parallelism": cluster.max_parallel or len(batch.tasks),
        "setup": _setup_lines(cluster, code),
        # Within a container there may be no scontrol.
        "teardown": [f'code=$?; [ $code = {EXIT_REQUEUE} ] && scontrol requeue "$SLURM_JOB_ID" && sleep 120; exit $code'],
        "additional_parameters": dict(cluster.sbatch) | more,
    }
    # submitit gives a workload key of its own unless told otherwise, which sites with such keys refuse.
    return {key: value for key, value in found.items() if value is not None} | {"wckey": None}


def data_folder(cluster: Cluster) -> Path:
    """Return where the datasets of runs on ``cluster`` lie."""
    return Path(cluster.paths.data or os.environ.get("REPRO_DATA", "data")).resolve()


def _python(cluster: Cluster) -> str:
    """Return the command that is Python on the nodes. Until it listens to USR2, which would end it, it ignores the signal."""
    words = [] if _is_for_srun(cluster) else cluster.container
    return shlex.join(["sh", "-c", 'trap "" USR2; exec "$@"', "sh", *words, cluster.python or sys.executable])


def _is_for_srun(cluster: Cluster) -> bool:
    return cluster.container[:1] != () and cluster.container[0].startswith("-")


def _setup_lines(cluster: Cluster, code: Path) -> list[str]:
    """Return the lines of shell before a run: modules, environment, and the way to the copy of the code."""
    # SLURM numbers GPUs by their device files, which are in the order of the PCI bus; CUDA by itself begins with the fastest.
    environment = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"} | dict(cluster.environment)
    # Relative to the folder of the one who submits; jobs start elsewhere.
    environment |= {"REPRO_DATA": str(data_folder(cluster))}
    environment |= {} if cluster.paths.scratch is None else {"REPRO_SCRATCH": cluster.paths.scratch}
    return [
        "trap '' USR2",
        *(f"module load {shlex.quote(module)}" for module in cluster.modules),
        *(f"export {key}={shlex.quote(value)}" for key, value in environment.items()),
        *cluster.setup,
        # `python -m` looks into the working folder first, PYTHONPATH second, and into what is installed last.
        f"cd {shlex.quote(str(code))} || exit 1",
        f"export PYTHONPATH={shlex.quote(str(code))}",
    ]


def dry_text(cluster: Cluster, batch: Batch, runs: Path) -> str:
    """Return the text that sbatch would get for a batch that waits for nothing, with TOKEN and SHA256 for what is not known yet."""
    folder = runs.resolve() / "slurm" / "TOKEN"
    given = _parameters(cluster, batch, folder, runs.resolve() / "code" / "SHA256")
    if len(batch.tasks) > 1:
        given["map_count"] = len(batch.tasks)
    command = f"{_python(cluster)} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    # Imported when it is needed: commands print first. submitit has no public name for it; a test holds this to what is really submitted.
    from submitit.slurm.slurm import _make_sbatch_string

    return _make_sbatch_string(command=command, folder=folder, **given)


def send(
    cluster: Cluster, batch: Batch, work: Sequence[Callable[[], str]], folder: Path, code: Path, dependency: str | None = None
) -> list[str]:
    """Call sbatch for ``batch``, whose jobs do one part each of ``work``, with :func:`_parameters`; return the ids of the jobs.

    Raises:
        TooManyError: SLURM may take fewer jobs.
        UserError: SLURM refuses or does not answer.
    """
    from submitit.core.utils import FailedJobError, FailedSubmissionError
    from submitit.slurm.slurm import SlurmExecutor

    try:
        executor = SlurmExecutor(folder, python=_python(cluster))
        executor.update_parameters(**_parameters(cluster, batch, folder, code, dependency))
        with _outside_of_jobs(), contextlib.redirect_stderr(io.StringIO()), executor.batch():
            jobs = [executor.submit(part) for part in work]
        return [str(job.job_id) for job in jobs]
    except (FailedJobError, FailedSubmissionError, RuntimeError, OSError) as error:
        # What sbatch said, without submitit's frame.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        said = [line for line in lines if "sbatch: error" in line or "slurm_" in line]
        text = f"{batch.name}: {' '.join(said or lines[-3:]) or type(error).__name__}"
        raise (TooManyError if re.search(TOO_MANY, text) else UserError)(text) from error


@contextlib.contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Submit as from a login node: sbatch obeys its environment before its text, and hands it on to the job."""
    own = {key: os.environ.pop(key) for key in callers_options()}
    try:
        yield
    finally:
        os.environ.update(own)
