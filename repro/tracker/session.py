"""The mirror of a run while it trains."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from repro.config import Config
from repro.errors import Interrupted
from repro.lock import HeldError
from repro.tracker.environment import isolate, probe
from repro.tracker.locks import owner_lock, writer_lock

if TYPE_CHECKING:
    from repro.tracker.client import WandbTracker

logger = logging.getLogger(__name__)

#: Seconds that an online attempt waits for an upload of the same run that is under way.
_WRITER_WAIT_S = 5.0


class Tracker(Protocol):
    """Where the metrics of a run are mirrored."""

    def log(self, row: Mapping[str, Any]) -> None:
        """Mirror one row of ``metrics.jsonl``."""

    def conclude(self, results: Mapping[str, Mapping[str, float]]) -> None:
        """Write the results of a finished run, as ``final.json`` has them."""


class NoTracker:
    """Mirrors nothing."""

    def log(self, row: Mapping[str, Any]) -> None:
        """Do nothing."""

    def conclude(self, results: Mapping[str, Mapping[str, float]]) -> None:
        """Do nothing."""


@contextlib.contextmanager
def track(config: Config, run_id: str, folder: Path) -> Iterator[Tracker]:
    """Yield the tracker that ``config.tracker`` names, and close it however the block ends."""
    if config.tracker.name == "none":
        yield NoTracker()
        return
    with contextlib.ExitStack() as locks:
        tracker = _start(config, run_id, folder, locks)
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


def _start(config: Config, run_id: str, folder: Path, locks: contextlib.ExitStack) -> WandbTracker | None:
    try:
        # Where W&B cannot write it would take the system's temporary folder without an error.
        (folder / "wandb").mkdir(exist_ok=True)
        with contextlib.suppress(HeldError):  # an upload that looks whether we live holds it for a moment
            locks.enter_context(owner_lock(folder, timeout_s=1.0))
    except OSError as error:
        logger.warning("%s cannot be written (%s); training goes on without the mirror.", folder / "wandb", error.strerror or error)
        return None
    isolate(folder)
    mode = _mode(config, folder, locks)
    try:
        return _open(config, run_id, folder, mode)
    except Exception as error:  # noqa: BLE001  # no account, no network, a broken installation: training goes on
        if mode == "offline":
            logger.warning("W&B could not start (%s: %s); training goes on without the mirror.", type(error).__name__, str(error).strip())
            return None
        logger.warning("W&B could not start online (%s: %s); this attempt is mirrored offline.", type(error).__name__, str(error).strip())
    try:
        import wandb

        # Without it the failed start would keep the run's id as in use.
        wandb.teardown()
        return _open(config, run_id, folder, "offline")
    except Exception as error:  # noqa: BLE001  # as above
        logger.warning("W&B could not start (%s: %s); training goes on without the mirror.", type(error).__name__, str(error).strip())
        return None


def _mode(config: Config, folder: Path, locks: contextlib.ExitStack) -> str:
    """Return whether this attempt is mirrored online or offline; an online one holds the run against other uploads."""
    wanted = config.tracker.name
    if wanted == "offline":
        return "offline"
    # A server that is down would cost an online start its whole time limit.
    problem = probe()
    if problem is None:
        try:
            locks.enter_context(writer_lock(folder, timeout_s=_WRITER_WAIT_S))
        except (HeldError, OSError):
            problem = "another process is uploading this run"
    if problem is None:
        return "online"
    level = logging.INFO if wanted == "auto" else logging.WARNING
    logger.log(level, "tracker=%s: %s; this attempt is mirrored offline, `python -m repro.tracker sync` uploads it.", wanted, problem)
    return "offline"


def _open(config: Config, run_id: str, folder: Path, mode: str) -> WandbTracker:
    from repro.tracker.client import WandbTracker, open_run
    from repro.tracker.contents import Contents
    from repro.tracker.fragments import last_epoch

    contents = Contents(folder)
    held = last_epoch(folder) if mode == "offline" else -1
    target = config.tracker
    run = open_run(contents, mode=mode, project=target.project, entity=target.entity, run_id=run_id, directory=folder, resume="allow")
    # The summary would be ahead: it is uploaded before the rows it is made of.
    return WandbTracker(run, contents, run.starting_step - 1 if mode == "online" else held)
