"""Checks a cluster file against the cluster, and with a job of a minute everything that a run will need there."""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from slurm import queue, sbatch
from slurm.batches import Batch
from slurm.cluster import Cluster
from slurm.limits import Finding, limits, pairs, partition
from slurm.probe import Probe
from slurm.snapshot import take_snapshot

#: Seconds that the test job may wait in the queue.
QUEUE_S = 600.0

#: Seconds from its start until its report, and from the signal until it has noticed.
REPORT_S = 180.0

_BATCH = Batch("doctor", "default", (("doctor",),), ())


def examine(site: Cluster, runs: Path, *, job: bool) -> int:
    """Print every finding as it is made; return 1 when something has to be changed."""
    bad = 0
    for finding in _findings(site, runs, job=job):
        mark = {True: "ok  ", False: "BAD ", None: "note"}[finding.good]
        print(f"{mark}  {finding.text}", flush=True)
        if finding.change:
            print(f"      -> {finding.change}", flush=True)
        bad += finding.good is False
    print(f"{site.name}: {bad} things to change" if bad else f"{site.name}: ready")
    return 1 if bad else 0


def _findings(site: Cluster, runs: Path, *, job: bool) -> Iterator[Finding]:
    yield from _folders(site, runs)
    if site.kind != "slurm":
        yield from _here(site)
        return
    absent = [name for name in ("sbatch", "squeue", "scancel", "scontrol", "sinfo", "srun") if shutil.which(name) is None]
    if absent:
        yield Finding(False, f"commands: no {', '.join(absent)}", "run this on a login node of the cluster, or load its slurm module first")
        return
    yield Finding(True, "commands of SLURM are there" + ("" if shutil.which("sacct") else "; no sacct, which is not needed"))
    try:
        config = pairs(queue.call(["scontrol", "show", "config"]), "\n")
    except queue.NoAnswerError as error:
        yield Finding(False, str(error), "wait for the controller; nothing else can be checked before")
        return
    yield Finding(True, f"the controller of {config.get('ClusterName', '?')} answers, SLURM {config.get('SLURM_VERSION', '?')}")
    found = [*limits(site, config), *partition(site)]
    yield from found
    if all(finding.good is not False for finding in found):
        refused = _test_only(site, runs)
        yield refused
        if job and refused.good:
            yield from _job(site, runs)


# -- files -----------------------------------------------------------------------------------------------------------------------


def _folders(site: Cluster, runs: Path) -> Iterator[Finding]:
    try:
        runs.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=runs):
            pass
        free = shutil.disk_usage(runs).free / 2**30
        yield Finding(True, f"runs: {runs.resolve()} can be written, {free:,.0f} GiB free")
    except OSError as error:
        yield Finding(
            False, f"runs: {runs}: {error.strerror}", "set paths.runs of the cluster file to a folder that you can write on every node"
        )
    data = sbatch.data_folder(site)
    if data.is_dir():
        yield Finding(True, f"data: {data} has {len(list(data.iterdir()))} entries")
    else:
        change = f"python -m repro.data download cifar100 with REPRO_DATA={data}, or set paths.data; digits need none"
        yield Finding(None, f"data: there is no folder {data}", change)


def _here(site: Cluster) -> Iterator[Finding]:
    from slurm.here import visible_gpus

    gpus = visible_gpus()
    yield Finding(True, f"GPUs of this machine: {', '.join(gpus) if gpus else 'none, runs train on the CPU'}")
    report = Probe("", str(sbatch.data_folder(site)), site.scratch, "").look()
    good = isinstance(report["code"], dict)
    yield Finding(good, f"imports: {report['code']}", "" if good else "make setup")
    if gpus and not report["gpus"]:
        yield Finding(False, "PyTorch sees none of them", "install a PyTorch for the driver that nvidia-smi shows")


def _small(site: Cluster) -> Cluster:
    """Return the site with the time of a job of a minute."""
    return replace(site, minutes={"default": 5}, warning_s=10)


def _test_only(site: Cluster, runs: Path) -> Finding:
    text = sbatch.dry_text(site, _BATCH, Path("/"), runs.resolve(), [], None)
    result = subprocess.run(["sbatch", "--test-only"], input=text, capture_output=True, text=True, timeout=60, check=False)
    said = " ".join(line.strip() for line in result.stderr.splitlines() if line.strip())
    if result.returncode == 0:
        return Finding(True, said or "sbatch would take the job")
    return Finding(False, said, f"change what sbatch names in {site.path}; `sacctmgr show assoc user=$USER` lists your accounts and qos")


# -- the job ---------------------------------------------------------------------------------------------------------------------


