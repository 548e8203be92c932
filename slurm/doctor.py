"""Checks a cluster file: whether sbatch would take its jobs, and with one job whether runs train there and survive an interruption."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from repro.config import registry
from repro.config.compose import compose
from repro.config.identity import run_id
from repro.data.published_files import files_of
from repro.errors import UserError
from repro.runs.state import read_state, read_status
from slurm.cluster import Cluster
from slurm.snapshot import take_snapshot
from slurm.states import Jobs, call, read_queue
from slurm.submit import Batch, check_site, data_folder, sbatch, text

#: Seconds that the job may wait in the queue, and that it may take for each of its steps.
QUEUE_S, STEP_S = 600.0, 180.0

#: Long enough that it is still training when it is interrupted, after some seconds.
_RUN = ("method=one_hot", "dataset=digits", "model=digits_cnn", "split=full", "seed=0", "optim.epochs=100000")


def examine(site: Cluster, runs: Path, *, job: bool) -> int:
    """Print each check as it is made, up to the first that fails; return 1 when one has."""
    try:
        for line in _checks(site, runs, job=job):
            print(f"ok   {line}", flush=True)
    except UserError as error:
        print(f"BAD  {error}")
        return 1
    print(f"{site.name}: ready")
    return 0


def _checks(site: Cluster, runs: Path, *, job: bool) -> Iterator[str]:
    check_site(site)
    partitions = "; ".join(call("sinfo", "-h", "-o", "%R %l %G").splitlines())
    yield f"SLURM answers: it is {read_queue().cluster}; partition, longest time, GPUs: {partitions}"
    folder = data_folder(site)
    published = {name: files for name in registry.choices("dataset") if (files := files_of(name)) is not None}
    there = [name for name, files in published.items() if all(files.path(folder, file) for file in files.md5)]
    yield f"data: {folder} has {', '.join(there) or 'no dataset; digits need none'}"
    try:
        (runs / "slurm").mkdir(parents=True, exist_ok=True)
        trial = Path(tempfile.mkdtemp(dir=runs.resolve() / "slurm", prefix="doctor-"))
    except OSError as error:
        raise UserError(f"{runs} cannot be written: {error.strerror}. Set paths.runs of {site.path}.") from error
    yield f"runs: {runs.resolve()} can be written"
    try:
        for where, part in {"": site, **{f" for {model}": site.of(model) for model in site.by_model}}.items():
            path = trial / "test.sh"
            path.write_text(text(Batch("doctor", part, (("doctor",),)), trial, trial, trial))
            try:
                call("sbatch", "--test-only", str(path))
            except UserError as error:
                raise UserError(f"{site.path}: a job{where} is not possible: {error}") from error
            yield f"sbatch would take a job{where}"
        if job:
            yield from _job(site, runs, trial)
    finally:
        shutil.rmtree(trial, ignore_errors=True)


def _job(site: Cluster, runs: Path, trial: Path) -> Iterator[str]:
    short = site.model_copy(update={"time": min(site.time, 10 + site.warning_s // 60), "runs_per_gpu": 1})
    overrides = [*_RUN, *short.overrides()]
    name = run_id(compose(overrides))
    jobs = Jobs(trial, read_queue())
    folder = jobs.new_folder()
    batch = Batch("doctor", short, ((name,),))
    (job,) = sbatch(batch, trial, {name: overrides}, folder, take_snapshot(runs))
    try:
        yield f"job {job} is submitted"
        _wait(lambda: _state(job) != "PENDING", QUEUE_S, f"job {job} still waits: {read_queue().jobs.get(job)}. Try again later.")
        failed = f"job {job} trains nothing"
        _wait(lambda: _state(job) == "GONE" or read_status(trial / name).get("epoch", 0) > 0, STEP_S, failed)
        if _state(job) == "GONE":
            logs = [*folder.glob("*_log.err"), *(trial / "logs").glob("*")]
            lines = [line for log in logs for line in log.read_text(errors="replace").splitlines() if line.strip()]
            raise UserError(f"{failed}; its last lines: {' | '.join(lines[-3:]) or 'none, so is the folder of runs seen by the nodes?'}")
        status = read_status(trial / name)
        yield f"it trains on {status['node']}, GPU {status['gpu']}"
        call("scancel", "--signal=USR2", job)
        _wait(lambda: _state(job) == "PENDING" and read_state(trial / name) == "preempted", STEP_S, "it does not heed the warning")
        yield "when it is warned it saves, and is queued again"
    finally:
        call("scancel", "--quiet", job)


def _state(job: str) -> str:
    return read_queue().jobs.get(job, ("GONE", ""))[0]


def _wait(condition: Callable[[], bool], timeout_s: float, otherwise: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise UserError(otherwise)
        time.sleep(1.0)
