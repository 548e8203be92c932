"""One folder of runs for two users: one is killed in mid-run and the other goes on; whom a folder is closed to is told how to open it."""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from markdown_blocks import ROOT
from real_runs import results, tiny
from second_user import NOBODY, needs_root

from repro.files import read_json
from repro.runs.state import read_state
from repro.training.run import execute

#: Trains a run in each of the folders that are named; with KILLED, is killed in the second epoch.
TRAIN = """
import os, sys
from real_runs import tiny
from repro.command import exit_code_of
from repro.training.monitor import Monitor
from repro.training.run import execute

def between_steps(monitor, training, before=Monitor.between_steps):
    if "KILLED" in os.environ and training.epoch == 1:
        os.kill(os.getpid(), 9)
    before(monitor, training)

Monitor.between_steps = between_steps
print(*(exit_code_of(lambda: execute(tiny(runs, "optim.epochs=2", "exec.checkpoint_interval_s=0")) and 0) for runs in sys.argv[1:]))
"""


@pytest.fixture
def group_folder() -> Iterator[Path]:
    """A folder of a group that both users are in; those of pytest are closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="group-", dir="/tmp"))
    shutil.chown(folder, group="nogroup")
    folder.chmod(0o2775)
    yield folder
    shutil.rmtree(folder)


def train(user: list[str], *folders: Path, umask: int = 0o002, **variables: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests/support")))
    environment = os.environ | {"PYTHONPATH": path, "HOME": "/nonexistent"} | variables
    return subprocess.run(
        [*user, "-c", TRAIN, *map(str, folders)], env=environment, umask=umask, cwd="/", capture_output=True, text=True, check=False
    )


@needs_root
def test_a_second_user_goes_on_or_is_told_what_is_closed(group_folder: Path, tmp_path: Path) -> None:
    opened, closed = group_folder / "opened", group_folder / "closed"
    assert train([sys.executable], opened, KILLED="yes").returncode == -9
    (folder,) = opened.iterdir()
    assert read_state(folder) == "lost"
    assert (folder / "checkpoint.pt").exists()
    closed.mkdir(0o755)
    second = train(NOBODY, opened, closed)
    assert second.stdout == "0 2\n", second.stderr
    assert read_json(folder / "status.json")["attempt"] == 2
    assert {path.owner() for path in folder.glob("*.json")} == {"nobody"}
    assert all(path.stat().st_mode & stat.S_IWGRP for path in group_folder.glob("opened/**/*"))
    assert results(folder) == results(execute(tiny(tmp_path, "optim.epochs=2")))
    error, remedy = second.stderr.splitlines()[-2:]
    assert f"{closed}/{folder.name}: Permission denied" in error
    assert "chmod -R g+rwX" in remedy
