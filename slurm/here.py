"""Clusters that are this machine: ``local``, a worker for each GPU or some on the CPU, and ``debug``, this very process."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from repro.errors import UserError, first_of
from repro.runs.folder import GPU_SHARE
from repro.runs.lock import HeldError, hold
from slurm.cluster import Cluster
from sweeps.local.progress import Outcome
from sweeps.local.queue import run_missing
from sweeps.local.worker import last_error, train
from sweeps.plan.plan import Plan, PlannedRun, planned_state
from sweeps.spec.settings import override_value


def run_here(plan: Plan, site: Cluster, *, retry: bool, limit: int | None) -> Outcome:
    """Train what is missing of ``plan`` on this machine, no more than ``limit`` runs, and return how it went."""
    folders = {"REPRO_DATA": site.paths.data, "REPRO_SCRATCH": site.paths.scratch}
    os.environ |= site.environment | {name: folder for name, folder in folders.items() if folder is not None}
    # A debugger's run takes what `python -m repro` would.
    gpus = visible_gpus() if site.kind == "local" else ()
    if gpus and "CUDA_VISIBLE_DEVICES" not in os.environ:
        # They are numbered by nvidia-smi, which numbers by PCI bus; CUDA by itself begins with the fastest. Workers begin with this.
        os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    runs: dict[str, PlannedRun] = {}
    left = len(plan.runs) if limit is None else limit
    for name, run in plan.runs.items():
        if run.state != "done":
            if left == 0 or any(other not in runs for other in run.inputs):
                continue
            left -= 1
        runs[name] = replace(run, overrides=site.overrides(run.overrides, on_gpu=bool(gpus)))
    plan = replace(plan, runs=runs)
    if site.kind == "debug":
        return _in_this_process(plan, retry=retry)
    jobs = site.max_parallel or len(gpus) or 1
    if not gpus:
        return run_missing(plan, jobs=jobs, retry=retry)
    worker = OnOneGpu(gpus, plan.folder.resolve() / "slurm" / "gpus")
    worker.locks.mkdir(parents=True, exist_ok=True)
    return run_missing(plan, jobs=min(jobs, len(gpus)), retry=retry, worker=worker)


def _in_this_process(plan: Plan, *, retry: bool) -> Outcome:
    from repro.config.compose import compose
    from repro.training.run import execute

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
        else:
            if state != "done":
                # Not through the worker: an exception goes all the way up, where a debugger stops.
                print(execute(compose([*run.overrides, f"paths.runs={override_value(str(plan.folder.resolve()))}"])))
            outcome.done.add(run.run_id)
    return outcome


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
                    os.environ |= {"CUDA_VISIBLE_DEVICES": gpu, GPU_SHARE: "1"}
                    return train(overrides)
            time.sleep(1.0)
        raise UserError(f"no GPU of {', '.join(self.gpus)} was free for an hour.")
