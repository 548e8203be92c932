"""The mirror of a run while it trains."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from repro.config.schema import Config
from repro.errors import Interrupted, UserError
from repro.tracker.environment import described, isolate, upload_lock

logger = logging.getLogger(__name__)

#: Seconds that an online attempt waits for an upload of the same run that is under way.
_UPLOAD_WAIT_S = 5.0


class Tracker:
    """Where the rows of a run are mirrored: this one nowhere."""

    def log(self, row: Mapping[str, Any]) -> None:
        """Mirror one row of ``metrics.jsonl``."""

    def conclude(self) -> None:
        """Mirror ``final.json``, which has been written."""

    def end(self, exit_code: int, *, preempted: bool) -> None:
        """Close the mirror with the exit code of the attempt."""


@contextlib.contextmanager
def track(config: Config, run_id: str, folder: Path) -> Iterator[Tracker]:
    """Yield the tracker that ``config.tracker`` names, and close it however the block ends."""
    with contextlib.ExitStack() as locks:
        tracker = Tracker() if config.tracker.name == "none" else _start(config, run_id, folder, locks)
        exit_code, preempted = 1, False
        try:
            yield tracker
            exit_code = 0
        except Interrupted as stop:
            exit_code, preempted = stop.exit_code, True
            raise
        finally:
            tracker.end(exit_code, preempted=preempted)


def _start(config: Config, run_id: str, folder: Path, locks: contextlib.ExitStack) -> Tracker:
    try:
        # Without it W&B would take the system's temporary folder, and raise nothing.
        (folder / "wandb").mkdir(exist_ok=True)
    except OSError as error:
        logger.warning("%s cannot be written (%s); training continues without the mirror.", folder / "wandb", error.strerror or error)
        return Tracker()
    isolate(folder)
    if _online(config, folder, locks):
        try:
            return _open(config, run_id, folder, "online")
        except Exception as error:  # noqa: BLE001  # whatever W&B raises, training goes on
            logger.warning("W&B could not start online (%s); this attempt is mirrored offline.", described(error))
        import wandb

        # Without it the failed start would keep the run's id as in use.
        with contextlib.suppress(Exception):
            wandb.teardown()
    try:
        return _open(config, run_id, folder, "offline")
    except Exception as error:  # noqa: BLE001  # a full disk, a broken installation: training goes on
        logger.warning("W&B could not start (%s); training continues without the mirror.", described(error))
        return Tracker()


def _online(config: Config, folder: Path, locks: contextlib.ExitStack) -> bool:
    """Say whether this attempt is mirrored online; if so, it holds the run against other uploads."""
    wanted = config.tracker.name
    if wanted == "offline":
        return False
    from repro.tracker import server

    try:
        # A server that is down would cost an online start its whole time limit.
        server.connect(server.CONNECT_S)
        locks.enter_context(upload_lock(folder, timeout_s=_UPLOAD_WAIT_S))
    except (UserError, ImportError) as error:
        level = logging.INFO if wanted == "auto" else logging.WARNING
        message = "tracker=%s: %s This attempt is mirrored offline; `python -m repro.tracker sync %s` uploads it."
        logger.log(level, message, wanted, error, folder)
        return False
    return True


def _open(config: Config, run_id: str, folder: Path, mode: str) -> Tracker:
    from repro.tracker.client import WandbTracker, open_run
    from repro.tracker.contents import Contents

    contents, target = Contents(folder), config.tracker
    run = open_run(contents, mode=mode, project=target.project, entity=target.entity, run_id=run_id, directory=folder)
    # An offline attempt logs the run from its first epoch on, so that its file shows the whole run. Online, the summary would not do:
    # it is uploaded before the rows it is made of.
    return WandbTracker(run, contents, run.starting_step - 1 if mode == "online" else -1)
