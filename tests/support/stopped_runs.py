"""Runs that are stopped in the middle, with a checkpoint to go on from."""

from __future__ import annotations

from pathlib import Path

import pytest

from repro.config.identity import run_id
from repro.config.schema import Config
from repro.errors import Interrupted
from repro.training.loop import Training
from repro.training.monitor import Monitor
from repro.training.run import execute


def stopped(config: Config, *, epoch: int, batch: int = 0) -> Path:
    """Train until a signal asks the run to stop before step ``batch`` of the epoch after ``epoch`` completed ones; return its folder."""
    before = Monitor.between_steps

    def between_steps(monitor: Monitor, training: Training) -> None:
        if (training.epoch, training.batch) == (epoch, batch):
            monitor._requests.append(15)
        before(monitor, training)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Monitor, "between_steps", between_steps)
        with pytest.raises(Interrupted):
            execute(config)
    return Path(config.paths.runs) / run_id(config)
