"""Clusters that are this machine: ``local``, a worker for each GPU or some on the CPU, and ``debug``, this very process."""

from __future__ import annotations

import os
from dataclasses import replace

from slurm.cluster import Cluster
from sweeps.local.gpus import OnOneGpu, visible_gpus
from sweeps.local.progress import Outcome
from sweeps.local.queue import run_in_this_process, run_missing
from sweeps.plan.plan import Plan, PlannedRun


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
        return run_in_this_process(plan, retry=retry)
    jobs = site.max_parallel or len(gpus) or 1
    if not gpus:
        return run_missing(plan, jobs=jobs, retry=retry)
    worker = OnOneGpu(gpus, plan.folder.resolve() / "slurm" / "gpus")
    worker.locks.mkdir(parents=True, exist_ok=True)
    return run_missing(plan, jobs=min(jobs, len(gpus)), retry=retry, worker=worker)
