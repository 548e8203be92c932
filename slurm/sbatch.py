"""A call of sbatch, through submitit."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.slurm.slurm import SlurmExecutor, _make_sbatch_string

from repro.errors import UserError
from slurm.cluster import Cluster
from slurm.job import REQUEUE, Train


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


def sbatch(batch: Batch, runs: Path, overrides: Mapping[str, Sequence[str]], folder: Path, code: Path) -> list[str]:
    """Call sbatch for ``batch``, whose runs train below ``runs``, and return the ids of its jobs; texts and pickles go to ``folder``.

    Raises:
        UserError: SLURM refuses.
    """
    executor = SlurmExecutor(folder, python=batch.site.python)
    executor.update_parameters(**_parameters(batch, runs, code))
    try:
        with executor.batch():
            work = [Train(runs.resolve(), tuple((name, tuple(overrides[name])) for name in task)) for task in batch.tasks]
            jobs = [executor.submit(part) for part in work]
    except (FailedJobError, FailedSubmissionError, OSError) as error:
        shutil.rmtree(folder)
        lines = [line.strip() for line in str(error).splitlines() if "error:" in line] or [str(error)]
        raise UserError(f"{batch.name}: {' '.join(lines)}") from error
    return [str(job.job_id) for job in jobs]


def text(batch: Batch, runs: Path) -> str:
    """Return the text that sbatch would get for ``batch``, with TOKEN and SHA256 for what is not known yet."""
    folder, code = runs.resolve() / "slurm" / "TOKEN", runs.resolve() / "code" / "SHA256"
    command = f"{batch.site.python or shlex.quote(sys.executable)} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    parameters = _parameters(batch, runs, code) | ({"map_count": len(batch.tasks)} if len(batch.tasks) > 1 else {})
    # submitit has no public name for it; a test compares it with what is really sent.
    return str(_make_sbatch_string(command=command, folder=folder, **parameters))


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


def data_folder(site: Cluster) -> Path:
    """Return where the jobs look for datasets."""
    return Path(site.paths.get("data") or os.environ.get("REPRO_DATA", "data")).resolve()
