"""What SLURM says of our jobs: squeue, and sacct where there is one. Nothing here needs accounting.

squeue alone remembers a job that has ended for some minutes (MinJobAge). After that sacct is asked once for the jobs that nobody has
heard the end of; where there is none, a job that is gone is simply gone.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
import re
import subprocess
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from repro.errors import UserError

#: States in which a job will still run, runs, or ends.
WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD")
ACTIVE = ("RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING")

#: Seconds that one command of SLURM may take.
TIMEOUT_S = 60

_AGAIN = "then `cancel` and `submit`"
#: What must be done before a job ever begins, by why it waits. Limits of a user or a group are not here: other jobs end.
_REMEDIES = {
    r"PartitionTimeLimit|(QOS|Assoc)MaxWallDurationPerJobLimit|QOSTimeLimit|AssociationTimeLimit": (
        f"it asks for too much time; lower `time` of the cluster file, {_AGAIN}"
    ),
    r"BadConstraints|PartitionNodeLimit|(QOS|Assoc)Max\w+Per(Job|Node)(Limit)?|QOSMin\w+": (
        f"no job may have what it asks for; `doctor` names the line of the cluster file to change, {_AGAIN}"
    ),
    r"AccountNotAllowed|QOSNotAllowed|InvalidAccount|InvalidQOS": f"change it in the cluster file, {_AGAIN}",
    r"DependencyNeverSatisfied": "a run that it waits for has no success; `cancel` it, then `retry`",
    r"JobHeldUser": "it is held; `scontrol release JOB`, or `cancel`",
    r"JobHeldAdmin|JobHoldMaxRequeue|.*requeued.*held.*": (
        "it is held, by an administrator or since its node could not start it; ask, or `scontrol release JOB`, or `cancel`"
    ),
}

#: Variables that are options of SLURM's commands, or that tell a job about itself, except those that say where the controller is.
_OPTIONS = re.compile(r"(SLURM|SLURMD|SBATCH|SRUN|SQUEUE|SCANCEL|SCONTROL|SINFO|SACCT)_(?!(CONF|CONF_SERVER|JWT)$).*")

_FORMAT = "%i|%T|%N|%r|%k"
_USAGE = "JobID,JobName,State,ElapsedRaw,AllocCPUS,TotalCPU,AllocTRES,MaxRSS,TRESUsageInAve"


@dataclass(frozen=True)
class Job:
    """A job as squeue shows it.

    Attributes:
        job: ``12``, or ``12_3`` for a task of an array.
        reason: why it waits, or has ended.
        comment: the token of its submission.
    """

    job: str
    state: str
    node: str
    reason: str
    comment: str

    @property
    def live(self) -> bool:
        """Whether it will still run, runs, or ends."""
        return self.state in WAITING or self.state in ACTIVE

    @property
    def remedy(self) -> str | None:
        """What must be done before it ever begins; ``None`` where waiting is enough."""
        if self.state in ("REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"):
            return _REMEDIES["JobHeldUser"]
        found = (remedy for pattern, remedy in _REMEDIES.items() if re.fullmatch(pattern, self.reason))
        return next(found, None) if self.state in WAITING else None


class NoAnswerError(UserError):
    """SLURM does not answer."""


def callers_options() -> list[str]:
    """Return the variables of this process that SLURM's commands would obey, and that they are not given here.

    sbatch prefers them to its text, squeue shows less with them, and a job would take its submitter's array for its own.
    """
    return sorted(name for name in os.environ if _OPTIONS.fullmatch(name))


def environment() -> dict[str, str]:
    """Return the environment for a command of SLURM."""
    left_out = set(callers_options())
    return {name: value for name, value in os.environ.items() if name not in left_out}


def call(command: Sequence[str]) -> str:
    """Run a command of SLURM and return its output.

    Raises:
        NoAnswerError: it is not there, takes too long, or ends with an error.
    """
    try:
        result = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except FileNotFoundError as error:
        raise NoAnswerError(f"{command[0]}: there is no such command here. Submit from a login node of a SLURM cluster.") from error
    except subprocess.TimeoutExpired as error:
        raise NoAnswerError(f"{command[0]} has not answered for {TIMEOUT_S} s. Try again when the controller is back.") from error
    if result.returncode != 0:
        message = " ".join(line.strip() for line in result.stderr.splitlines() if line.strip()) or f"exit code {result.returncode}"
        raise NoAnswerError(f"{command[0]}: {message}")
    return result.stdout


def pairs(text: str, separator: str = "\n") -> dict[str, str]:
    """Return the ``key = value`` of what scontrol prints."""
    parts = (item.partition("=") for item in text.split(separator))
    return {key.strip(): value.strip() for key, sign, value in parts if sign}


@functools.cache
def this_cluster() -> str:
    """Return the name of the cluster whose queue this process sees.

    Raises:
        NoAnswerError: SLURM does not answer.
    """
    return pairs(call(["scontrol", "show", "config"])).get("ClusterName", "")


def this_user() -> str:
    """Return the name of the user whose jobs ``squeue --me`` shows."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def read_queue() -> dict[str, Job]:
    """Return all jobs of this user that SLURM still knows, by id; those that have ended a short while ago are among them.

    Raises:
        NoAnswerError: SLURM does not answer; nothing may be concluded from that.
    """
    jobs = {}
    for line in call(["squeue", "--me", "-h", "-r", "-t", "all", "-o", _FORMAT]).splitlines():
        parts = line.split("|", 4)
        if len(parts) == 5:
            jobs[parts[0]] = Job(*(part.strip() for part in parts))
    return jobs


