"""Killed, preempted, many at once, one that raises among many: each epoch once, in its own run, in order."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from forking import ForkServer, killed_and_finished
from loopback import Backend
from real_runs import read_metrics
from short_runs import SETTINGS, offline_epochs, offline_files, offline_rows, records

from repro.runs.state import read_state
from repro.tracker.contents import Contents, compare
from repro.tracker.server import Server
from repro.tracker.sync import sync

EPOCHS = 12
#: A checkpoint after every step would hide that an epoch is repeated after a kill; one now and then does not.
KILLED = [*SETTINGS, f"optim.epochs={EPOCHS}", "exec.checkpoint_interval_s=0.3"]


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    started = ForkServer()
    yield started
    started.close()


#: Three, and with the slow tests twenty.
REPETITIONS = [*range(3), *(pytest.param(number, marks=pytest.mark.slow) for number in range(3, 20))]


@pytest.mark.parametrize("tracker", ["offline", "online"])
@pytest.mark.parametrize("repetition", REPETITIONS)
def test_killed_three_times(tracker: str, repetition: int, server: ForkServer, backend: Backend, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    settings = [*KILLED, f"seed={repetition}", f"tracker={tracker}"]
    chance = random.Random(f"{tracker} {repetition}")
    folder = killed_and_finished(server, settings, backend.environment(), runs, kills=3, chance=chance)
    assert read_state(folder) == "done"
    assert [row["epoch"] for row in read_metrics(folder)] == list(range(EPOCHS + 1))
    if tracker == "offline":
        assert offline_epochs(folder) == list(range(EPOCHS + 1))
        outcome = sync(folder, Server("soft-labels-repro", None), limit_s=300)
        assert outcome.state == "synced", outcome
    stored = backend.run(folder.name)
    assert stored.epochs() == list(range(EPOCHS + 1))
    assert [row["_step"] for row in stored.rows()] == stored.epochs()
    assert compare(read_metrics(folder), stored.rows(), finished=True) == []
    assert stored.state == "finished"
    assert backend.unknown == []


@pytest.mark.parametrize("tracker", ["offline", "online"])
def test_preempted(tracker: str, server: ForkServer, backend: Backend, tmp_path: Path) -> None:
    """SIGTERM: saved, marked as preempting, 143 here and there; the next attempt goes on."""
    settings = [*KILLED, "optim.epochs=200", f"tracker={tracker}", f"paths.runs={tmp_path / 'runs'}"]
    pid = server.start(settings, backend.environment(), tmp_path / "log")
    while not (found := list(tmp_path.glob("runs/*/metrics.jsonl"))) or len(read_metrics(found[0].parent)) < 4:
        assert psutil.Process(pid).status() != psutil.STATUS_ZOMBIE, (tmp_path / "log").read_text()
        time.sleep(0.02)
    os.kill(pid, signal.SIGTERM)
    assert server.wait(pid) == 143
    folder = found[0].parent
    assert read_state(folder) == "preempted"
    written = len(read_metrics(folder))
    if tracker == "online":
        stored = backend.run(folder.name)
        assert stored.epochs() == list(range(written))
        assert (stored.exit_codes, stored.preempted > 0) == ([143], True)
    else:
        (file,) = offline_files(folder)
        found_records = records(file)
        assert [record["exit"]["exit_code"] for record in found_records if record["type"] == "exit"] == [143]
        assert [record["type"] for record in found_records].count("preempting") == 1
        assert offline_epochs(folder) == list(range(written))
        # The rows so far can be sent before the run goes on; what comes later joins them.
        outcome = sync(folder, Server("soft-labels-repro", None), limit_s=300)
        assert outcome.state == "synced", outcome
        assert backend.run(folder.name).epochs() == list(range(written))


@pytest.mark.parametrize("count", [4, pytest.param(15, marks=pytest.mark.slow)])
def test_many_at_once(count: int, server: ForkServer, backend: Backend, tmp_path: Path) -> None:
    settings = [*SETTINGS, "optim.epochs=3", "tracker=online", f"paths.runs={tmp_path}"]
    started = [server.start([*settings, f"seed={seed}"], backend.environment(), tmp_path / f"log{seed}") for seed in range(count)]
    assert [server.wait(pid) for pid in started] == [0] * count
    assert sorted(run.epochs() for run in backend.runs.values()) == [[0, 1, 2, 3]] * count
    for path in tmp_path.glob("*/identity.json"):
        contents = Contents(path.parent)
        assert compare(contents.rows(), backend.run(contents.run_id).rows(), finished=True) == []


#: The runs of -m are trained one after the other in one process; the job of seed 1 raises after its second row.
MULTIRUN = """
import sys
from repro.training import monitor
from repro.__main__ import main
evaluated = monitor.Monitor.evaluated
def raising(self, row):
    evaluated(self, row)
    if row["epoch"] == 1 and self._config.seed == 1:
        raise RuntimeError("as the test wants it")
monitor.Monitor.evaluated = raising
main()
"""


@pytest.mark.parametrize("jobs", [4, pytest.param(15, marks=pytest.mark.slow)])
def test_multirun_with_a_job_that_raises(jobs: int, tmp_path: Path) -> None:
    seeds = ",".join(map(str, range(jobs)))
    settings = [*SETTINGS, "optim.epochs=2", "tracker=offline", f"paths.runs={tmp_path / 'runs'}"]
    settings = [setting for setting in settings if not setting.startswith("seed=")]
    command = [sys.executable, "-c", MULTIRUN, "-m", *settings, f"seed={seeds}"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=500, cwd=tmp_path, check=False)
    assert result.returncode != 0
    assert "as the test wants it" in result.stderr
    found: dict[int, Any] = {}
    for path in (tmp_path / "runs").glob("*/identity.json"):
        contents = Contents(path.parent)
        found[contents.config["seed"]] = contents
    assert sorted(found) == list(range(jobs))
    for seed, contents in found.items():
        rows = offline_rows(contents.folder)
        assert [row["epoch"] for row in rows] == ([0, 1] if seed == 1 else [0, 1, 2])
        assert compare(contents.rows(), rows, finished=True) == []
        (file,) = offline_files(contents.folder)
        (record,) = (record for record in records(file) if record["type"] == "run")
        assert record["run"]["run_id"] == contents.run_id
    (file,) = offline_files(found[1].folder)
    assert [record["exit"]["exit_code"] for record in records(file) if record["type"] == "exit"] == [1]
