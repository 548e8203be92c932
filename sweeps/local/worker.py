"""The process that trains one run of a plan, and what it leaves behind."""

from __future__ import annotations

import logging
import multiprocessing
import multiprocessing.context
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from repro.errors import EXIT_USER_ERROR, Interrupted, UserError
from repro.files import peek
from repro.runs.folder import GPU_SHARE

#: What a worker process does: it takes the overrides of a run and returns the process's exit code.
Worker = Callable[[Sequence[str]], int]

#: Imported once, before the first worker is forked, instead of in each, where it would take seconds.
PRELOAD = ("sweeps.local.warm",)

#: How often a worker is started whose server is killed at that moment.
STARTS = 10

#: Seconds between the first two of these starts; each pause after it is longer by as much.
START_AGAIN_S = 0.2


def start_server(preload: Sequence[str] = PRELOAD) -> multiprocessing.context.ForkServerContext:
    """Start the process that workers are forked from, unless it runs already, and return how to fork them.

    It needs some seconds for its imports, while this process goes on; it ends with this process.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    # What is blocked here is blocked there: Ctrl-C at a terminal reaches it too, and must not end its imports in a traceback. The tracker
    # of resources, which is started with it, unblocks the signal; so it comes first.
    multiprocessing.resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def start(
    context: multiprocessing.context.ForkServerContext, worker: Worker, overrides: Sequence[str], log: Path, *, name: str, sharing: int = 1
) -> multiprocessing.context.ForkServerProcess:
    """Fork a worker process and return it; ``sharing`` is how many run side by side, itself included.

    Raises:
        UserError: the server that forks it was killed again and again.
    """
    for number in range(STARTS):
        process = context.Process(target=enter, args=(worker, overrides, log, sharing), name=name)
        try:
            process.start()
        except (EOFError, ConnectionError):
            # The server was killed at this moment; the next start has a new one. If it had forked already, the run's lock is held. As long
            # as the system has not ended it, multiprocessing takes it for alive.
            time.sleep(START_AGAIN_S * (number + 1))
            continue
        return process
    raise UserError(
        f"the process that runs are forked from was killed {STARTS} times as {name} was started. If nobody killed it, there is too little "
        "memory: choose fewer --jobs. The same command resumes."
    )


def train(overrides: Sequence[str]) -> int:
    """Train the run as ``python -m repro`` does, and return its exit code: 0 done, 2 a user's mistake, 128 + N stopped by signal N.

    An input that is not done, such as one whose folder was deleted meanwhile, is a user's mistake.
    """
    from repro.config.compose import compose
    from repro.training.run import execute

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    try:
        print(execute(compose(overrides)))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except Interrupted as stop:
        return stop.exit_code
    return 0


def enter(worker: Worker, overrides: Sequence[str], log: Path, sharing: int = 1) -> None:
    """Be a worker process, one of ``sharing``: write to ``log``, run ``worker``, and end with its exit code."""
    # Out of the terminal's foreground group: Ctrl-C reaches the planner, which asks the workers to save and stop, once.
    os.setpgid(0, 0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.close(file)
    # If they train on a GPU, it is the same one.
    os.environ[GPU_SHARE] = str(sharing)
    sys.exit(worker(overrides))


def how_it_ended(code: int, log: Path) -> str:
    """Say in a sentence how a worker ended that noted no error of its own."""
    if code < 0:
        how = f"killed by signal {-code} ({signal.Signals(-code).name})"
    elif code > 128:
        how = f"stopped by signal {code - 128}"
    else:
        return f"exit code {code}: {last_line(log) or 'no message'} (see {log})"
    return f"{how}; the same command resumes from its last checkpoint"


def last_line(log: Path) -> str:
    """Return the last line of ``log`` that is not empty; an empty text when there is none."""
    try:
        lines = log.read_text(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def last_error(folder: Path) -> str:
    """Return the error that the run in ``folder`` itself noted."""
    return str(peek(folder / "status.json", "error") or "its status.json cannot be read")


def threads_before(folder: Path) -> int | None:
    """Return the threads of the run's earlier attempt: a resumed run repeats its bits only with the same number."""
    threads = peek(folder / "provenance.json", "threads")
    return threads if isinstance(threads, int) else None
