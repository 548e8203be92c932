"""Short runs on digits with a tiny network, in this process, and what their mirrors must hold."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from real_runs import lasting_rows

from repro.config.compose import compose
from repro.runs.folder import RunFolder
from repro.training.run import execute

EPOCHS = 5
#: Time limits (s) of the client, so long that only a server that never answers exceeds them, however busy the machine is.
PATIENCE = {
    "repro.tracker.server.CONNECT_S": 120,
    "repro.tracker.client.INIT_TIMEOUT_S": 120,
    "repro.tracker.client.FINISH_TIMEOUT_S": 120,
}
SETTINGS = [
    *("method=instance_labels", "dataset=digits", "model.width=4", "noise=uniform", "noise.rate=0.4", "seed=0"),
    *("exec.threads=1", "exec.device=cpu"),
]


def settings(runs: Path, tracker: str, *more: str, epochs: int = EPOCHS) -> list[str]:
    return [*SETTINGS, f"optim.epochs={epochs}", f"tracker={tracker}", f"paths.runs={runs}", *more]


def train(runs: Path, tracker: str, *more: str, epochs: int = EPOCHS) -> Path:
    """Train a short run and return its folder."""
    return execute(compose(settings(runs, tracker, *more, epochs=epochs)))


def results(folder: Path) -> tuple[bytes, bytes, list[dict[str, Any]]]:
    """Return everything of a run that must not depend on its mirror."""
    return (folder / "final.json").read_bytes(), (folder / "model.safetensors").read_bytes(), lasting_rows(folder)


def offline_files(folder: Path) -> list[Path]:
    """Return W&B's offline files, that of the first attempt first."""
    return sorted((folder / "wandb").glob("offline-run-*/run-*.wandb"))


def records(file: Path) -> list[dict[str, Any]]:
    """Return the records of a W&B file, as W&B's own reader has them; it stops where a kill has cut a record short."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    output = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False).stdout
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def offline_rows(folder: Path) -> list[dict[str, Any]]:
    """Return the rows in the file of the last offline attempt."""
    files = offline_files(folder)
    return [record["history"]["item"] for record in records(files[-1]) if record["type"] == "history"] if files else []


def offline_epochs(folder: Path) -> list[int]:
    return [int(row["epoch"]) for row in offline_rows(folder)]


def at_epoch(monkeypatch: pytest.MonkeyPatch, epoch: int, action: Callable[[], object]) -> None:
    """Let something happen when the row of ``epoch`` has been written, before W&B gets it."""
    original = RunFolder.append_metrics

    def append(held: RunFolder, row: dict[str, Any]) -> None:
        original(held, row)
        if row["epoch"] == epoch:
            action()

    monkeypatch.setattr(RunFolder, "append_metrics", append)