def read_accounting(names: Mapping[str, str]) -> dict[str, str]:
    """Return the last state of the jobs that accounting knows, by id; nothing where there is no accounting.

    ``names`` has the name of each job by its id: an id may come again after years, and accounting need not keep comments.
    """
    lines = _sacct(names, "JobID,JobName,State", "-X")
    # "CANCELLED by 1000"
    return {job: state.split()[0] for job, name, state in lines if state and names.get(job) == name}


def _sacct(jobs: Collection[str], fields: str, *options: str) -> list[list[str]]:
    """Return what accounting knows of some jobs, a list of texts for each line; nothing where there is no accounting."""
    arrays = sorted({job.partition("_")[0] for job in jobs})
    lines: list[str] = []
    # A cluster without accounting is no error: sacct says so, or is not there.
    with contextlib.suppress(NoAnswerError):
        for start in range(0, len(arrays), 200):
            lines += call(["sacct", "-n", "-P", *options, "-o", fields, "-j", ",".join(arrays[start : start + 200])]).splitlines()
    return [line.split("|") for line in lines]


@dataclass
class Used:
    """What an attempt of a job that is over took, with what it was given: seconds, MiB, and percent of its GPU where that was measured."""

    name: str
    elapsed_s: float
    cpus: int
    cpu_s: float
    memory: float
    gpus: int
    peak: float = 0.0
    gpu_percent: float | None = None


def read_usage(names: Mapping[str, str]) -> list[Used]:
    """Return what every attempt of some jobs took, as accounting says; ``names`` as in :func:`read_accounting`."""
    found: list[Used] = []
    mine = False
    for job, name, state, elapsed, cpus, cpu, tres, peak, usage in _sacct(names, _USAGE, "-D", "--units=M"):
        if "." not in job:
            mine = names.get(job) == name and state.partition(" ")[0] not in (*WAITING, *ACTIVE) and elapsed != "0"
            if mine:
                seconds = sum(float(part) * unit for part, unit in zip(re.split("[-:]", cpu)[::-1], (1, 60, 3600, 86400), strict=False))
                given = pairs(tres, ",")
                memory, gpus = float(given.get("mem", "0").rstrip("M")), int(given.get("gres/gpu", "0"))
                found.append(Used(name, float(elapsed), int(cpus), seconds, memory, gpus))
        elif mine:
            # Of the steps the largest: those of srun, and the batch script that waits for them.
            found[-1].peak = max(found[-1].peak, float(peak.rstrip("M") or 0))
            if "gres/gpuutil" in (measured := pairs(usage, ",")):
                found[-1].gpu_percent = max(found[-1].gpu_percent or 0.0, float(measured["gres/gpuutil"]))
    return found


def cancel(jobs: Sequence[str]) -> None:
    """Cancel jobs by id; one that has ended meanwhile is no error.

    Raises:
        NoAnswerError: SLURM does not answer.
    """
    for start in range(0, len(jobs), 200):
        call(["scancel", "--quiet", *jobs[start : start + 200]])
