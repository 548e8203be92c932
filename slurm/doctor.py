"""Checks a cluster file: whether sbatch would take its jobs, and with one job whether runs train there and survive an interruption."""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from repro.config import registry
from repro.config.compose import compose
from repro.config.identity import run_id
from repro.data.published_files import files_of
from repro.errors import UserError
from repro.runs.state import read_state, read_status
from slurm.cluster import Cluster, minutes
from slurm.sbatch import Batch, data_folder, sbatch, text
from slurm.snapshot import take_snapshot
from slurm.states import call, read_queue
from slurm.submit import check_site

#: Seconds that the job may wait in the queue and train its first epoch, and that it may take to save and leave.
PATIENCE_S = 600.0

#: Long enough that it is still training when it is interrupted, after some seconds.
_RUN = ("method=one_hot", "dataset=digits", "model=digits_cnn", "split=full", "seed=0", "optim.epochs=100000")


def check_cluster(site: Cluster, runs: Path) -> None:
    """Print each check as it is made.

    Raises:
        UserError: a check has failed.
    """
    check_site(site)
    limits = dict(re.findall(r"PartitionName=(\S+).* MaxTime=(\S+)", call("scontrol", "show", "partition", "--oneliner")))
    _passed(f"SLURM answers: it is {read_queue().cluster}, with the partitions {', '.join(map(' '.join, limits.items()))}")
    folder, datasets = data_folder(site), {name: files_of(name) for name in registry.choices("dataset")}
    present = [name for name, files in datasets.items() if files is None or all((folder / file).is_file() for file in files.md5)]
    _passed(f"data: {folder} has {', '.join(present)}")
    try:
        (runs / "slurm").mkdir(parents=True, exist_ok=True)
        trial = Path(tempfile.mkdtemp(dir=runs.resolve() / "slurm"))
    except OSError as error:
        raise UserError(f"{runs} cannot be written: {error.strerror}. Set paths.runs in {site.path}.") from error
    try:
        for model in ("others", *site.by_model):
            part = site.of(model)
            # sbatch may take a job that is too long, and let it wait for ever.
            longest = [limits.get(name, "UNLIMITED") for name in part.partition.split(",")]
            if all(limit != "UNLIMITED" and minutes(limit) < part.time for limit in longest):
                raise UserError(f"{site.path}: time: {part.partition} allows {', '.join(longest)}")
            script = trial / "test.sh"
            script.write_text(text(Batch("doctor", part, (("doctor",),)), trial))
            call("sbatch", "--test-only", str(script))
            _passed(f"sbatch would take the jobs of {model if site.by_model else 'all models'}")
        _train(site, trial, take_snapshot(runs))
    finally:
        shutil.rmtree(trial, ignore_errors=True)
    print(f"{site.name}: ready")


def _train(site: Cluster, trial: Path, code: Path) -> None:
    short = site.model_copy(update={"time": min(site.time, 10 + site.warning_s // 60), "runs_per_gpu": 1})
    overrides = [*_RUN, *short.overrides()]
    name = run_id(compose(overrides))
    folder, notes = trial / name, trial / "notes"
    (job,) = sbatch(Batch("doctor", short, ((name,),)), trial, {name: overrides}, notes, code)

    def state() -> str:
        return read_queue().jobs.get(job, ("GONE", ""))[0]

    try:
        _passed(f"job {job} is submitted")
        waits = f"job {job} has trained nothing in {PATIENCE_S:.0f} s; `squeue -j {job}` says whether it waits. Try again later."
        _wait(lambda: state() == "GONE" or read_status(folder).get("epoch", 0) > 0, waits)
        if state() == "GONE":
            logs = [*notes.glob("*_log.err"), *trial.glob("logs/*")]
            lines = [line for log in logs for line in log.read_text(errors="replace").splitlines() if line.strip()]
            raise UserError(f"job {job} does not train: {' | '.join(lines[-3:]) or 'no log, so do the nodes see the folder of runs?'}")
        _passed(f"it trains on {read_status(folder)['node']}, GPU {read_status(folder)['gpu']}")
        call("scancel", "--signal=USR2", job)
        _wait(lambda: state() == "PENDING" and read_state(folder) == "preempted", "it does not heed the warning before its end")
        _passed("when it is warned it saves, and is queued again")
    finally:
        call("scancel", "--quiet", job)


def _passed(check: str) -> None:
    print(f"ok   {check}", flush=True)


def _wait(condition: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise UserError(otherwise)
        time.sleep(1.0)
