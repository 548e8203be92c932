"""A run that is killed anywhere and started again ends in the same bytes as one that never stopped."""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from real_runs import read_metrics, results, tiny

from repro.config.compose import compose
from repro.config.identity import run_id
from repro.errors import Interrupted
from repro.runs import checkpoint
from repro.runs.manifest import verify
from repro.runs.state import TrainedElsewhereError, read_state
from repro.training.monitor import Monitor
from repro.training.run import execute

# Children that have PyTorch imported already: a kill test spends its time training, not importing.
forkserver = multiprocessing.get_context("forkserver")
forkserver.set_forkserver_preload(["repro.training.run"])


def settings(runs: Path, *more: str) -> list[str]:
    return [
        *("method=instance_labels", "dataset=digits", "seed=0", "noise=uniform", "noise.rate=0.4"),
        *("method.learning_rate=500", "optim.epochs=4", "tracker=none", "exec.threads=1", "exec.device=cpu"),
        *("exec.checkpoint_interval_s=0.05", f"paths.runs={runs}", *more),
    ]


def train(overrides: list[str], wait: bool = False) -> None:
    """Train as a process of its own does; with ``wait``, stay after the third row until a signal asks the run to stop."""
    # The server may be that of sweeps, which another test of this process has started without Ctrl-C.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    evaluated = Monitor.evaluated

    def waiting(self: Monitor, row: dict[str, Any]) -> None:
        evaluated(self, row)
        while row["epoch"] == 2 and not self._requests:
            time.sleep(0.01)

    if wait:
        Monitor.evaluated = waiting
    try:
        execute(compose(overrides))
    except Interrupted as stop:
        raise SystemExit(stop.exit_code) from None


def start(overrides: list[str], *, wait: bool = False) -> Any:
    process = forkserver.Process(target=train, args=(overrides, wait))
    process.start()
    return process


def folder_of(overrides: list[str]) -> Path:
    config = compose(overrides)
    return Path(config.paths.runs) / run_id(config)


def kill_until_done(overrides: list[str], *, kills: int, chance: random.Random, longest_s: float) -> int:
    """Start the run again and again and kill it after random times, then let it end. Return the number of kills that hit it."""
    folder, hits = folder_of(overrides), 0
    while hits < kills and read_state(folder) != "done":
        process = start(overrides)
        process.join(chance.uniform(0.0, longest_s))
        if process.is_alive():
            # Every third asks it to save and leave.
            os.kill(process.pid, signal.SIGTERM if hits % 3 == 2 else signal.SIGKILL)
            hits += 1
        process.join()
        assert read_state(folder) in ("lost", "done", "queued", "preempted")
    process = start(overrides)
    process.join()
    assert process.exitcode == 0
    return hits


@pytest.mark.parametrize(
    ("more", "kills"),
    [
        ([], 9),
        (["method=class_labels", "method.learning_rate=0.3", "optim.momentum=0.9", "meta.lookahead_momentum=true", "meta.interval=2"], 3),
        (["method.momentum=0.5", "trajectory.when=before", "meta.sampler=fresh", "optim.batch_size=100"], 3),
    ],
)
def test_killed_at_random_moments(tmp_path: Path, more: list[str], kills: int) -> None:
    whole = results(execute(compose(settings(tmp_path / "whole", *more))))
    chance, longest_s = random.Random(20), 1.0
    hits = begun = 0
    while hits < kills:
        # A fast machine may be done before the last kill; then there is another run, killed sooner.
        killed = settings(tmp_path / f"killed{begun}", *more)
        hits += kill_until_done(killed, kills=kills - hits, chance=chance, longest_s=longest_s)
        begun, longest_s = begun + 1, longest_s / 2
        folder = folder_of(killed)
        assert results(folder) == whole
        assert verify(folder) == []
        assert not list(folder.glob("**/.*.tmp"))


def test_checkpoint_cadence_changes_no_number(tmp_path: Path) -> None:
    often, never = (settings(tmp_path / s, "optim.epochs=2", f"exec.checkpoint_interval_s={s}") for s in ("0.05", "1000"))
    assert results(execute(compose(often))) == results(execute(compose(never)))


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGUSR2, signal.SIGINT])
def test_stop_signal_saves_and_leaves(tmp_path: Path, stop: signal.Signals) -> None:
    """Far from a timed checkpoint the state is saved at once, the exit code is the shell's, and the run resumes later."""
    overrides = settings(tmp_path, "exec.checkpoint_interval_s=1000")
    folder = folder_of(overrides)
    process = start(overrides, wait=True)
    while len(read_metrics(folder)) < 3:
        assert process.is_alive()
        time.sleep(0.01)
    with pytest.raises(TrainedElsewhereError):
        execute(compose(overrides))
    os.kill(process.pid, stop)
    process.join()
    assert (process.exitcode, read_state(folder)) == (128 + stop, "preempted")
    assert checkpoint.load(folder)["epoch"] == 2
    execute(compose(overrides))
    assert [row["epoch"] for row in read_metrics(folder)] == list(range(5))


def test_finished_run_is_left_alone(tmp_path: Path) -> None:
    config = tiny(tmp_path)
    folder = execute(config)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    # As of a run that was killed after its last word.
    (folder / "checkpoint.previous.pt").touch()
    assert execute(config) == folder
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
