"""Runs to a server: ask which rows it has, send the others from ``metrics.jsonl``, ask again, compare, and only then say synced.

Called twice, or from cron, it sends nothing twice. ``sync.json`` in the run folder keeps what has been found out.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from repro.errors import UserError
from repro.files import number, try_read, write_json
from repro.runs.folder import parse_metrics
from repro.runs.lock import HeldError
from repro.runs.state import now
from repro.tracker.contents import Contents, mismatch, sha256_of
from repro.tracker.mirror import DATA, WandbTracker, isolate, open_run, upload_lock
from repro.tracker.server import Remote, Server, described

LEDGER = "sync.json"

#: Seconds between looks at rows that were sent and do not show yet: a server may take a moment to show what it has taken.
SETTLING_S = (1.0, 2.0, 4.0)

_RESUMES = "the same command resumes"


def sync(folder: Path, server: Server, *, limit_s: float, again: bool = False, new_id: str | None = None) -> str:
    """Bring the server up to date with a run folder, and compare; ``again``: also if the ledger says that it is.

    An upload takes at most ``limit_s`` seconds. Of a run that is under way, the rows so far are sent. With ``new_id`` the run goes to a W&B
    run of that id, now and from then on.

    Returns:
        What became of the run: ``synced``, ``up to date`` (nothing was sent) or ``waiting`` (for its turn or its first row), with details.

    Raises:
        UserError: the folder cannot be mirrored, W&B failed, or the server has other rows.
    """
    contents = Contents(folder)
    # After the state: what is written in between is sent, and asked about once more the next time.
    metrics = contents.metrics()
    mark = [sha256_of(metrics), contents.state]
    if not parse_metrics(metrics):
        return "waiting (no row yet)"
    ledger = try_read(folder / LEDGER)
    # A ledger that cannot be read, or that of another place, knows nothing, and everything is asked again.
    known = ledger if isinstance(ledger, dict) and ledger.get("place") == server.place and "run_id" in ledger else {}
    if not again and known.get("mark") == mark and new_id in (None, known["run_id"]):
        return "up to date"
    (folder / "wandb").mkdir(exist_ok=True)
    try:
        with upload_lock(folder):
            if new_id not in (None, known.get("run_id")) and server.look(str(new_id)) is not None:
                raise UserError(f"{server.place} has a run {new_id} already. Choose another id.")
            ledger = {"place": server.place, "run_id": new_id or known.get("run_id", contents.run_id)}
            # Before the first row, so that a call that is cut short is resumed.
            write_json(folder / LEDGER, ledger)
            sent = _bring_up_to_date(contents, metrics, server, ledger["run_id"], limit_s)
            write_json(folder / LEDGER, ledger | {"mark": mark, "at": now()})
    except HeldError:
        return "waiting (another process is sending it)"
    rows = f"{len(parse_metrics(metrics))} rows on {server.place}" + ("" if contents.state == "done" else f", the run is {contents.state}")
    return f"{'synced' if sent else 'up to date'} ({rows})"


def _bring_up_to_date(contents: Contents, metrics: bytes, server: Server, run_id: str, limit_s: float) -> bool:
    """Send what the server lacks of ``metrics`` and of the results, and say whether that was anything."""
    rows, done = parse_metrics(metrics), contents.state == "done"

    def lacking(remote: Remote | None) -> str | None:
        if remote is None:
            return "the run is not there"
        if len(remote.rows) < len(rows):
            return f"{len(rows) - len(remote.rows)} rows are not there"
        if done and remote.summary.get("metrics_sha256") != sha256_of(metrics):
            return "the results are not in the summary"
        return mismatch(rows, remote.rows, finished=done)

    remote = server.look(run_id)
    present = [] if remote is None else remote.rows
    if problem := mismatch(rows, present, finished=done):
        raise UserError(f"{problem}. That cannot be mended there; `sync --as NEW_ID` sends the whole run as a new W&B run.")
    if remote is not None and lacking(remote) is None and (not done or remote.state == "finished"):
        return False
    _send(contents, rows, server, run_id, after=int(number(present[-1]["epoch"])) if present else -1, limit_s=limit_s)
    for wait_s in (*SETTLING_S, 0.0):
        problem = lacking(server.look(run_id))
        if problem is None:
            return True
        time.sleep(wait_s)
    raise UserError(f"{problem}; {_RESUMES}")


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
            raise UserError(f"W&B failed: {tracker.last_error}; {_RESUMES}")
