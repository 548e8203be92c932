"""The offline W&B mirror, written by the real client and decoded by its own reader, against metrics.jsonl row by row."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from real_runs import read_metrics
from short_runs import SETTINGS, offline_epochs, offline_files, offline_rows, records, train

from repro.metric_names import METRICS, definition_of
from repro.runs.state import read_state


def test_mirror_equals_the_truth(tmp_path: Path) -> None:
    """Row by row exactly its names and numbers, but for W&B's own and what is made for W&B only."""
    folder = train(tmp_path / "runs", "offline", epochs=3)
    truth = read_metrics(folder)
    assert [row["epoch"] for row in truth] == [0, 1, 2, 3]
    made = tuple(metric.name for metric in METRICS if metric.mirror_only)
    mirrored = [{name: value for name, value in row.items() if not name.startswith(("_", *made))} for row in offline_rows(folder)]
    assert mirrored == truth
    assert [row["_step"] for row in offline_rows(folder)] == [0, 1, 2, 3]
    for name in truth[-1]:
        if name not in ("epoch", "step"):
            definition_of(name)
    found = records(offline_files(folder)[-1])
    (run,) = [record["run"] for record in found if record["type"] == "run"]
    assert run["run_id"] == folder.name
    # Lists of runs say what tells them apart.
    assert run["display_name"] == f"instance_labels, digits, uniform 40%, seed 0 ({folder.name[-6:]})"
    config = run["config"]["update"]
    assert config["method"]["name"] == "instance_labels"
    assert "paths" not in config
    assert [record["exit"]["exit_code"] for record in found if record["type"] == "exit"] == [0]


def test_everything_stays_in_the_run_folder(tmp_path: Path) -> None:
    """W&B's caches, its staging area and its settings included."""
    home = tmp_path / "home"
    home.mkdir()
    environment = {**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home), "TMPDIR": str(home)}
    for name in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        environment.pop(name, None)
    result = subprocess.run(
        [sys.executable, "-m", "repro", *SETTINGS, "tracker=offline", "optim.epochs=1", f"paths.runs={tmp_path / 'runs'}"],
        env=environment,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    left = [path for path in home.rglob("*") if path.is_file() and "torch" not in path.as_posix()]
    assert not left, left


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
    folder = train(tmp_path, "offline", epochs=2)
    assert read_state(folder) == "done"
    assert caplog.text.count("W&B failed") == 1


def test_a_failing_start_does_not_stop_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    import wandb

    def refuse(**more: Any) -> None:
        raise wandb.errors.CommError("no server")

    monkeypatch.setattr(wandb, "init", refuse)
    folder = train(tmp_path, "offline", epochs=1)
    assert read_state(folder) == "done"
    assert "W&B could not start" in caplog.text


def test_a_run_left_open_does_not_swallow_the_next(tmp_path: Path) -> None:
    """A job that raised leaves its W&B run active in the process; the next run must have its own."""
    import wandb

    left_open = wandb.init(mode="offline", dir=str(tmp_path), project="other", settings=wandb.Settings(silent=True, console="off"))
    folder = train(tmp_path, "offline", epochs=1)
    assert offline_epochs(folder) == [0, 1]
    assert left_open.id != folder.name
