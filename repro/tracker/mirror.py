"""The mirror of a run while it trains, and one W&B run: opened, its rows logged each once and in order, closed.

Whatever W&B raises is counted and warned about once; training continues.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from repro.config.schema import Config
from repro.errors import Interrupted, UserError
from repro.metric_names import METRICS, NOT_IN_ROWS
from repro.runs.lock import acquire
from repro.tracker.contents import Contents, as_logged
from repro.tracker.pictures import heatmap
from repro.tracker.server import described

logger = logging.getLogger(__name__)

#: Folder inside the run folder for everything that the client keeps beside its runs.
DATA = "wandb-data"

#: Seconds that the start of an online run, and the end of a run, wait for the server.
INIT_TIMEOUT_S = 8
FINISH_TIMEOUT_S = 10

#: Seconds that an online attempt waits for an upload of the same run that is under way.
_UPLOAD_WAIT_S = 5.0

#: These would tie runs that share an environment, such as those of one sweep, to one W&B run or another folder; the last one to the W&B
#: service of a parent process, which may be gone, and would keep this run's id as in use when this process is killed.
_FOREIGN = ("WANDB_RUN_ID", "WANDB_RESUME", "WANDB_DIR", "WANDB_MODE", "WANDB_NAME", "WANDB_SERVICE")


class Tracker:
    """Where the rows of a run are mirrored: this one nowhere."""

    def log(self, row: Mapping[str, Any]) -> None:
        """Mirror one row of ``metrics.jsonl``."""

    def conclude(self) -> None:
        """Mirror ``final.json``, which has been written."""

    def end(self, exit_code: int, *, preempted: bool) -> None:
        """Close the mirror with the exit code of the attempt."""


class WandbTracker(Tracker):
    """Mirrors a run folder to one W&B run, from after ``last_epoch`` on."""

    def __init__(self, run: Any, contents: Contents, last_epoch: int) -> None:
        self._run = run
        self._contents = contents
        self._last_epoch = last_epoch
        self._rows: list[dict[str, Any]] = []
        self._waiting: list[dict[str, Any]] = []
        self._pictures_every = int(contents.tracker.get("picture_epochs", 10))
        self._failures = 0
        self.last_error: str | None = None

    def log(self, row: Mapping[str, Any]) -> None:
        """Log one row of ``metrics.jsonl``; an epoch that W&B already has is passed over.

        A row that W&B refuses waits for the next, and goes before it: W&B takes the epochs of a run only in their order.
        """
        self._rows.append(dict(row))
        if row["epoch"] > self._last_epoch:
            self._waiting.append(dict(row))
        while self._waiting and self._guarded(self._send_first):
            self._last_epoch = self._waiting.pop(0)["epoch"]

    def _send_first(self) -> None:
        row = self._waiting[0]
        extra: dict[str, Any] = {}
        self._guarded(lambda: extra.update(self._pictures(row["epoch"])))
        extra |= {"job/attempt": self._contents.attempt, "job/mirror_failures": self._failures}
        # Without commit W&B would hold the row until the next one, and a kill in between would lose it.
        self._run.log(as_logged(row) | extra, step=int(row["epoch"]), commit=True)

    def _pictures(self, epoch: int) -> dict[str, Any]:
        every, last = self._pictures_every, self._contents.epochs
        if every == 0 or (epoch % every and epoch != last):
            return {}
        import wandb

        drawn = heatmap([row for row in self._rows if row["epoch"] <= epoch], epochs=last)
        return {} if drawn is None else {"label/heatmap": wandb.Image(drawn)}

    def conclude(self) -> None:
        """Write the results of a finished run into the summary."""
        self._guarded(lambda: self._run.summary.update(self._contents.summary()))

    def end(self, exit_code: int, *, preempted: bool) -> None:
        """Close the W&B run with the exit code of the attempt."""
        if preempted:
            self._guarded(self._run.mark_preempting)
        self._guarded(lambda: self._run.finish(exit_code=exit_code))

    def _guarded(self, action: Callable[[], object]) -> bool:
        try:
            action()
        except Exception as error:  # noqa: BLE001  # whatever W&B raises, training continues
            self._failures += 1
            self.last_error = described(error)
            if self._failures == 1:
                logger.warning(
                    "W&B failed (%s); training continues, metrics.jsonl is complete. "
                    "`python -m repro.tracker sync %s` fills in what is missing.",
                    self.last_error,
                    self._contents.folder,
                )
            return False
        return True


@contextlib.contextmanager
def track(config: Config, folder: Path) -> Iterator[Tracker]:
    """Yield the tracker that ``config.tracker`` names, and close it however the block ends."""
    with contextlib.ExitStack() as locks:
        tracker = Tracker() if config.tracker.name == "none" else _start(config, folder, locks)
        exit_code, preempted = 1, False
        try:
            yield tracker
            exit_code = 0
        except Interrupted as stop:
            exit_code, preempted = stop.exit_code, True
            raise
        finally:
            tracker.end(exit_code, preempted=preempted)


def _start(config: Config, folder: Path, locks: contextlib.ExitStack) -> Tracker:
    target: dict[str, Any] = {"project": config.tracker.project, "entity": config.tracker.entity, "directory": folder}
    try:
        # Without it W&B would take the system's temporary folder, and raise nothing.
        (folder / "wandb").mkdir(exist_ok=True)
        isolate(folder)
        contents = Contents(folder)
        if _online(config.tracker.name, folder, locks):
            try:
                run = open_run(contents, mode="online", **target)
                # The summary would not do: it is uploaded before the rows it is made of.
                return WandbTracker(run, contents, run.starting_step - 1)
            except Exception as error:  # noqa: BLE001  # whatever W&B raises, training continues
                logger.warning("W&B could not start online (%s); this attempt is mirrored offline.", described(error))
                import wandb

                # Without it the failed start would keep the run's id as in use.
                wandb.teardown()
        # An offline attempt logs the run from its first epoch on, so that its file shows the whole run.
        return WandbTracker(open_run(contents, mode="offline", **target), contents, -1)
    except Exception as error:  # noqa: BLE001  # a full disk, a broken installation: training continues
        logger.warning("W&B could not start (%s); training continues without the mirror.", described(error))
        return Tracker()


def _online(name: str, folder: Path, locks: contextlib.ExitStack) -> bool:
    """Say whether this attempt is mirrored online; if so, it holds the run against other uploads."""
    if name == "offline":
        return False
    from repro.tracker import server

    try:
        # A server that is down would cost an online start its whole time limit.
        server.connect(server.CONNECT_S)
        locks.enter_context(upload_lock(folder, timeout_s=_UPLOAD_WAIT_S))
    except (UserError, ImportError) as error:
        level = logging.INFO if name == "auto" else logging.WARNING
        message = "tracker=%s: %s This attempt is mirrored offline; `python -m repro.tracker sync %s` uploads it."
        logger.log(level, message, name, error, folder)
        return False
    return True


def isolate(folder: Path) -> None:
    """Change this process's environment so that the client writes inside ``folder`` only, asks nothing and reports no errors."""
    for name in _FOREIGN:
        os.environ.pop(name, None)
    os.environ |= {name: str(folder / DATA) for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR")}
    # The client would close it to the group, and another user's write its log to the terminal.
    (folder / DATA / "wandb" / "logs").mkdir(parents=True, exist_ok=True)
    # A silent client raises where it would ask for an API key; a training at a terminal must not wait for an answer.
    os.environ |= {"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"}


def upload_lock(folder: Path, *, timeout_s: float = 0.0) -> contextlib.AbstractContextManager[None]:
    """Hold the right to send a run to a server: two processes at once would log epochs twice."""
    return acquire(folder / "wandb" / ".writer.lock", timeout_s=timeout_s)


def open_run(
    contents: Contents,
    *,
    mode: str,
    project: str,
    entity: str | None,
    directory: Path,
    finish_timeout_s: float | None = None,
) -> Any:
    """Open the W&B run of a run folder, its files under ``directory``; ``mode`` is ``online`` or ``offline``.

    Its end waits ``finish_timeout_s`` seconds for the server; unless that is given, :data:`FINISH_TIMEOUT_S`.

    Raises:
        Exception: whatever W&B raises when it cannot start.
    """
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
        init_timeout=INIT_TIMEOUT_S,
        finish_timeout=FINISH_TIMEOUT_S if finish_timeout_s is None else finish_timeout_s,
        finish_timeout_raises=True,
        # A server that stumbles is asked again soon, so that most of what it refused is with it before the end.
        x_file_stream_retry_wait_min_seconds=1,
        x_file_stream_retry_wait_max_seconds=2,
        # Retries of the other requests, with W&B's own waits, would let a failing start last four times its limit.
        x_graphql_retry_max=3,
        x_graphql_retry_wait_min_seconds=1,
        x_graphql_retry_wait_max_seconds=1,
    )
    run = wandb.init(
        project=project,
        entity=entity,
        id=contents.run_id,
        name=contents.title,
        group=contents.group,
        job_type="train",
        mode="online" if mode == "online" else "offline",
        dir=str(directory),
        resume="allow",
        # A run that an earlier job of this process left open must not swallow this one's rows.
        reinit="finish_previous",
        config=contents.config,
        settings=settings,
    )
    run.define_metric("epoch", hidden=True, summary="none")
    run.define_metric("step", step_metric="epoch", hidden=True, summary="last")
    for metric in METRICS:
        # Series per class and pictures would double what a row takes if they stood in the summary too. No name may match two
        # definitions: which of them counts would be chance.
        rule = "none" if metric.name in NOT_IN_ROWS or "{k}" in metric.name else "last"
        run.define_metric(metric.name.replace("{k}", "*"), step_metric="epoch", summary=rule)
    return run
