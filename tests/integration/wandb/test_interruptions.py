"""Killed, preempted, many at once: each epoch once, in its own run, in order."""

import os
import random
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from loopback import Backend
from real_runs import read_metrics
from short_runs import SETTINGS, kill_tree, offline_epochs, records, start

from repro.runs.state import read_state
from repro.tracker.contents import mismatch
from repro.tracker.server import Server
from repro.tracker.sync import sync

EPOCHS = 12
#: A checkpoint after every step would hide that an epoch is repeated after a kill; one now and then does not.
KILLED = [*SETTINGS, f"optim.epochs={EPOCHS}", "exec.checkpoint_interval_s=0.3"]


def rows_in(runs: Path) -> int:
    return sum(len(read_metrics(path.parent)) for path in runs.glob("*/metrics.jsonl"))


def wait_for_rows(runs: Path, number: int, process: BaseProcess) -> None:
    """Wait until the run in ``runs`` has as many rows, or its process has ended."""
    while rows_in(runs) < number and process.is_alive():
        time.sleep(0.01)


def ended(process: BaseProcess) -> int | None:
    process.join()
    return process.exitcode


@pytest.mark.parametrize("tracker", ["offline", "online"])
def test_killed_twice(tracker: str, backend: Backend, tmp_path: Path) -> None:
    runs, log = tmp_path / "runs", tmp_path / "log"
    settings = [*KILLED, f"tracker={tracker}", f"paths.runs={runs}"]
    chance = random.Random(tracker)
    for _ in range(2):
        before = rows_in(runs)
        process = start(settings, backend.environment(), log)
        wait_for_rows(runs, before + 1, process)
        time.sleep(chance.uniform(0.0, 1.0))
        kill_tree(process.pid)
        ended(process)
    assert ended(start(settings, backend.environment(), log)) == 0, log.read_text()
    (folder,) = (path.parent for path in runs.glob("*/identity.json"))
    assert read_state(folder) == "done"
    assert [row["epoch"] for row in read_metrics(folder)] == list(range(EPOCHS + 1))
    if tracker == "offline":
        assert offline_epochs(folder) == list(range(EPOCHS + 1))
        assert sync(folder, Server("soft-labels-repro", None)).startswith("synced")
    stored = backend.run(folder.name)
    assert [row["_step"] for row in stored.rows()] == stored.epochs() == list(range(EPOCHS + 1))
    assert mismatch(read_metrics(folder), stored.rows(), finished=True) is None
    assert stored.state == "finished"


@pytest.mark.parametrize("tracker", ["offline", "online"])
def test_preempted(tracker: str, backend: Backend, tmp_path: Path) -> None:
    """SIGTERM: saved, marked as preempting, 143 here and there; the next attempt resumes."""
    settings = [*KILLED, "optim.epochs=200", f"tracker={tracker}", f"paths.runs={tmp_path / 'runs'}"]
    process = start(settings, backend.environment(), tmp_path / "log")
    wait_for_rows(tmp_path / "runs", 4, process)
    os.kill(process.pid, signal.SIGTERM)
    assert ended(process) == 143, (tmp_path / "log").read_text()
    (folder,) = (tmp_path / "runs").iterdir()
    assert read_state(folder) == "preempted"
    written = list(range(len(read_metrics(folder))))
    if tracker == "offline":
        assert [record["exit_code"] for record in records(folder, "exit")] == [143]
        assert len(records(folder, "preempting")) == 1
        assert offline_epochs(folder) == written
        # The rows so far can be sent before the run resumes; what comes later joins them.
        assert sync(folder, Server("soft-labels-repro", None)).startswith("synced")
    stored = backend.run(folder.name)
    assert stored.epochs() == written
    assert (stored.exit_codes, stored.preempted > 0) == ([143], True)
