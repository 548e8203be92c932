"""The Weights & Biases mirror of a run. ``metrics.jsonl`` is the truth; what W&B has can always be rebuilt from it.

One W&B run per run_id, whatever the number of attempts, with ``step = epoch`` and no epoch twice: an attempt asks what the earlier
ones have logged, fills in what is missing, and goes on. Everything W&B writes stays inside the run folder. A failure of W&B is
counted and warned about once, and never stops training.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from repro.config import Config
from repro.errors import Interrupted

logger = logging.getLogger(__name__)

#: Seconds that the end of a run waits for a server that does not answer.
FINISH_TIMEOUT_S = 20


class Tracker(Protocol):
    """Where the metrics of a run are mirrored."""

    def log(self, row: dict[str, Any]) -> None:
        """Mirror one row of ``metrics.jsonl``."""

    def conclude(self, summary: dict[str, float]) -> None:
        """Write the results of a finished run."""


class NoTracker:
    """Mirrors nothing."""

    def log(self, row: dict[str, Any]) -> None:
        """Do nothing."""

    def conclude(self, summary: dict[str, float]) -> None:
        """Do nothing."""


class WandbTracker:
    """Mirrors to one W&B run."""

    def __init__(self, run: Any, last_epoch: int) -> None:
        self._run = run
        self._last_epoch = last_epoch
        self.failures = 0

    def log(self, row: dict[str, Any]) -> None:
        """See :class:`Tracker`; an epoch that W&B already has is passed over."""
        if row["epoch"] > self._last_epoch:
            values = {name: round(value, 6) if isinstance(value, float) else value for name, value in row.items()}
            self._attempt(lambda: self._run.log(values, step=row["epoch"]))
            self._last_epoch = row["epoch"]

    def conclude(self, summary: dict[str, float]) -> None:
        """See :class:`Tracker`."""
        self._attempt(lambda: self._run.summary.update(summary))

    def end(self, exit_code: int, *, preempted: bool) -> None:
        """Close the W&B run with the exit code of the attempt."""
        if preempted:
            self._attempt(self._run.mark_preempting)
        self._attempt(lambda: self._run.finish(exit_code=exit_code))

    def _attempt(self, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:  # noqa: BLE001  # whatever W&B raises, training goes on
            self.failures += 1
            if self.failures == 1:
                logger.warning("W&B failed (%s: %s); training goes on, metrics.jsonl is complete.", type(error).__name__, error)


@contextlib.contextmanager
def track(config: Config, run_id: str, folder: Path) -> Iterator[Tracker]:
    """Yield the tracker that ``config.tracker`` names, and close it however the block ends."""
    tracker = None if config.tracker.name == "none" else _start_wandb(config, run_id, folder)
    if tracker is None:
        yield NoTracker()
        return
    exit_code, preempted = 1, False
    try:
        yield tracker
        exit_code = 0
    except Interrupted as stop:
        exit_code, preempted = stop.exit_code, True
        raise
    finally:
        tracker.end(exit_code, preempted=preempted)


def _start_wandb(config: Config, run_id: str, folder: Path) -> WandbTracker | None:
    os.environ["WANDB_ERROR_REPORTING"] = "false"
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        os.environ[name] = str(folder / "wandb-data")
    # These would tie runs that share an environment, such as those of one sweep, to one W&B run.
    for name in ("WANDB_RUN_ID", "WANDB_RESUME", "WANDB_DIR", "WANDB_MODE"):
        os.environ.pop(name, None)
    if "wandb" not in sys.modules:
        # The W&B service of a parent process: it would keep this run's id as in use when this process is killed.
        os.environ.pop("WANDB_SERVICE", None)
    try:
        last_epoch = _last_offline_epoch(folder)
        import wandb

        settings = wandb.Settings(
            console="off",
            silent=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            disable_git=True,
            disable_code=True,
            x_save_requirements=False,
            # A killed run loses at most this many seconds of the mirror; the default is 15.
            x_transaction_log_flush_interval=1.0,
            allow_offline_artifacts=False,
            finish_timeout=FINISH_TIMEOUT_S,
        )
        scientific = asdict(config)
        for section in ("exec", "tracker", "paths"):
            del scientific[section]
        run = wandb.init(
            project=config.tracker.project,
            entity=config.tracker.entity,
            id=run_id,
            name=run_id,
            group=f"{config.dataset.name}/{config.method.name}/{config.noise.name}",
            job_type="train",
            mode="online" if config.tracker.name == "online" else "offline",
            dir=str(folder),
            resume="allow",
            # A run that an earlier job of this process left open must not swallow this one's rows.
            reinit="finish_previous",
            config=scientific,
            settings=settings,
        )
        if config.tracker.name == "online":
            last_epoch = run.starting_step - 1
        elif not Path(run.settings.sync_dir).resolve().is_relative_to(folder.resolve()):
            logger.warning("W&B writes to %s instead of %s: is the run folder writable?", run.settings.sync_dir, folder)
        run.define_metric("epoch", hidden=True, summary="none")
        run.define_metric("class_*", step_metric="epoch", summary="none")
        run.define_metric("*", step_metric="epoch", summary="last")
    except Exception as error:  # noqa: BLE001  # no account, no network, a broken installation: training goes on
        logger.warning("W&B could not start (%s: %s); training goes on without the mirror.", type(error).__name__, str(error).strip())
        return None
    return WandbTracker(run, last_epoch)


def _last_offline_epoch(folder: Path) -> int:
    """Return the last epoch that the offline files of earlier attempts hold, or -1.

    W&B's own reader is asked, since only the records on the disk count: a killed attempt had not written all it was given.
    """
    last = -1
    for file in sorted((folder / "wandb").glob("offline-run-*/run-*.wandb")):
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
        try:
            output = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout
        except (OSError, subprocess.TimeoutExpired):
            continue
        last = max([last, *(_epoch_of(line) for line in output.splitlines())])
    return last


def _epoch_of(line: str) -> int:
    """Return the epoch of one record as ``wandb leet inspect --json`` prints it, or -1 for any other record."""
    try:
        record = json.loads(line)
    except ValueError:
        return -1
    if not isinstance(record, dict) or record.get("type") != "history":
        return -1
    return int(record["history"].get("item", {}).get("epoch", -1))
