"""What SLURM says of our jobs: squeue, and sacct where there is one. Nothing here needs accounting.

squeue alone remembers a job that has ended for some minutes (MinJobAge). After that sacct is asked once for the jobs that nobody has
heard the end of; where there is none, a job that is gone is simply gone.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from repro.errors import UserError

#: States in which a job will still run, runs, or ends.
WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD")
ACTIVE = ("RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING")

#: Seconds that one command of SLURM may take.
TIMEOUT_S = 60

_FORMAT = "%i|%T|%N|%r|%L|%k"


@dataclass(frozen=True)
class Job:
    """A job as squeue shows it.

    Attributes:
        job: ``12``, or ``12_3`` for a task of an array.
        reason: why it waits, or has ended.
        left: time left as squeue writes it.
        comment: the token of its submission.
    """

    job: str
    state: str
    node: str
    reason: str
    left: str
    comment: str

    @property
    def live(self) -> bool:
        """Whether it will still run, runs, or ends."""
        return self.state in WAITING or self.state in ACTIVE


class NoAnswerError(UserError):
    """SLURM does not answer."""


def call(command: Sequence[str], *, timeout_s: float = TIMEOUT_S) -> str:
    """Run a command of SLURM and return its output.

    Raises:
        NoAnswerError: it is not there, takes too long, or ends with an error.
    """
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except FileNotFoundError as error:
        raise NoAnswerError(f"{command[0]}: there is no such command here. Submit from a login node of a SLURM cluster.") from error
    except subprocess.TimeoutExpired as error:
        raise NoAnswerError(f"{command[0]} has not answered for {timeout_s:.0f} s. Try again when the controller is back.") from error
    if result.returncode != 0:
        message = " ".join(line.strip() for line in result.stderr.splitlines() if line.strip()) or f"exit code {result.returncode}"
        raise NoAnswerError(f"{command[0]}: {message}")
    return result.stdout


def read_queue() -> dict[str, Job]:
    """Return all jobs of this user that SLURM still knows, by id; those that have ended a short while ago are among them.

    Raises:
        NoAnswerError: SLURM does not answer; nothing may be concluded from that.
    """
    jobs = {}
    for line in call(["squeue", "--me", "-h", "-r", "-t", "all", "-o", _FORMAT]).splitlines():
        parts = line.split("|", 5)
        if len(parts) == 6:
            jobs[parts[0]] = Job(*(part.strip() for part in parts))
    return jobs


def read_accounting(jobs: Iterable[str]) -> dict[str, str]:
    """Return the last state of the jobs that accounting knows, by id; nothing where there is no accounting."""
    arrays = sorted({job.partition("_")[0] for job in jobs})
    states: dict[str, str] = {}
    # A cluster without accounting is no error: sacct says so, or is not there.
    with contextlib.suppress(NoAnswerError):
        for start in range(0, len(arrays), 200):
            text = call(["sacct", "-n", "-P", "-X", "-o", "JobID,State", "-j", ",".join(arrays[start : start + 200])])
            for line in text.splitlines():
                job, _, state = line.partition("|")
                if state:
                    # "CANCELLED by 1000"
                    states[job] = state.split()[0]
    return states


def cancel(jobs: Sequence[str]) -> None:
    """Cancel jobs by id; one that has ended meanwhile is no error.

    Raises:
        NoAnswerError: SLURM does not answer.
    """
    for start in range(0, len(jobs), 200):
        call(["scancel", "--quiet", *jobs[start : start + 200]])
