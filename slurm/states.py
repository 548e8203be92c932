"""How far each run is: what its folder says, and what SLURM says of its newest job.

Every call of sbatch leaves ``RUNS/slurm/TOKEN/jobs.json``: the job of each run, its user and SLURM's name of its cluster, since a folder
may be shared by several people and clusters, and an id means something to one of them only. Tokens sort by time; the newest job counts.
"""

from __future__ import annotations

import os
import pwd
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from repro.errors import UserError
from repro.files import read_json, write_json
from repro.runs.state import read_state

#: Variables that are options of SLURM's commands, or that tell a job about itself, except those that say where the controller is.
_OPTIONS = re.compile(r"(SLURM|SLURMD|SBATCH|SRUN|SQUEUE|SCANCEL|SCONTROL|SINFO)_(?!(CONF|CONF_SERVER|JWT)$).*")


def forget_options() -> list[str]:
    """Take the caller's options of SLURM out of this process and return their names: sbatch would obey them before its text."""
    names = sorted(name for name in os.environ if _OPTIONS.fullmatch(name))
    for name in names:
        del os.environ[name]
    return names


def call(*command: str) -> str:
    """Run a command of SLURM and return its output.

    Raises:
        UserError: it is not there, does not answer, or ends with an error.
    """
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    except FileNotFoundError as error:
        raise UserError(f"{command[0]}: there is no such command here. Submit from a login node of a SLURM cluster.") from error
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise UserError(f"{command[0]}: {' '.join(str(error.stderr or error).split())}") from error


@dataclass(frozen=True)
class View:
    """How far one run is.

    Attributes:
        state: one of :data:`repro.runs.state.STATES`, ``suspended`` or ``elsewhere``.
        job: its newest job, where that may still bring it further, else empty.
        why: what its job waits for, or whose it is.
    """

    state: str
    job: str = ""
    why: str = ""


@dataclass(frozen=True)
class Queue:
    """A cluster as this user sees it at one moment: its name, its largest array, and state and reason of each job, by id."""

    cluster: str = ""
    max_array: int = 1000
    jobs: Mapping[str, tuple[str, str]] = field(default_factory=dict)


def read_queue() -> Queue:
    """Ask SLURM.

    Raises:
        UserError: it does not answer, and nothing may be concluded from that.
    """
    config = dict(re.findall(r"^(\w+) *= (.*)$", call("scontrol", "show", "config"), re.MULTILINE))
    jobs = re.findall(r"^(.*?)\|(.*?)\|(.*)$", call("squeue", "--me", "-h", "-r", "-o", "%i|%T|%r"), re.MULTILINE)
    return Queue(config["ClusterName"], int(config["MaxArraySize"]), {job: (state, reason) for job, state, reason in jobs})


def look_at_queue() -> Queue:
    """Ask SLURM, and where it does not answer say that only the run folders do."""
    try:
        return read_queue()
    except UserError as error:
        print(f"this is what the run folders say, since SLURM does not answer: {error}", file=sys.stderr)
        return Queue()


class Jobs:
    """The newest jobs of the runs in a folder, as their submitters have left them, and the queue."""

    def __init__(self, runs: Path, queue: Queue) -> None:
        self.queue = queue
        self._runs = runs
        self._folder = runs.resolve() / "slurm"
        self._me = (pwd.getpwuid(os.geteuid()).pw_name, queue.cluster)
        self._newest: dict[str, tuple[str, tuple[str, str]]] = {}
        for path in sorted(self._folder.glob("*/jobs.json")):
            note = read_json(path)
            self._newest |= {name: (job, (note["user"], note["cluster"])) for name, job in note["jobs"].items()}

    def new_folder(self) -> Path:
        """Make the folder of a call of sbatch."""
        folder = self._folder / f"{time.time_ns()}-{secrets.token_hex(3)}"
        folder.mkdir(parents=True)
        return folder

    def note(self, folder: Path, jobs: Mapping[str, str]) -> None:
        """Write down in ``folder`` which job each run has now; an empty one says that none will bring it further."""
        user, cluster = self._me
        write_json(folder / "jobs.json", {"user": user, "cluster": cluster, "jobs": jobs})
        self._newest |= {name: (job, self._me) for name, job in jobs.items()}

    def cancel(self, names: Sequence[str]) -> None:
        """Cancel the jobs of runs of this user, and note it.

        SLURM keeps no trace of a task that has not begun, and whoever cannot see this queue learns that no job will train these runs.
        """
        if jobs := sorted({job for name in names if (job := self.view(name).job)}):
            call("scancel", *jobs)
        self.note(self.new_folder(), dict.fromkeys(names, ""))

    def view(self, name: str) -> View:
        """Return how far a run is."""
        folder = read_state(self._runs / name)
        job, whose = self._newest.get(name, ("", self._me))
        if folder in ("done", "failed", "corrupted"):
            return View(folder)
        if not job:
            unbegun = "cancelled" if name in self._newest else "missing"
            return View(unbegun if folder == "queued" else folder)
        if whose != self._me:
            return View(folder if folder == "running" else "elsewhere", why=f"job {job} of {whose[0]} on {whose[1]}")
        if job not in self.queue.jobs:
            return View("lost" if folder == "queued" else folder)
        state, reason = self.queue.jobs[job]
        return View({"RUNNING": "running", "COMPLETING": "running", "SUSPENDED": "suspended"}.get(state, "queued"), job, reason)
