"""Between the loop and the run folder: each epoch's row is written, the state is saved in time, a stop signal is obeyed."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

from repro.config.schema import Config
from repro.errors import Interrupted
from repro.runs import checkpoint
from repro.runs.folder import RunFolder, metrics_line
from repro.tracker import Tracker
from repro.training.loop import Training

logger = logging.getLogger(__name__)

#: The metrics of an epoch's line on the screen.
_SHOWN = ("train/loss", "test/accuracy", "val/accuracy", "noise/label_error")


class Monitor:
    """Watches a training: writes its rows, saves its state in time, and stops it when a signal is among ``requests``."""

    def __init__(self, config: Config, folder: RunFolder, tracker: Tracker, requests: Sequence[int]) -> None:
        self._config = config
        self._folder = folder
        self._tracker = tracker
        self._requests = requests
        self._saved_at = time.monotonic()

    def evaluated(self, row: dict[str, Any]) -> None:
        """Write a row to metrics.jsonl first, then to the mirror, then to the screen."""
        self._folder.append_row(row)
        self._tracker.log(row)
        text = ", ".join(f"{metric} {row[metric]:.4f}" for metric in _SHOWN if metric in row)
        logger.info("epoch %d/%d: %s", row["epoch"], self._config.optim.epochs, text)

    def between_steps(self, training: Training) -> None:
        """Save the state if it is time or if the run is asked to stop."""
        due = time.monotonic() - self._saved_at >= self._config.exec.checkpoint_interval_s
        if self._requests or due:
            self._folder.check_mine()
            rows = [metrics_line(row) for row in self._folder.rows]
            checkpoint.save(self._folder.path, {"rows": rows, **training.state()})
            self._saved_at = time.monotonic()
        if self._requests:
            raise Interrupted(self._requests[0])
