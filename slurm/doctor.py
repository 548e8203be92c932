"""Checks a cluster file against the cluster, and with a job of a minute everything that a run will need there."""

from __future__ import annotations

import contextlib
import math
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from repro.config import registry
from repro.config.compose import compose
from repro.data.staging import files_of
from repro.errors import UserError, first_of
from repro.files import read_json
from repro.probe import Probe
from repro.runs.lock import HeldError, hold
from repro.snapshot import take_snapshot
from slurm.cluster import Cluster, read_minutes
from slurm.jobs import queue, sbatch
from slurm.jobs.batches import Batch
from slurm.jobs.submission import check_data
from sweeps.local.gpus import visible_gpus

#: Seconds that the test job may wait in the queue.
QUEUE_S = 600.0

#: Seconds from its start until its report, and from the signal until it has noticed.
REPORT_S, SIGNAL_S = 180.0, 60.0

_BATCH = Batch("doctor", "default", (("doctor",),), ((),))


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: ``good``, or not, with what to change then; ``None``: worth knowing."""

    good: bool | None
    text: str
    change: str = ""


def examine(site: Cluster, runs: Path, *, job: bool) -> int:
    """Print every finding as it is made; return 1 when something has to be changed."""
    bad = 0
    for finding in _findings(site, runs, job=job):
        mark = {True: "ok  ", False: "BAD ", None: "note"}[finding.good]
        print(f"{mark}  {finding.text}", flush=True)
        if finding.change and not finding.good:
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
        config = queue.pairs(queue.call(["scontrol", "show", "config"]))
    except queue.NoAnswerError as error:
        yield Finding(False, str(error), "wait for the controller; nothing else can be checked before")
        return
    yield Finding(True, f"the controller of {config.get('ClusterName', '?')} answers, SLURM {config.get('SLURM_VERSION', '?')}")
    if names := queue.callers_options():
        yield Finding(None, f"variables that sbatch is not given, so that the cluster file decides: {first_of(names, 8)}")
    others = {model: minutes for model, minutes in site.minutes.items() if model not in site.by_model}
    parts = {"": site.model_copy(update={"minutes": others})} | {f"by_model.{model}: ": site.of(model) for model in site.by_model}
    said: list[Finding] = []
    for where, part in parts.items():
        for finding in _asked(part, config, runs, job=job):
            if finding not in said:
                said.append(finding)
                yield replace(finding, text=where + finding.text)


def _asked(site: Cluster, config: dict[str, str], runs: Path, *, job: bool) -> Iterator[Finding]:
    """Look at what the jobs of one kind of models ask for."""
    found = list(_limits(site, config))
    yield from found
    if all(finding.good is not False for finding in found):
        refused = _test_only(site, runs)
        yield refused
        if job and refused.good:
            yield from _job(site, runs)


def _folders(site: Cluster, runs: Path) -> Iterator[Finding]:
    try:
        runs.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=runs):
            pass
        yield Finding(True, f"runs: {runs.resolve()} can be written, {shutil.disk_usage(runs).free / 2**30:,.0f} GiB free")
    except OSError as error:
        change = "set paths.runs of the cluster file to a folder that you can write on every node"
        yield Finding(False, f"runs: {runs}: {error.strerror}", change)
    data = sbatch.data_folder(site)
    there, absent = _datasets(site) if site.check_data else ([], [])
    if there:
        yield Finding(True, f"data: {data} has {', '.join(there)}" + (f"; not {', '.join(absent)}" if absent else ""))
    elif site.check_data:
        change = f"python -m repro.data download cifar100 --folder {data}, or set paths.data"
        if site.kind == "slurm":
            change += "; check_data: false if only the nodes see the files, or if digits are all that is trained"
        yield Finding(False if site.kind == "slurm" else None, f"data: {data} has no dataset; digits need none", change)


def _datasets(site: Cluster) -> tuple[list[str], list[str]]:
    """Return the datasets with published files whose files are all where the jobs look for them, as published, and the others."""
    published = [name for name in registry.choices("dataset") if files_of(name) is not None]
    there = []
    for name in published:
        with contextlib.suppress(UserError):
            check_data(site, [name])
            there.append(name)
    return there, [name for name in published if name not in there]


def _here(site: Cluster) -> Iterator[Finding]:
    gpus = visible_gpus()
    yield Finding(True, f"GPUs of this machine: {', '.join(gpus) if gpus else 'none, runs train on the CPU'}")
    report = Probe(Path(), sbatch.data_folder(site)).look()
    yield Finding(isinstance(report["code"], dict), f"imports: {report['code']}", "make setup")
    if gpus and not report["gpus"]:
        good = None if site.setting("exec.device") == "cpu" else False
        yield Finding(good, "PyTorch sees none of them", "install a PyTorch for the driver that nvidia-smi shows")
    yield from _judge_build(site, report, on_gpu=bool(gpus))


# -- limits ----------------------------------------------------------------------------------------------------------------------


def _limits(site: Cluster, config: dict[str, str]) -> Iterator[Finding]:
    """Compare the file with ``config``, what the whole cluster is set to, and with its partition."""
    if wait := re.match(r"\d+", config.get("KillWait", "")):
        said = f"a job that is cancelled or requeued has {wait[0]} s to save; it is warned {site.warning_s} s before its time is over"
        yield Finding(True, said)
    known = sorted(set(queue.call(["sinfo", "-h", "-a", "-o", "%R"]).split()))
    partitions = str(site.partition).split(",")
    if absent := [name for name in partitions if name not in known]:
        change = f"{site.error('partition', 'one of ' + ', '.join(known))}"
        yield Finding(False, f"partition {absent[0]} does not exist", change)
        return
    limits: dict[str, float] = {}
    for name in partitions:
        shown = queue.pairs(queue.call(["scontrol", "show", "partition", name, "--oneliner"]), " ")
        state, longest = shown.get("State"), shown.get("MaxTime", "UNLIMITED")
        limits[longest] = read_minutes(longest) or math.inf
        yield Finding(state == "UP", f"partition {name} is {state}", "wait until it is up, or choose another one")
        for key, names in (("account", shown.get("AllowAccounts", "ALL")), ("qos", shown.get("AllowQos", "ALL"))):
            value = getattr(site, key)
            if value is not None and names != "ALL" and value not in names.split(","):
                yield Finding(False, f"{key} {value} may not use {name}", f"{site.error(key, f'one of {names}')}")
        if shown.get("PreemptMode") == "CANCEL":
            said = f"partition {name} cancels what it preempts (PreemptMode=CANCEL): such a job does not come back by itself"
            yield Finding(
                None, said, "`submit` again after each preemption: runs resume from the last checkpoint; or choose another partition"
            )
    longest = max(limits, key=limits.__getitem__)
    for model, minutes in site.minutes.items():
        # sbatch may take a job that is too long, and let it wait for ever; of several partitions it takes one that allows it.
        change = f"{site.error('time', f'at most {longest}; runs that need longer resume in the next job')}"
        yield Finding(minutes <= limits[longest], f"time.{model}: {minutes} min, the partition allows {longest}", change)
    yield from _allowances(site, config.get("ClusterName", ""))
    yield from _nodes(site)


def _allowances(site: Cluster, cluster: str) -> Iterator[Finding]:
    """Compare the file with what accounting allows this user's account and the qos: jobs in the queue, and the time of each."""

    def shown(*what: str) -> list[list[str]]:
        # A cluster without accounting limits nobody by it.
        with contextlib.suppress(queue.NoAnswerError):
            return [line.split("|") for line in queue.call(["sacctmgr", "-nP", "show", *what]).splitlines()]
        return []

    user = queue.this_user()
    account = site.account or next((line[0] for line in shown("user", user, "format=DefaultAccount")), "")
    whose = ["assoc", f"user={user}", f"account={account}", f"cluster={cluster}"]
    qos = site.qos or next((line[0] or line[1].partition(",")[0] for line in shown(*whose, "format=DefaultQOS,QOS")), "")
    limits = [("account", *line) for line in shown(*whose, "format=Account,MaxSubmitJobs,MaxWall")]
    limits += [("qos", *line) for line in (shown("qos", qos, "format=Name,MaxSubmitJobsPerUser,MaxWall") if qos else ())]
    for kind, name, jobs, wall in limits:
        if jobs.isdigit() and int(jobs) < site.array_limit:
            said = f"{kind} {name} allows {jobs} jobs in the queue (MaxSubmitJobs)"
            yield Finding(None, said, "what is more waits: call `submit` again, or `submit --follow`")
        longest = max(site.minutes.values())
        if longest > (read_minutes(wall) or longest):
            change = f"{site.error('time', f'at most {wall}; runs that need longer resume in the next job')}"
            yield Finding(False, f"time: {longest} min, {kind} {name} allows {wall} (MaxWall)", change)


