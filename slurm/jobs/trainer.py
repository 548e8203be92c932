"""``python -m slurm.jobs.trainer FOLDER OVERRIDE...``: the process of a job that trains one run; started by :mod:`slurm.jobs.job` only.

SLURM sends its signals to every process of a job. Here one thread receives them and all others block them. Whatever is started from the
training, W&B's service or workers of a data loader, inherits that and ignores them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from repro.command import stop_signals
from repro.errors import EXIT_USER_ERROR, UserError
from repro.runs.lease import claim, wait_for_lock
from repro.runs.state import LOST_AFTER_PERIODS, read_state, read_status, slurm_job
from slurm.jobs.ledger import Ledger
from slurm.jobs.queue import NoAnswerError, read_queue, this_cluster

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR2)

#: Of prctl(2): the signal that this process gets when its parent ends.
_PR_SET_PDEATHSIG = 1

#: Seconds between two looks at a run that is trained elsewhere.
LOOK_S = 2.0


def main(arguments: Sequence[str]) -> int:
    """Train the run of ``arguments`` and return the exit code of :func:`sweeps.local.worker.train`."""
    # Until the training has its own handlers.
    with stop_signals(_STOP_SIGNALS) as received:
        _let_one_thread_hear()
        _end_with_parent()
        folder = Path(arguments[0])
        try:
            wait_for_turn(folder, received)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return EXIT_USER_ERROR
        # PyTorch takes its time.
        import repro.training.run  # noqa: F401
        from sweeps.local.worker import train

        if received:
            return 128 + received[0]
        return train(arguments[1:])


def _let_one_thread_hear() -> None:
    """Block stop signals but in one thread of its own, so that no child of this process ever sees one."""
    started = threading.Event()

    def listen() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
        started.set()
        threading.Event().wait()

    threading.Thread(target=listen, daemon=True, name="signals").start()
    started.wait()
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)


def _end_with_parent() -> None:
    """Save and leave when the job's own process is gone, by whatever means."""
    if sys.platform.startswith("linux"):
        parent = os.getppid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
        if os.getppid() != parent:
            sys.exit(128 + signal.SIGTERM)


def wait_for_turn(folder: Path, received: Sequence[int]) -> None:
    """Wait until nobody else trains the run in ``folder``; stop whoever does so for a job that SLURM has given up.

    Raises:
        UserError: its lock is not given back.
    """
    while not received:
        status = read_status(folder) or {}
        if status.get("state") != "running":
            return
        job, heartbeat_s = status.get("slurm_job"), float(status.get("heartbeat_s", 15.0))
        if _is_over(job, folder):
            claim(folder)
            if status.get("host") != socket.gethostname():
                # A lock may not reach from machine to machine: whoever lives there sees the claim with its next sign of life.
                time.sleep(heartbeat_s)
            wait_for_lock(folder, 10 * LOST_AFTER_PERIODS * heartbeat_s)
            return
        print(f"{folder.name} is trained by {job or 'a process'} on {status.get('host')}; waiting.", file=sys.stderr, flush=True)
        time.sleep(LOOK_S)


def _is_over(job: str | None, folder: Path) -> bool:
    """Say whether the job that trains a run is over; where SLURM cannot tell, whether the run shows no sign of life."""
    items = [item for item in Ledger(folder.parent).read() if (job, folder.name) in item.pairs]
    with contextlib.suppress(NoAnswerError):
        # Nothing is known here of a queue elsewhere, where the same id may be another job's.
        if items and all(item.is_mine(this_cluster()) for item in items):
            if job == slurm_job():
                # An earlier attempt of this very job would not be over if its node had not been lost.
                return True
            found = read_queue().get(str(job))
            return found is None or not found.live or found.comment not in [item.token for item in items]
    return read_state(folder) == "lost"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
