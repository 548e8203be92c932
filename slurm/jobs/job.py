"""What a SLURM job does: it trains its runs, each in a process of its own, and ends so that SLURM and the run folders say the same.

Signals only set a flag. When one has come, no run begins any more, and those that have are asked to save their state until they have
left; then

- after USR2, the warning before the end of the time or before a preemption, the job puts itself back into the queue;
- after TERM, which comes with scancel, with a requeue from outside and with a preemption, it leaves: SLURM knows what to do with it.

In both cases it leaves without a word, so no result is written for a job that will be run again. A job whose runs have all ended is a
success only if all are done, or submitted anew, since the runs that read them wait for that.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from repro.command import stop_signals
from repro.errors import EXIT_USER_ERROR
from repro.files import read_json, write_json
from repro.runs.folder import GPU_SHARE
from repro.runs.lease import EXIT_SUPERSEDED
from repro.runs.state import note_failure, read_state, slurm_job
from slurm.jobs.ledger import Ledger
from sweeps.local.worker import how_it_ended, last_error, threads_before
from sweeps.spec.settings import override_value

#: Seconds between two looks at the runs.
POLL_S = 0.1

#: Seconds between two requests to stop: one may come while a run is not listening yet.
ASK_AGAIN_S = 1.0

#: Seconds that a killed run is given the benefit of the doubt: when SLURM kills everything, the job itself has not so long to live.
DOUBT_S = 3.0

#: Seconds that SLURM has, after a requeue, to end this job.
LEAVE_S = 120.0

#: A job that was stopped so many times in a row without one step of training is given up.
MAX_STALLED = 3

#: Exit code of a job that found no scontrol, as within a container: the text for sbatch then puts it back into the queue.
EXIT_REQUEUE = 85


class RunsFailedError(Exception):
    """Runs of this job came to nothing; names them."""


@dataclass(frozen=True)
class RunJob:
    """The runs of one job, as it finds them on its node.

    Attributes:
        runs: ids and overrides.
        folder: where the run folders lie.
        notes: the folder of the submission.
        at_a_time: how many of them share the GPU; the others take their turns.
    """

    runs: dict[str, tuple[str, ...]]
    folder: Path
    notes: Path
    at_a_time: int

    def __call__(self) -> str:
        """Train the runs and return a sentence.

        Raises:
            RunsFailedError: at least one run has failed.
        """
        with stop_signals((signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)) as received:
            return _Execution(self, received).work()

    def checkpoint(self, *arguments: Any, **named: Any) -> Any:
        """Start again as before: a signal has come before the first run began, and every run knows by its folder where it was."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