def _nodes(site: Cluster) -> Iterator[Finding]:
    # A node of several partitions has several lines.
    lines = {
        line.split("|")[0]: line for line in queue.call(["sinfo", "-hN", "-p", str(site.partition), "-o", "%N|%c|%m|%G|%T"]).splitlines()
    }
    # CPUs, MiB, GPUs, state; a + behind a number says that nodes differ.
    parts = [line.split("|")[1:] for line in lines.values()]
    nodes = [(int(cpus.rstrip("+")), int(mib.rstrip("+")), gres, state) for cpus, mib, gres, state in parts]
    memory = max(site.memory_mib.values()) * site.runs_per_gpu
    fitting = [node for node in nodes if node[0] >= site.cpus and node[1] >= memory]
    if not fitting:
        largest = f"{max((node[0] for node in nodes), default=0)} CPUs, {max((node[1] for node in nodes), default=0)} MiB"
        change = f"{site.error('memory', f'the largest has {largest}: lower cpus, memory or runs_per_gpu')}"
        yield Finding(False, f"no node has {site.cpus} CPUs and {memory} MiB for a job", change)
    # gpu:4, gpu:3090:4, gpu:a100:4(S:0-1), gpu:1g.10gb:7
    types = {name or "any" for node in fitting or nodes for name in re.findall(r"gpu(?::([^:,()]+))?:\d+(?![^,(])", node[2])}
    if site.gpu != "none" and (not types or site.gpu not in ("any", *types)):
        there = f"the types are {', '.join(sorted(types))}" if types else "there are none, so gpu: none or another partition"
        yield Finding(False, f"no node of {site.partition} has a GPU of type {site.gpu}", f"{site.error('gpu', there)}")
    elif fitting:
        working = [node for node in fitting if node[3].rstrip("*~#!%$@^-") in ("idle", "mixed", "allocated", "completing")]
        gpu = "no GPU is asked for" if site.gpu == "none" else f"GPUs: {', '.join(sorted(types))}"
        yield Finding(True, f"{len(working)} of {len(nodes)} nodes work and have the CPUs and the memory of a job; {gpu}")


