"""Runs to a server: ask which rows it has, send the others from ``metrics.jsonl``, ask again, compare, and only then say synced.

Called twice, or from cron, it sends nothing twice. ``sync.json`` in the run folder keeps what has been found out.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.errors import UserError
from repro.files import peek, write_json
from repro.runs.folder import parse_metrics
from repro.runs.lock import HeldError
from repro.runs.state import now
from repro.tracker.client import WandbTracker, open_run
from repro.tracker.contents import Contents, compare, sha256_of
from repro.tracker.environment import DATA, described, isolate, upload_lock
from repro.tracker.server import Remote, Server

LEDGER = "sync.json"

#: Seconds between looks at rows that were sent and do not show yet: a server may take a moment to show what it has taken.
SETTLING_S = (1.0, 2.0, 4.0)

_REMEDY = "`sync --as NEW_ID` sends the whole run as a new W&B run"


@dataclass(frozen=True)
class Outcome:
    """What became of one run: ``synced``, ``up to date`` (nothing was sent), ``waiting`` (for its turn or its first row), ``failed``."""

    run_id: str
    state: str
    detail: str = ""


def sync(folder: Path, server: Server, *, limit_s: float, again: bool = False, new_id: str | None = None) -> Outcome:
    """Bring the server up to date with a run folder within ``limit_s`` seconds, and compare; ``again``: also if the ledger says it is.

    Of a run that is under way, the rows so far are sent. With ``new_id`` the run goes to a W&B run of that id, now and from then on.
    """
    try:
        contents = Contents(folder)
        # After the state: what is written in between is sent, and asked about once more the next time.
        metrics = contents.metrics()
        mark = [sha256_of(metrics), contents.state]
        if not parse_metrics(metrics):
            return Outcome(contents.run_id, "waiting", "no row yet")
        ledger = peek(folder / LEDGER)
        # A damaged or missing ledger, or that of another place, knows nothing, and everything is asked anew.
        known = ledger if isinstance(ledger, dict) and ledger.get("place") == server.place and "run_id" in ledger else {}
        if not again and known.get("mark") == mark and new_id in (None, known["run_id"]):
            return Outcome(contents.run_id, "up to date")
        (folder / "wandb").mkdir(exist_ok=True)
        with upload_lock(folder):
            ledger = {"place": server.place, "run_id": new_id or known.get("run_id", contents.run_id)}
            if new_id not in (None, known.get("run_id")) and server.look(ledger["run_id"]) is not None:
                raise UserError(f"{server.place} has a run {new_id} already. Choose another id.")
            # Before the first row, so that a call that is cut short is gone on with.
            write_json(folder / LEDGER, ledger)
            sent, remote = _sync(contents, metrics, server, ledger["run_id"], time.monotonic() + limit_s)
            write_json(folder / LEDGER, ledger | {"mark": mark, "rows": len(remote.rows), "at": now()})
    except HeldError:
        return Outcome(folder.name, "waiting", "another process is sending it")
    except UserError as error:
        return Outcome(folder.name, "failed", str(error))
    except OSError as error:
        return Outcome(folder.name, "failed", f"{folder} cannot be written: {error.strerror or error}. Make it writable.")
    detail = f"{len(remote.rows)} rows on {server.place}" + ("" if contents.state == "done" else f", the run is {contents.state}")
    return Outcome(contents.run_id, "synced" if sent else "up to date", detail)


def _sync(contents: Contents, metrics: bytes, server: Server, run_id: str, deadline: float) -> tuple[bool, Remote]:
    """Send what the server lacks of ``metrics`` and of the results; return whether that was anything, and what the server has."""
    rows, done = parse_metrics(metrics), contents.state == "done"

    def concluded(remote: Remote) -> bool:
        return not done or remote.summary.get("truth_sha256") == sha256_of(metrics)

    remote = server.look(run_id)
    held = set(remote.epochs() if remote else [])
    last = max(held, default=-1)
    missing = {int(row["epoch"]) for row in rows} - held
    if gaps := sorted(epoch for epoch in missing if epoch < last):
        raise UserError(f"epochs {gaps[:5]} are missing on the server before its last, {last}, and they cannot be filled in; {_REMEDY}")
    sending = remote is None or bool(missing) or not concluded(remote) or (done and remote.state != "finished")
    if sending:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise UserError("the time limit is over; the same command resumes")
        _send(contents, rows, server, run_id, after=last, limit_s=left_s)
        remote = _look(server, run_id, missing)
    assert remote is not None
    if not concluded(remote):
        raise UserError("the results did not arrive in the summary; the same command resumes")
    if problems := compare(rows, remote.rows, finished=done):
        raise UserError(f"{'; '.join(problems[:3])}; {_REMEDY}")
    return sending, remote


def _send(contents: Contents, rows: list[dict[str, Any]], server: Server, run_id: str, *, after: int, limit_s: float) -> None:
    """Log the rows after epoch ``after``, and the results of a finished run."""
    import wandb

    isolate(contents.folder)
    data = contents.folder / DATA
    data.mkdir(exist_ok=True)
    # The client's own files are needed until the rows have arrived.
    with tempfile.TemporaryDirectory(dir=data, prefix="sending-", ignore_cleanup_errors=True) as directory:
        place: dict[str, Any] = {"project": server.project, "entity": server.entity, "run_id": run_id, "directory": Path(directory)}
        try:
            run = open_run(contents, mode="online", finish_timeout_s=limit_s, **place)
        except Exception as error:
            wandb.teardown()
            raise UserError(f"W&B could not start: {described(error)}") from error
        if run.starting_step - 1 != after:
            run.finish()
            raise UserError(f"the server says its last epoch is {run.starting_step - 1}, but its rows end with {after}; try again later")
        tracker = WandbTracker(run, contents, after)
        for row in rows:
            tracker.log(row)
        if contents.state == "done":
            tracker.conclude()
        tracker.end({"done": 0, "failed": 1}.get(contents.state, 143), preempted=contents.state not in ("done", "failed"))
        if tracker.last_error:
            # W&B's service would go on sending when the run is no longer ours.
            wandb.teardown()
            raise UserError(f"W&B failed: {tracker.last_error}; the same command resumes")


def _look(server: Server, run_id: str, sent: set[int]) -> Remote:
    """Return what the server has, as soon as it shows the epochs that were ``sent``, or after the last look."""
    for wait_s in (*SETTLING_S, 0.0):
        remote = server.look(run_id)
        if remote is not None and sent <= set(remote.epochs()):
            return remote
        time.sleep(wait_s)
    return remote or Remote("missing", {}, [])
