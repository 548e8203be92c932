"""A W&B server: whether it answers, and what it has of a run, row by row. Every question has a time limit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from repro.errors import UserError

#: Seconds within which a server must answer to be used at all.
CONNECT_S = 3

#: Seconds that one question may take.
_QUESTION_S = 30

Answer = TypeVar("Answer")


def described(error: Exception) -> str:
    """Return an error of the client, of its service or of its HTTP library on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".: ")


def connect(timeout_s: int) -> Any:
    """Return W&B's client of the server and the account that it is configured for, once the server has accepted the account.

    Raises:
        UserError: there is no API key, or the server refuses it or does not answer within ``timeout_s`` seconds.
    """
    import wandb

    try:
        return wandb.Api(timeout=timeout_s)
    except Exception as error:  # the client passes on whatever its service raises
        remedy = "Go where there is a network; `wandb login`, or WANDB_BASE_URL and WANDB_API_KEY, say which server and account."
        raise UserError(f"W&B cannot be used within {timeout_s} s: {described(error)}. {remedy}") from error


@dataclass(frozen=True)
class Remote:
    """A run on the server: its state as W&B has it, its last values and results, and the rows of its epochs, in the order of the server."""

    state: str
    summary: dict[str, Any]
    rows: list[dict[str, Any]]


class Server:
    """A project on a W&B server; ``place`` is where runs go, for the ledger and for messages."""

    def __init__(self, project: str, entity: str | None) -> None:
        """Find out that the server answers, and who we are there.

        Raises:
            UserError: it does not answer, or does not know us.
        """
        self._url = str(connect(CONNECT_S).settings["base_url"])
        self.project = project
        self.entity = entity or self._ask(lambda api: str(api.default_entity))
        self.place = f"{self._url}/{self.entity}/{self.project}"

    def look(self, run_id: str) -> Remote | None:
        """Return the run of that id with all its rows, or ``None`` when the server has none.

        Raises:
            UserError: the server does not answer as it should.
        """

        def question(api: Any) -> Remote | None:
            try:
                run = api.run(f"{self.entity}/{self.project}/{run_id}")
            except Exception as error:
                if "Could not find run" in str(error):
                    return None
                raise
            # Not history(), which returns a sample.
            rows = [dict(row) for row in run.scan_history(use_cache=False) if "epoch" in row] if run.lastHistoryStep >= 0 else []
            return Remote(str(run.state), dict(run.summary_metrics), rows)

        return self._ask(question)

    def _ask(self, question: Callable[[Any], Answer]) -> Answer:
        # A client of its own for each question, since a client remembers the runs it has seen.
        api = connect(_QUESTION_S)
        try:
            return question(api)
        except Exception as error:  # the client passes on whatever its service and its HTTP library raise
            raise UserError(f"{self._url}: {described(error)}") from error