def _test_only(site: Cluster, runs: Path) -> Finding:
    text = sbatch.dry_text(site, _BATCH, runs)
    command = ["sbatch", "--test-only"]
    result = subprocess.run(command, env=queue.environment(), input=text, capture_output=True, text=True, timeout=60, check=False)
    said = " ".join(line.strip() for line in result.stderr.splitlines() if line.strip())
    full = re.search(sbatch.TOO_MANY, said) is not None
    change = f"change what sbatch names in {site.path}; `sacctmgr show assoc user=$USER` lists your accounts and qos"
    change = "ask again when fewer jobs of yours are in the queue" if full else change
    return Finding(result.returncode == 0 or (None if full else False), said or "sbatch would take the job", change)


# -- the job ---------------------------------------------------------------------------------------------------------------------


def _job(site: Cluster, runs: Path) -> Iterator[Finding]:
    code = take_snapshot(runs)
    (runs / "slurm").mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=runs.resolve() / "slurm", prefix="doctor-"))
    probe = Probe(folder, sbatch.data_folder(site))
    short = site.model_copy(update={"minutes": {"default": 5}, "min_minutes": None, "warning_s": 10})
    (job,) = sbatch.send(short, _BATCH, [probe], folder, code)
    print(f"      job {job} submitted", flush=True)
    try:
        yield from _judge(site, folder, job, code)
    finally:
        with contextlib.suppress(queue.NoAnswerError):
            queue.cancel([job])
    shutil.rmtree(folder, ignore_errors=True)


