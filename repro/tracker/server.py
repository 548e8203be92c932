"""What a W&B server has of a run, row by row. Every question is asked anew, and has a time limit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from repro.errors import UserError
from repro.tracker.environment import base_url, probe
from repro.tracker.fragments import epochs

#: Seconds that one question may take.
_QUESTION_S = 30


@dataclass(frozen=True)
class Remote:
    """A run on the server.

    Attributes:
        run_id: its id.
        state: as W&B has it: running, finished, crashed, failed, preempted, ...
        config: nested, as logged.
        summary: its last values and results.
        rows: every history row, in the order of the server.
    """

    run_id: str
    state: str
    config: dict[str, Any]
    summary: dict[str, Any]
    rows: list[dict[str, Any]]

    def epochs(self) -> list[int]:
        """Return the epochs of its rows, in their order."""
        return epochs(self.rows)


class Server:
    """A project on a W&B server."""

    def __init__(self, project: str, entity: str | None) -> None:
        """Find out that the server answers, and who we are there.

        Raises:
            UserError: it does not answer, or does not know us.
        """
        problem = probe()
        if problem:
            raise UserError(f"{problem}. Nothing was sent; try again where there is a network, or set WANDB_BASE_URL and WANDB_API_KEY.")
        self.project = project
        self.entity = entity or self._ask(lambda api: str(api.default_entity))

    @property
    def place(self) -> str:
        """Where runs go, for the ledger and for messages: server, entity and project."""
        return f"{base_url()}/{self.entity}/{self.project}"

    def look(self, run_id: str) -> Remote | None:
        """Return the run of that id with all its rows, or ``None`` when the server has none.

        Raises:
            UserError: the server does not answer as it should.
        """

        def find(api: Any) -> Remote | None:
            from wandb.errors import CommError

            try:
                run = api.run(f"{self.entity}/{self.project}/{run_id}")
            except (CommError, ValueError) as error:
                if "Could not find run" in str(error):
                    return None
                raise
            return _read(run)

        found: Remote | None = self._ask(find)
        return found

    def runs(self) -> Iterator[Remote]:
        """Yield every run of the project.

        Raises:
            UserError: there is no such project, or the server does not answer as it should.
        """
        found = self._ask(lambda api: [run.id for run in api.runs(f"{self.entity}/{self.project}")])
        for run_id in found:
            remote = self.look(run_id)
            if remote is not None:
                yield remote

    def _ask(self, question: Any) -> Any:
        import wandb

        try:
            # An Api remembers the runs it has seen.
            return question(wandb.Api(timeout=_QUESTION_S))
        except Exception as error:  # the client passes on whatever its service and its HTTP library raise
            raise UserError(f"{base_url()}: {str(error).strip() or type(error).__name__}") from error


def _read(run: Any) -> Remote:
    run.load(force=True)
    # Not history(), which returns a sample.
    rows = [dict(row) for row in run.scan_history(use_cache=False)] if run.lastHistoryStep >= 0 else []
    summary = dict(run.summary_metrics)
    return Remote(str(run.id), str(run.state), dict(run.config), summary, rows)
