"""A run that is killed anywhere and started again ends in the same bytes as one that never stopped."""

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from real_runs import read_metrics

from repro.config.compose import compose
from repro.config.identity import run_id
from repro.errors import Interrupted
from repro.runs import checkpoint
from repro.runs.manifest import open_manifest
from repro.runs.state import read_state
from repro.training.monitor import Monitor
from repro.training.run import execute

RESULTS = ("final.json", "model.safetensors", "labels/layout.json", "labels/indices.i64")

# Children that have PyTorch imported already: a kill test spends its time training, not importing.
forkserver = multiprocessing.get_context("forkserver")
forkserver.set_forkserver_preload(["repro.training.run"])


def settings(runs: Path, *more: str) -> list[str]:
    return [
        *("method=instance_labels", "dataset=digits", "seed=0", "noise=uniform", "noise.rate=0.4"),
        *("method.learning_rate=500", "optim.epochs=4", "tracker=none", "exec.threads=1", "exec.device=cpu"),
        *("exec.checkpoint_interval_s=0.05", f"paths.runs={runs}", *more),
    ]


def train(overrides: list[str]) -> None:
    execute(compose(overrides))


def heard(target: Callable[[list[str]], None], overrides: list[str]) -> None:
    """Call ``target`` where Ctrl-C arrives: the server may be that of sweeps, which another test of this process has started without."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    target(overrides)


def start(overrides: list[str], target: Callable[[list[str]], None] = train) -> Any:
    process = forkserver.Process(target=heard, args=(target, overrides))
    process.start()
    return process


def results(folder: Path) -> dict[str, bytes]:
    trajectory = [path.relative_to(folder).as_posix() for path in folder.glob("labels/*.f*")]
    assert trajectory
    return {name: (folder / name).read_bytes() for name in (*RESULTS, *trajectory)}


def folder_of(overrides: list[str]) -> Path:
    config = compose(overrides)
    return Path(config.paths.runs) / run_id(config)


def kill_until_done(overrides: list[str], *, kills: int, chance: random.Random, longest_s: float) -> int:
    """Start the run again and again and SIGKILL it after random times, then let it end. Return the number of kills that hit it."""
    folder, hits = folder_of(overrides), 0
    while hits < kills and read_state(folder) != "done":
        process = start(overrides)
        deadline = time.monotonic() + chance.uniform(0.0, longest_s)
        while time.monotonic() < deadline and process.is_alive():
            time.sleep(0.005)
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            hits += 1
        process.join()
        if folder.exists():
            assert read_state(folder) in ("lost", "done", "queued")
    process = start(overrides)
    process.join()
    assert process.exitcode == 0
    return hits


@pytest.mark.parametrize(
    ("more", "kills"),
    [
        ([], 20),
        (["method=class_labels", "method.learning_rate=0.3", "optim.momentum=0.9", "meta.lookahead_momentum=true", "meta.interval=2"], 4),
        (["method.momentum=0.5", "trajectory.when=before", "meta.sampler=fresh", "optim.batch_size=100"], 4),
    ],
)
def test_killed_at_random_moments(tmp_path: Path, more: list[str], kills: int) -> None:
    more = [*more, "optim.epochs=8"]
    execute(compose(settings(tmp_path / "whole", *more)))
    whole = results(folder_of(settings(tmp_path / "whole", *more)))
    chance, longest_s = random.Random(20), 1.0
    hits = begun = 0
    while hits < kills:
        # A fast machine may be done before the last kill; then there is another run, killed sooner.
        killed = settings(tmp_path / f"killed{begun}", *more)
        hits += kill_until_done(killed, kills=kills - hits, chance=chance, longest_s=longest_s)
        begun, longest_s = begun + 1, longest_s / 2
        again = results(folder_of(killed))
        assert whole.keys() == again.keys()
        for name, content in whole.items():
            assert content == again[name], f"{name} differs"
        rows = read_metrics(folder_of(killed))
        assert [row["epoch"] for row in rows] == list(range(9))
        assert not list(folder_of(killed).glob("**/.*.tmp"))


def test_checkpoint_cadence_changes_no_number(tmp_path: Path) -> None:
    often, never = (settings(tmp_path / s, "optim.epochs=2", f"exec.checkpoint_interval_s={s}") for s in ("0.05", "1000"))
    assert results(execute(compose(often))) == results(execute(compose(never)))


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGUSR2, signal.SIGINT])
def test_stop_signal_saves_and_leaves(tmp_path: Path, stop: signal.Signals) -> None:
    """Within an epoch, far from a timed checkpoint: the state is saved at once, the exit code is the shell's, the run goes on later."""
    overrides = settings(tmp_path, "exec.checkpoint_interval_s=1000")
    folder = folder_of(overrides)
    process = start(overrides, train_until_asked)
    wait_for_rows(folder, 3, process)
    os.kill(process.pid, stop)
    process.join()
    assert process.exitcode == 128 + stop
    assert read_state(folder) == "preempted"
    state = checkpoint.load(open_manifest(folder))
    done = state["epoch"]
    assert [row["epoch"] for row in read_metrics(folder)] == list(range(done + 1))
    execute(compose(overrides))
    assert read_state(folder) == "done"
    assert [row["epoch"] for row in read_metrics(folder)] == list(range(5))


def train_until_asked(overrides: list[str]) -> None:
    """Train, and wait after the third row until a signal asks the run to stop: a fast run would be done before it comes."""
    evaluated = Monitor.evaluated

    def wait(self: Monitor, row: dict[str, Any]) -> None:
        evaluated(self, row)
        while len(self.rows) == 3 and not self._requests:
            time.sleep(0.01)

    Monitor.evaluated = wait  # in a process of its own
    try:
        execute(compose(overrides))
    except Interrupted as stop:
        raise SystemExit(stop.exit_code) from None


def wait_for_rows(folder: Path, count: int, process: Any) -> None:
    while len(read_metrics(folder)) < count:
        assert process.is_alive()
        time.sleep(0.01)


def test_finished_run_is_left_alone(tmp_path: Path) -> None:
    overrides = settings(tmp_path, "optim.epochs=1")
    folder = execute(compose(overrides))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    # As of a run that was killed after its last word.
    (folder / "checkpoint.previous.pt").touch()
    assert execute(compose(overrides)) == folder
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert not (folder / "checkpoint.pt").exists()