def _judge(site: Cluster, folder: Path, job: str, code: Path) -> Iterator[Finding]:
    def state() -> str:
        found = queue.read_queue().get(job)
        return "GONE" if found is None else found.state

    if not _wait_for(lambda: state() not in ("PENDING", "CONFIGURING"), QUEUE_S):
        waiting = queue.read_queue().get(job)
        said = f"the job still waits after {QUEUE_S:.0f} s: {waiting and waiting.reason}"
        yield Finding(None, said, "the partition is busy; ask again later, or try another one")
        return
    path = folder / "report.json"
    _wait_for(lambda: path.exists() or state() not in ("RUNNING", "COMPLETING"), REPORT_S)
    if not path.exists():
        logs = [log.read_text(errors="replace").splitlines() for log in sorted(folder.glob("*_log.err"))]
        last = " | ".join([line for lines in logs for line in lines if line.strip()][-4:])
        change = last or "its log is empty: is the runs folder the same on every node?"
        yield Finding(False, f"the job has written no report; SLURM: {state()}", change)
        return
    report = read_json(path)
    yield from _judge_report(site, report, code)
    if report["run_folder"] != "ok":
        return
    try:
        with hold(folder / "run" / ".lock"):
            yield Finding(None, "locks do not reach from node to node; runs are kept apart by leases")
    except HeldError:
        yield Finding(True, "locks reach from node to node")
    queue.call(["scancel", "--signal=USR2", job])
    told = _wait_for(lambda: bool(read_json(path).get("signal")), SIGNAL_S)
    change = "runs are not told before their time is over; let sbatch start them with srun, and let no setup line replace the shell"
    yield Finding(told, "it got its signal" if told else "it did not get its signal within a minute", change)


def _judge_report(site: Cluster, report: dict[str, Any], code: Path) -> Iterator[Finding]:
    yield Finding(True, f"it runs on {report['node']} with {report['cores']} cores")
    found = report["code"]
    if not isinstance(found, dict):
        change = "set python of the cluster file to that of this environment, on a path that the nodes see"
        yield Finding(False, f"it cannot import the code: {found}", change)
    elif found["repro"] != str(code):
        yield Finding(False, f"it imports the code of {found['repro']}, not the copy", "take PYTHONPATH out of setup and environment")
    else:
        yield Finding(True, f"it imports the copy of the code, with torch {found['torch']}")
    if site.gpu != "none":
        yield _judge_gpu(site, report)
    yield from _judge_build(site, report, on_gpu=site.gpu != "none")
    good = isinstance(report["data"], int)
    said = f"data: {report['data']}{' entries, readable' if good else ''}"
    yield Finding(good or (False if site.check_data else None), said, "set paths.data to a folder that the nodes see")
    good = report["run_folder"] == "ok"
    yield Finding(good, "it writes a run folder" if good else f"it cannot write a run folder: {report['run_folder']}")


def _judge_gpu(site: Cluster, report: dict[str, Any]) -> Finding:
    if not report["visible"]:
        change = "the site's gres.conf names no device files: ask its administrators"
        return Finding(False, "it was given no GPU (CUDA_VISIBLE_DEVICES is not set)", change)
    if report["gpus"] and isinstance(report["gpus"], dict):
        return Finding(True, f"PyTorch sees {', '.join(report['gpus'])}")
    said = f"it was given GPU {report['visible']}, PyTorch sees {report['gpus'] or 'none'}"
    if site.setting("exec.device") == "cpu":
        return Finding(None, said)
    return Finding(False, said, "load the driver's module (modules), or install a PyTorch that fits it")


def _judge_build(site: Cluster, report: dict[str, Any], *, on_gpu: bool) -> Iterator[Finding]:
    """Judge whether PyTorch has machine code for the GPUs, and whether compiled steps have their compiler."""
    device = "cuda" if on_gpu and site.setting("exec.device") != "cpu" else "cpu"
    gpus = report["gpus"] if device == "cuda" and isinstance(report["gpus"], dict) else {}
    change = "install a PyTorch that is built for it (https://pytorch.org/get-started/locally), or ask for other GPUs"
    yield from (Finding(False, f"GPU {name}: {wrong}", change) for name, wrong in gpus.items() if wrong)
    try:
        settings = compose(["method=one_hot", "dataset=digits", "seed=0", *site.overrides((), on_gpu=on_gpu)]).exec
    except UserError as error:
        yield Finding(False, str(error), f"{site.error('settings', 'change it there')}")
        return
    missing = report["compilers"][device] if isinstance(report["compilers"], dict) else report["compilers"]
    if settings.compile and missing:
        change = "load a module with a compiler (modules), or exec.compile: false in settings"
        yield Finding(False, f"compiled steps (exec.compile): {missing}", change)


def _wait_for(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Wait until ``condition`` holds, and say whether it does."""
    deadline = time.monotonic() + timeout_s
    while not (holds := condition()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return holds