class _Execution:
    def __init__(self, job: RunJob, received: list[int]) -> None:
        self._job = job
        self._id = slurm_job() or str(os.getpid())
        self._received = received
        self._failed: dict[str, str] = {}
        self._stopped: list[str] = []

    def work(self) -> str:
        gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "none")
        print(f"job {self._id} on {os.environ.get('SLURMD_NODENAME')}, GPU {gpu}, code {Path(__file__).resolve().parents[2]}", flush=True)
        states = {name: read_state(self._job.folder / name) for name in self._job.runs}
        # In an earlier attempt of this job: whoever submits it anew takes the mark away first.
        self._failed |= {name: last_error(self._job.folder / name) for name, state in states.items() if state == "failed"}
        open_runs = [name for name, state in states.items() if state not in ("done", "failed")]
        before = [self._progress(name) for name in open_runs]
        waiting = open_runs[::-1]
        processes: dict[str, subprocess.Popen[bytes]] = {}
        asked_at = 0.0
        while processes or (waiting and not self._received):
            while waiting and len(processes) < self._job.at_a_time and not self._received:
                name = waiting.pop()
                processes[name] = self._start(name, min(self._job.at_a_time, len(open_runs)))
            if self._received and time.monotonic() - asked_at > ASK_AGAIN_S:
                asked_at = time.monotonic()
                for process in processes.values():
                    process.send_signal(signal.SIGTERM)
            for name in [name for name, process in processes.items() if process.poll() is not None]:
                self._ended(name, processes.pop(name).returncode)
            time.sleep(POLL_S)
        if (self._stopped or waiting) and self._received:
            self._leave(stalled=[self._progress(name) for name in open_runs] == before)
        self._failed |= dict.fromkeys(self._stopped, "it was stopped by somebody else; submit again to resume it")
        if self._failed:
            # Whoever has submitted a failed run anew meanwhile has also let its readers wait for its new job.
            later = {name for item in Ledger(self._job.folder).read() if item.token > self._job.notes.name for name in item.runs}
            self._failed = {name: error for name, error in self._failed.items() if name not in later}
        if self._failed:
            raise RunsFailedError("; ".join(f"{name}: {error}" for name, error in self._failed.items()))
        return f"{len(self._job.runs)} runs done, or submitted anew"

    def _progress(self, name: str) -> list[int]:
        """Return what changes with every step that was not in vain."""
        paths = (self._job.folder / name / file for file in ("checkpoint.pt", "metrics.jsonl"))
        return [path.stat().st_mtime_ns if path.exists() else 0 for path in paths]

    def _start(self, name: str, num_sharing: int) -> subprocess.Popen[bytes]:
        folder = self._job.folder / name
        overrides = [*self._job.runs[name], f"paths.runs={override_value(str(self._job.folder))}"]
        if not any(override.startswith("exec.threads=") for override in overrides):
            cores = int(os.environ.get("SLURM_CPUS_PER_TASK") or 1)
            # A resumed run repeats its bits only with the number of threads that it began with.
            overrides.append(f"exec.threads={threads_before(folder) or max(1, cores // num_sharing)}")
        log = self._log(name)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            command = [sys.executable, "-m", "slurm.jobs.trainer", str(folder), *overrides]
            environment = os.environ | {GPU_SHARE: str(num_sharing)}
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment)

    def _log(self, name: str) -> Path:
        return self._job.folder / "logs" / f"{name}.log"

    def _ended(self, name: str, code: int) -> None:
        folder = self._job.folder / name
        if code == EXIT_SUPERSEDED:
            print(f"{name} was taken over by another job; leaving.", flush=True)
            os._exit(EXIT_SUPERSEDED)
        if read_state(folder) == "done":
            return
        if code > 128 or (self._received and code < 0):
            self._stopped.append(name)
            return
        error = how_it_ended(code, self._log(name))
        if code == -signal.SIGKILL:
            time.sleep(DOUBT_S)
            error += "; if nobody killed it, it needs more memory"
        if code != EXIT_USER_ERROR and read_state(folder) == "failed":
            error = last_error(folder)
        self._failed[name] = error
        print(f"{name} failed: {error}", flush=True)
        try:
            note_failure(folder, error)
        except OSError as problem:
            print(f"{folder}: the failure cannot be noted: {problem}", flush=True)

    # -- leaving ---------------------------------------------------------------------------------------------------------------

    def _leave(self, *, stalled: bool) -> NoReturn:
        """End this attempt, after USR2 with the job back in the queue."""
        if signal.SIGUSR2 in self._received and signal.SIGTERM not in self._received:
            if self._give_up(stalled=stalled):
                os._exit(1)
            print(f"saved {', '.join(self._stopped) or 'what had begun'}; back into the queue.", flush=True)
            if shutil.which("scontrol") is None:
                os._exit(EXIT_REQUEUE)
            result = subprocess.run(["scontrol", "requeue", self._id], capture_output=True, text=True, timeout=60, check=False)
            if result.returncode != 0:
                # Whoever preempts this job may have been faster; it then ends at once, and its runs wait for the next submission otherwise.
                print(f"scontrol requeue: {result.stderr.strip()}", flush=True)
            deadline = time.monotonic() + LEAVE_S
            while signal.SIGTERM not in self._received and time.monotonic() < deadline:
                time.sleep(POLL_S)
        print(f"saved {', '.join(self._stopped) or 'what had begun'}; leaving.", flush=True)
        os._exit(128 + signal.SIGTERM)

    def _give_up(self, *, stalled: bool) -> bool:
        """Count the attempts without a step of training; after too many, note that the runs have failed."""
        path = self._job.notes / f"stalled-{self._id}.json"
        try:
            before = int(read_json(path)["attempts"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            before = 0
        attempts = before + 1 if stalled else 0
        write_json(path, {"attempts": attempts})
        if attempts < MAX_STALLED:
            return False
        for name in self._stopped:
            error = f"{attempts} jobs in a row were over before one step of training; give `time` more in the cluster file"
            note_failure(self._job.folder / name, error)
        return True
