"""What a SLURM job does: each of its tasks trains one run, and ends so that SLURM and the run's folder say the same.

After USR2, the warning before the end of the time or before a preemption, the run saves its state and its task ends with
:data:`EXIT_REQUEUE`, upon which the job's text puts the job back into the queue. After TERM, which comes with scancel, with a requeue from
outside and with a preemption, it saves and leaves: SLURM knows what to do with the job.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from repro.command import exit_code_of, stop_signals
from repro.runs.state import TrainedElsewhereError, read_state

#: Exit code of a task whose job is to be queued again.
EXIT_REQUEUE = 85

#: Last line of a job's text. Here, since there may be no scontrol in the container that a task runs in.
REQUEUE = f'code=$?; [ $code = {EXIT_REQUEUE} ] && scontrol requeue "$SLURM_JOB_ID" && sleep 120; exit $code'

#: Seconds between two looks at a run that another process trains.
LOOK_S = 2.0

_SIGNALS = (signal.SIGUSR2, signal.SIGTERM)


@dataclass(frozen=True)
class Train:
    """The runs of one job, which share its GPU: each one's id and overrides.

    Attributes:
        folder: where the run folders lie.
    """

    folder: Path
    runs: tuple[tuple[str, tuple[str, ...]], ...]

    def __call__(self) -> str:
        """Train the run of this task.

        Raises:
            SystemExit: it is not done.
        """
        task = int(os.environ.get("SLURM_PROCID", "0"))
        if task >= len(self.runs):
            return "there are fewer runs than tasks"
        name, overrides = self.runs[task]
        with stop_signals(_SIGNALS) as received:
            _hide_signals_from_children()
            _write_to(self.folder / "logs" / f"{name}.log")
            code = exit_code_of(lambda: _train(self.folder / name, overrides, received))
        if code:
            sys.exit(EXIT_REQUEUE if code == 128 + signal.SIGUSR2 else code)
        return "done"


def _train(folder: Path, overrides: tuple[str, ...], received: list[int]) -> int:
    where = " ".join(f"{name}={os.environ.get(name)}" for name in ("SLURM_JOB_ID", "SLURMD_NODENAME", "CUDA_VISIBLE_DEVICES"))
    print(f"{where} code={Path(__file__).resolve().parents[1]}", flush=True)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    from repro.config.compose import compose
    from repro.training.run import execute

    config = compose(overrides)
    while not received:
        if read_state(folder) == "failed":
            print("it failed in an earlier attempt; `python -m slurm retry` trains it again", flush=True)
            return 1
        try:
            execute(config)
            return 0
        except TrainedElsewhereError as error:
            print(f"waiting: {error}", flush=True)
            time.sleep(LOOK_S)
    return 128 + received[0]


def _write_to(log: Path) -> None:
    """Let this process write to ``log`` from now on."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)


def _hide_signals_from_children() -> None:
    """Hear signals in one thread of its own, so that W&B's service and other children, which inherit the blocked ones, do not end by them.

    SLURM sends them to every process of a job.
    """
    ready = threading.Event()

    def listen() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        ready.set()
        threading.Event().wait()

    threading.Thread(target=listen, daemon=True).start()
    ready.wait()
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
