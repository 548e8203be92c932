"""The offline W&B mirror, written by the real client and decoded by its own reader, against metrics.jsonl row by row."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from repro.compose import compose
from repro.metric_names import METRICS, definition_of
from repro.run import execute
from repro.rundir import read_metrics, read_state
from repro.tracker.fragments import fragments

SETTINGS = ["method=instance_labels", "dataset=digits", "seed=0", "noise=uniform", "noise.rate=0.4", "exec.threads=1", "tracker=offline"]


def records(folder: Path) -> list[dict[str, Any]]:
    """Return every record of every offline fragment, in the order they were written."""
    return [record for fragment in fragments(folder) for record in fragment.records()]


def history(folder: Path) -> list[dict[str, Any]]:
    """Return the rows without W&B's own names and without what is made for W&B only."""
    items = [record["history"]["item"] for record in records(folder) if record["type"] == "history"]
    return [{name: value for name, value in item.items() if name == "_step" or _in_the_truth(name)} for item in items]


def _in_the_truth(name: str) -> bool:
    made = [metric.name for metric in METRICS if metric.mirror_only]
    return not name.startswith("_") and not any(name == made_name or name.startswith(f"{made_name}.") for made_name in made)


def same(mirrored: dict[str, Any], truth: dict[str, Any]) -> bool:
    """Say whether a mirrored row has exactly the names and numbers of the truth; W&B writes a whole float without its point."""
    return mirrored == {**truth, "_step": truth["epoch"]}


def test_mirror_equals_the_truth(tmp_path: Path) -> None:
    folder = execute(compose([*SETTINGS, "optim.epochs=3", f"paths.runs={tmp_path / 'runs'}"]))
    truth, mirrored = read_metrics(folder), history(folder)
    assert len(truth) == 4
    assert all(same(*pair) for pair in zip(mirrored, truth, strict=True))
    for name in truth[-1]:
        if name not in ("epoch", "step"):
            definition_of(name)
    (run,) = [record["run"] for record in records(folder) if record["type"] == "run"]
    assert run["run_id"] == folder.name
    config = run["config"]["update"]
    assert config["method"]["name"] == "instance_labels"
    assert "paths" not in config
    assert [record["exit"]["exit_code"] for record in records(folder) if record["type"] == "exit"] == [0]


def test_everything_stays_in_the_run_folder(tmp_path: Path) -> None:
    """W&B's caches, its staging area and its settings included."""
    home = tmp_path / "home"
    home.mkdir()
    environment = {**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home), "TMPDIR": str(home)}
    for name in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        environment.pop(name, None)
    result = subprocess.run(
        [sys.executable, "-m", "repro", *SETTINGS, "optim.epochs=1", f"paths.runs={tmp_path / 'runs'}"],
        env=environment,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    left = [path for path in home.rglob("*") if path.is_file() and "torch" not in path.as_posix() and path.name != "code-digests.json"]
    assert not left, left


#: A run that is killed when it has four rows.
KILLED = """
import os, signal, sys
from repro.compose import compose
from repro.monitor import Monitor
from repro.run import execute
original = Monitor.between_steps
def between_steps(self, training):
    original(self, training)
    if len(self.rows) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
Monitor.between_steps = between_steps
execute(compose(sys.argv[1:]))
"""


def test_a_killed_run_has_every_epoch_once(tmp_path: Path) -> None:
    """Killed in the middle and started again: the fragments together hold each epoch exactly once."""
    arguments = [*SETTINGS, "optim.epochs=8", f"paths.runs={tmp_path}", "exec.checkpoint_interval_s=0"]
    process = subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True, text=True, check=False)
    assert process.returncode == -signal.SIGKILL, process.stderr
    folder = execute(compose(arguments))
    assert read_state(folder) == "done"
    assert len(list((folder / "wandb").glob("offline-run-*"))) == 2
    assert [row["epoch"] for row in history(folder)] == list(range(9))
    assert all(same(*pair) for pair in zip(history(folder), read_metrics(folder), strict=True))


def test_a_broken_wandb_does_not_stop_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    import wandb

    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise OSError(28, "No space left on device")

        settings = type("Settings", (), {"sync_dir": str(tmp_path)})()

        def define_metric(self, *arguments: Any, **more: Any) -> None:
            return None

        def log(self, *arguments: Any, **more: Any) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(wandb, "init", lambda **more: Broken())
    folder = execute(compose([*SETTINGS, "optim.epochs=2", f"paths.runs={tmp_path}"]))
    assert read_state(folder) == "done"
    assert caplog.text.count("W&B failed") == 1


def test_a_failing_start_does_not_stop_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    import wandb

    def refuse(**more: Any) -> None:
        raise wandb.errors.CommError("no server")

    monkeypatch.setattr(wandb, "init", refuse)
    folder = execute(compose([*SETTINGS, "optim.epochs=1", f"paths.runs={tmp_path}"]))
    assert read_state(folder) == "done"
    assert "W&B could not start" in caplog.text


def test_a_run_left_open_does_not_swallow_the_next(tmp_path: Path) -> None:
    """A job that raised leaves its W&B run active in the process; the next run must have its own."""
    import wandb

    left_open = wandb.init(mode="offline", dir=str(tmp_path), project="other", settings=wandb.Settings(silent=True, console="off"))
    folder = execute(compose([*SETTINGS, "optim.epochs=1", f"paths.runs={tmp_path}"]))
    assert [row["epoch"] for row in history(folder)] == [0, 1]
    assert left_open.id != folder.name
