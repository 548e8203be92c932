"""Clusters that are this machine: ``local``, a worker for each GPU or some on the CPU, and ``debug``, this very process."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from repro.errors import UserError, first_of
from repro.lock import HeldError, hold
from slurm.cluster import Cluster
from slurm.sbatch import overrides_of
from sweeps.local import Outcome, run_missing
from sweeps.plan import Plan, PlannedRun, planned_state
from sweeps.worker import last_error, train


def run_here(plan: Plan, cluster: Cluster, *, retry: bool, max_parallel: int | None, limit: int | None) -> Outcome:
    """Train what is missing of ``plan`` on this machine and return how it went."""
    prepared = _prepared(plan, cluster, limit)
    for key, value in cluster.environment.items():
        os.environ[key] = value
    if cluster.data is not None:
        os.environ["REPRO_DATA"] = cluster.data
    if cluster.kind == "debug":
        return _in_this_process(prepared, retry=retry)
    gpus = visible_gpus()
    jobs = max_parallel or cluster.jobs or len(gpus) or 1
    if not gpus:
        return run_missing(prepared, jobs=jobs, retry=retry)
    worker = OnOneGpu(gpus, plan.folder.resolve() / "slurm" / "gpus")
    worker.locks.mkdir(parents=True, exist_ok=True)
    return run_missing(prepared, jobs=min(jobs, len(gpus)), retry=retry, worker=worker)


def _prepared(plan: Plan, cluster: Cluster, limit: int | None) -> Plan:
    """Return ``plan`` with the overrides of the cluster, and with no more than ``limit`` runs that are not done."""
    from dataclasses import replace

    runs: dict[str, PlannedRun] = {}
    left = limit
    for name, run in plan.runs.items():
        if run.state != "done" and left is not None:
            if left == 0 or any(other not in runs for other in run.inputs):
                continue
            left -= 1
        runs[name] = replace(run, overrides=overrides_of(plan, name, cluster))
    return replace(plan, runs=runs)


def _in_this_process(plan: Plan, *, retry: bool) -> Outcome:
    outcome = Outcome()
    for run in plan.runs.values():
        folder = plan.folder / run.run_id
        bad = next((name for name in run.inputs if name in {*outcome.failed, *outcome.skipped, *outcome.changed}), None)
        state = planned_state(folder)
        if state == "failed" and not retry:
            outcome.failed[run.run_id] = f"{last_error(folder)} (failed before; --retry tries it again)"
        elif run.changed:
            outcome.changed[run.run_id] = first_of(run.changed)
        elif bad is not None:
            outcome.skipped[run.run_id] = f"its input {bad} {'was made by other code' if bad in outcome.changed else 'failed'}"
        elif state == "done" or _train_here(run, plan.folder) == 0:
            outcome.done.add(run.run_id)
        else:
            outcome.failed[run.run_id] = last_error(folder)
    return outcome


def _train_here(run: PlannedRun, runs: Path) -> int:
    from repro.compose import compose
    from repro.run import execute
    from sweeps.settings import override_value

    # Not through the worker: an exception goes all the way up, where a debugger stops.
    print(execute(compose([*run.overrides, f"paths.runs={override_value(str(runs.resolve()))}"])))
    return 0


def visible_gpus() -> tuple[str, ...]:
    """Return the GPUs of this machine that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return tuple(part.strip() for part in given.split(",") if part.strip() and part.strip() != "-1")
    try:
        result = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(line.strip() for line in result.stdout.splitlines() if line.strip().isdigit()) if result.returncode == 0 else ()


@dataclass(frozen=True)
class OnOneGpu:
    """A worker that takes one free GPU of this machine and keeps it as long as it lives.

    Attributes:
        gpus: as CUDA_VISIBLE_DEVICES names them.
        locks: the folder of a lock for each.
    """

    gpus: tuple[str, ...]
    locks: Path

    def __call__(self, overrides: Sequence[str]) -> int:
        """Train the run on a GPU of its own and return the exit code."""
        deadline = time.monotonic() + 3600
        while time.monotonic() < deadline:
            for gpu in self.gpus:
                with contextlib.suppress(HeldError), hold(self.locks / f"{gpu}.lock"):
                    # PyTorch is imported already, but looks for GPUs only when the first tensor goes there.
                    os.environ["CUDA_VISIBLE_DEVICES"] = gpu
                    return train(overrides)
            time.sleep(1.0)
        raise UserError(f"no GPU of {', '.join(self.gpus)} was free for an hour.")
