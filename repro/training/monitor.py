"""Between the loop and the run folder: each epoch's row is written, the state is saved in time, a stop signal is obeyed."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

from repro.config.schema import Config
from repro.errors import Interrupted
from repro.runs import checkpoint
from repro.runs.folder import RunFolder, metrics_line
from repro.tracker import Tracker
from repro.training.loop import Training

logger = logging.getLogger(__name__)


class Monitor:
    """Watches a training: writes its rows, saves its state in time, and stops it when a signal has asked for that."""

    def __init__(
        self, config: Config, name: str, held: RunFolder, tracker: Tracker, rows: list[dict[str, Any]], requests: list[int]
    ) -> None:
        from tqdm import tqdm

        self.rows = rows
        self._config = config
        self._name = name
        self._held = held
        self._tracker = tracker
        self._requests = requests
        self._saved_at = time.monotonic()
        self._bar = tqdm(
            total=config.optim.epochs,
            initial=max((row["epoch"] for row in rows), default=0),
            unit="epoch",
            desc=name,
            disable=not sys.stderr.isatty(),
        )

    def evaluated(self, row: dict[str, Any]) -> None:
        """Write a row to metrics.jsonl first, then to the mirror, then to the screen."""
        self._held.append_metrics(row)
        self.rows.append(row)
        self._held.progress(row["epoch"])
        self._tracker.log(row)
        shown = ["train/loss", "test/accuracy", "val/accuracy", "noise/label_error"]
        text = ", ".join(f"{metric} {row[metric]:.4f}" for metric in shown if metric in row)
        if self._bar.disable:
            logger.info("epoch %d/%d: %s", row["epoch"], self._config.optim.epochs, text)
        else:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(row["epoch"] - self._bar.n)

    def between_steps(self, training: Training) -> None:
        """Save the state if it is time or if the run is asked to stop."""
        self._held.check_lease(read=False)
        due = time.monotonic() - self._saved_at >= self._config.exec.checkpoint_interval_s
        if self._requests or due:
            self._held.check_lease()
            rows = [metrics_line(row) for row in self.rows]
            checkpoint.save(self._held.manifest, {"run_id": self._name, "rows": rows, **training.state()})
            self._saved_at = time.monotonic()
        if self._requests:
            self.close()
            raise Interrupted(self._requests[0])

    def close(self) -> None:
        """Leave the progress bar's line."""
        self._bar.close()
