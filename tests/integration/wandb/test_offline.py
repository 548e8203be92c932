"""The offline W&B mirror, written by the real client and decoded by its own reader, against metrics.jsonl row by row."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import wandb
from real_runs import read_metrics
from short_runs import EXPECTED, SETTINGS, at_epoch, offline_epochs, offline_rows, records, train

from repro.metric_names import NOT_IN_ROWS, definition_of
from repro.runs.state import read_state


def test_mirror_equals_the_truth(trained: Path) -> None:
    """Row by row exactly its names and numbers, but for W&B's own and what is made for W&B only."""
    truth = read_metrics(trained)
    assert [row["epoch"] for row in truth] == EXPECTED
    mirrored = offline_rows(trained)
    assert [{name: value for name, value in row.items() if not name.startswith(("_", *NOT_IN_ROWS))} for row in mirrored] == truth
    assert [row["_step"] for row in mirrored] == EXPECTED
    for name in truth[-1]:
        if name not in ("epoch", "step"):
            definition_of(name)
    (run,) = records(trained, "run")
    assert run["run_id"] == trained.name
    # Lists of runs say what tells them apart.
    assert run["display_name"] == f"instance_labels, digits, uniform 40%, seed 0 ({trained.name[-6:]})"
    config = run["config"]["update"]
    assert config["method"]["name"] == "instance_labels"
    assert "paths" not in config
    assert [record["exit_code"] for record in records(trained, "exit")] == [0]


def test_everything_stays_in_the_run_folder(tmp_path: Path) -> None:
    """W&B's caches, its staging area and its settings included."""
    home = tmp_path / "home"
    home.mkdir()
    environment = {**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home), "TMPDIR": str(home)}
    command = [sys.executable, "-m", "repro", *SETTINGS, "tracker=offline", "optim.epochs=1", f"paths.runs={tmp_path / 'runs'}"]
    result = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    left = [path for path in home.rglob("*") if path.is_file() and "torch" not in path.as_posix()]
    assert not left, left


def no_space(*arguments: Any, **more: Any) -> None:
    raise OSError(28, "No space left on device")


def test_a_broken_wandb_does_not_stop_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(wandb, "init", no_space)
    assert read_state(train(tmp_path, "offline", epochs=1)) == "done"
    assert "W&B could not start (OSError: [Errno 28] No space left on device); training continues" in caplog.text


def test_a_row_that_was_refused_goes_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    original = wandb.sdk.wandb_run.Run.log
    refused = [2, 3]

    def log(self: object, data: dict[str, object], **more: object) -> None:
        if data["epoch"] in refused:
            refused.remove(data["epoch"])
            no_space()
        original(self, data, **more)

    monkeypatch.setattr(wandb.sdk.wandb_run.Run, "log", log)
    folder = train(tmp_path / "runs", "offline")
    assert offline_epochs(folder) == EXPECTED
    assert refused == []
    assert caplog.text.count("W&B failed") == 1


def test_runs_of_one_process_are_kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after a run that raised, or that somebody left open, as among the jobs of a multirun."""
    wandb.init(mode="offline", dir=str(tmp_path), project="other", settings=wandb.Settings(silent=True, console="off"))

    def fail() -> None:
        raise RuntimeError("as the test wants it")

    with monkeypatch.context() as patch:
        at_epoch(patch, 1, fail)
        with pytest.raises(RuntimeError):
            train(tmp_path / "failed", "offline", "seed=1")
    folder = train(tmp_path / "runs", "offline", epochs=1)
    assert (offline_epochs(folder), records(folder, "run")[0]["run_id"]) == ([0, 1], folder.name)
    (failed,) = (path.parent for path in (tmp_path / "failed").glob("*/identity.json"))
    assert (offline_epochs(failed), records(failed, "exit")[0]["exit_code"]) == ([0], 1)