def _job(site: Cluster, runs: Path) -> Iterator[Finding]:
    import importlib

    code = take_snapshot(runs)
    (runs / "slurm").mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=runs.resolve() / "slurm", prefix="doctor-"))
    probe = Probe(str(folder), str(sbatch.data_folder(site)), site.scratch, str(code))
    executor = importlib.import_module("submitit.slurm.slurm").SlurmExecutor(
        folder, python=None if site.python is None else shlex.quote(site.python)
    )
    executor.update_parameters(**sbatch.parameters(_small(site), _BATCH, token=folder.name, code=code, after=[], max_parallel=None))
    with sbatch.outside_of_jobs():
        job = str(executor.submit(probe).job_id)
    print(f"      job {job} submitted", flush=True)
    try:
        yield from _judge(site, folder, job, code)
    finally:
        with contextlib.suppress(queue.NoAnswerError):
            queue.cancel([job])
    shutil.rmtree(folder, ignore_errors=True)


def _judge(site: Cluster, folder: Path, job: str, code: Path) -> Iterator[Finding]:
    begun = _wait_for(lambda: _state(job) not in ("PENDING", "CONFIGURING"), QUEUE_S)
    if not begun:
        reason = queue.read_queue()[job].reason
        yield Finding(
            None, f"the job still waits after {QUEUE_S:.0f} s: {reason}", "the partition is busy; ask again later, or try another one"
        )
        return
    report_path = folder / "report.json"
    if not _wait_for(report_path.exists, REPORT_S, lambda: _state(job) in ("RUNNING", "COMPLETING")):
        yield Finding(
            False,
            f"the job has written no report; SLURM: {_state(job)}",
            _log(folder) or "its log is empty: is the runs folder the same on every node?",
        )
        return
    report = _read(report_path)
    yield Finding(True, f"it runs on {report['node']} with {report['cores']} cores")
    yield from _judge_report(site, report, code)
    held = _locked_from_here(folder / "run")
    yield Finding(
        True if held else None,
        "locks reach from node to node" if held else "locks do not reach from node to node; runs are kept apart by leases",
    )
    queue.call(["scancel", "--signal=USR2", job])
    told = _wait_for(lambda: bool(_read(report_path).get("signal")), 60)
    change = (
        ""
        if told
        else "runs are not told before their time is over; let sbatch start them with srun, and let no setup line replace the shell"
    )
    yield Finding(told, "it got its signal" if told else "it did not get its signal within a minute", change)


def _judge_report(site: Cluster, report: dict[str, Any], code: Path) -> Iterator[Finding]:
    found = report["code"]
    if not isinstance(found, dict):
        yield Finding(
            False,
            f"it cannot import the code: {found}",
            "set python of the cluster file to that of this environment, on a path that the nodes see",
        )
    elif found["repro"] != str(code):
        yield Finding(False, f"it imports the code of {found['repro']}, not the copy", "take PYTHONPATH out of setup and environment")
    else:
        yield Finding(True, f"it imports the copy of the code, with torch {found['torch']}")
    if site.gpu != "none":
        on_cpu = any(item in ("exec.device=cpu", "exec.device='cpu'") for item in site.settings)
        if report["visible"] in (None, ""):
            yield Finding(
                False,
                "it was given no GPU (CUDA_VISIBLE_DEVICES is not set)",
                "the site's gres.conf names no device files: ask its administrators",
            )
        elif report["gpus"] and isinstance(report["gpus"], list):
            yield Finding(True, f"PyTorch sees {', '.join(report['gpus'])}")
        else:
            text = f"it was given GPU {report['visible']}, PyTorch sees {report['gpus'] or 'none'}"
            yield Finding(
                None if on_cpu else False, text, "" if on_cpu else "load the driver's module (modules), or install a PyTorch that fits it"
            )
    good = isinstance(report["data"], int)
    yield Finding(
        True if good else None,
        f"data: {report['data']}{' entries, readable' if good else ''}",
        "" if good else "set paths.data to a folder that the nodes see",
    )
    if report["scratch"] is not None:
        good = report["scratch"] == "ok"
        yield Finding(
            good,
            f"scratch: {report['scratch']}",
            "" if good else "set paths.scratch to a folder that exists on every node, or leave it out",
        )
    good = report.get("run_folder") == "ok"
    yield Finding(good, "it writes a run folder" if good else f"it cannot write a run folder: {report.get('run_folder')}")


def _wait_for(condition: Any, timeout_s: float, while_: Any = None) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline or (while_ is not None and not while_() and not condition()):
            return bool(condition())
        time.sleep(0.5)
    return True


def _state(job: str) -> str:
    found = queue.read_queue().get(job)
    return "GONE" if found is None else found.state


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


def _locked_from_here(folder: Path) -> bool:
    from repro.lock import HeldError, hold

    try:
        with hold(folder / ".lock"):
            return False
    except HeldError:
        return True


def _log(folder: Path) -> str:
    lines = [line for path in sorted(folder.glob("*_log.err")) for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return " | ".join(lines[-4:])
