"""The process that trains one run of a plan."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from repro.errors import EXIT_USER_ERROR, Interrupted, UserError

#: What a worker process does: it takes the overrides of a run and returns the process's exit code.
Worker = Callable[[Sequence[str]], int]

#: Imported once, before the first worker is forked, instead of in each, where they would take five seconds: the run's own code, and
#: what it imports late (scikit-learn with its digits, W&B with the tracker).
PRELOAD = ("repro.compose", "repro.run", "repro.loop", "sklearn.datasets", "wandb")


def train(overrides: Sequence[str]) -> int:
    """Train the run as ``python -m repro`` does, and return its exit code: 0 done, 2 a user's mistake, 128 + N stopped by signal N."""
    from repro.compose import compose
    from repro.run import execute

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    try:
        print(execute(compose(overrides)))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except Interrupted as stop:
        return stop.exit_code
    return 0


def enter(worker: Worker, overrides: Sequence[str], log: Path) -> None:
    """Be a worker process: write to ``log``, run ``worker``, and end with its exit code."""
    # Out of the terminal's foreground group: Ctrl-C reaches the planner, which asks the workers to save and stop, once.
    os.setpgid(0, 0)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.close(file)
    sys.exit(worker(overrides))
