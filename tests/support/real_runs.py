"""Real runs on digits that take seconds: their settings, the rows that they wrote, and how one is stopped in the middle."""

from pathlib import Path
from typing import Any

import pytest

from repro.config.compose import compose
from repro.config.identity import run_id
from repro.config.schema import Config
from repro.errors import Interrupted
from repro.runs.folder import parse_metrics
from repro.training.loop import Training
from repro.training.monitor import Monitor
from repro.training.run import execute


def tiny(runs: Path, *more: str) -> Config:
    """Return the settings of a run of one epoch; what is given later wins."""
    common = ("method=one_hot", "dataset=digits", "seed=0", "model.width=4", "optim.epochs=1", "tracker=none")
    return compose([*common, "exec.threads=1", "exec.device=cpu", f"paths.runs={runs}", *more])


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of ``folder``; a last line that a kill cut short is left out, a missing file is no rows."""
    path = folder / "metrics.jsonl"
    return parse_metrics(path.read_bytes()) if path.exists() else []


def lasting_rows(folder: Path) -> list[dict[str, Any]]:
    """Return the rows without what differs each time: how long things took."""
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in read_metrics(folder)]


def results(folder: Path) -> dict[str, Any]:
    """Return everything of a finished run that must not depend on what happened to it."""
    files = (folder / "final.json", folder / "model.safetensors", folder / "predictions.npz", *folder.glob("labels/*"))
    return {"rows": lasting_rows(folder)} | {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def stopped(config: Config, *, epoch: int, batch: int = 0) -> Path:
    """Train until a signal asks the run to stop before step ``batch`` of the epoch after ``epoch`` completed ones; return its folder."""
    before = Monitor.between_steps

    def between_steps(monitor: Monitor, training: Training) -> None:
        if (training.epoch, training.batch) == (epoch, batch):
            monitor._requests = [15]
        before(monitor, training)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Monitor, "between_steps", between_steps)
        with pytest.raises(Interrupted):
            execute(config)
    return Path(config.paths.runs) / run_id(config)
