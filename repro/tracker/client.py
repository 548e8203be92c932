"""One W&B run: opened, its rows logged each once and in order, closed. Whatever W&B raises is counted and warned about once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from repro.metric_names import METRICS
from repro.tracker.contents import Contents, as_logged
from repro.tracker.environment import described
from repro.tracker.pictures import heatmap
from repro.tracker.session import Tracker

logger = logging.getLogger(__name__)

#: Seconds that the start of an online run waits for the server.
INIT_TIMEOUT_S = 8

#: Seconds that the end of a run waits for a server that does not answer.
FINISH_TIMEOUT_S = 10


def open_run(
    contents: Contents,
    *,
    mode: str,
    project: str,
    entity: str | None,
    run_id: str,
    directory: Path,
    finish_timeout_s: float | None = None,
) -> Any:
    """Open the W&B run ``run_id`` for a run folder, its files under ``directory``; ``mode`` is ``online`` or ``offline``.

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
        id=run_id,
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
        rule = "none" if metric.mirror_only or "{k}" in metric.name else "last"
        run.define_metric(metric.name.replace("{k}", "*"), step_metric="epoch", summary=rule)
    return run


class WandbTracker(Tracker):
    """Mirrors a run folder to one W&B run, from after ``last_epoch`` on."""

    def __init__(self, run: Any, contents: Contents, last_epoch: int) -> None:
        self._run = run
        self._contents = contents
        self._last_epoch = last_epoch
        self._rows: list[dict[str, Any]] = []
        self._waiting: list[dict[str, Any]] = []
        self._pictures_every = int(contents.tracker.get("picture_epochs", 10))
        self._attempt_number = contents.attempt()
        self.failures = 0
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
        self._guarded(lambda: extra.update(self._pictures(row)))
        extra |= {"job/attempt": self._attempt_number, "job/mirror_failures": self.failures}
        # Without commit W&B would hold the row until the next one, and a kill in between would lose it.
        self._run.log(as_logged(row) | extra, step=int(row["epoch"]), commit=True)

    def _pictures(self, row: Mapping[str, Any]) -> dict[str, Any]:
        epoch, every, last = int(row["epoch"]), self._pictures_every, self._contents.epochs
        if every == 0 or (epoch % every and epoch != last):
            return {}
        import wandb

        drawn = heatmap([known for known in self._rows if known["epoch"] <= epoch], epochs=last)
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
        except Exception as error:  # noqa: BLE001  # whatever W&B raises, training goes on
            self.failures += 1
            self.last_error = described(error)
            if self.failures == 1:
                logger.warning(
                    "W&B failed (%s); training continues, metrics.jsonl is complete. "
                    "`python -m repro.tracker sync %s` fills in what is missing.",
                    self.last_error,
                    self._contents.folder,
                )
            return False
        return True
