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
from repro.runs.manifest import sha256
from repro.runs.state import now
from repro.tracker.contents import Contents, mismatch
from repro.tracker.mirror import DATA, WandbTracker, isolate, open_run, upload_lock
from repro.tracker.server import Remote, Server, described

LEDGER = "sync.json"

#: Seconds that the upload of one run may take.
UPLOAD_TIMEOUT_S = 300

#: Seconds between looks at rows that were sent and do not show yet: a server may take a moment to show what it has taken.
SETTLING_S = (1.0, 2.0, 4.0)

_RESUMES = "the same command resumes"


def sync(folder: Path, server: Server) -> str:
    """Bring the server up to date with a run folder, and compare, unless the ledger says that it is.

    Of a run that is under way, the rows so far are sent.

    Returns:
        What became of the run: ``synced``, ``up to date`` (nothing was sent) or ``waiting`` (for its turn or its first row), with details.

    Raises:
        UserError: the folder cannot be mirrored, W&B failed, or the server has other rows.
    """
    contents = Contents(folder)
    # After the state: what is written in between is sent, and asked about once more the next time.
    metrics = contents.metrics()
    mark = [sha256(metrics), contents.state]
    if not parse_metrics(metrics):
        return "waiting (no row yet)"
    ledger = try_read(folder / LEDGER)
    # A ledger that cannot be read, or that of another place, knows nothing, and the server is asked again.
    if isinstance(ledger, dict) and (ledger.get("place"), ledger.get("mark")) == (server.place, mark):
        return "up to date"
    (folder / "wandb").mkdir(exist_ok=True)
    try:
        with upload_lock(folder):
            sent = _bring_up_to_date(contents, metrics, server)
            write_json(folder / LEDGER, {"place": server.place, "mark": mark, "at": now()})
    except HeldError:
        return "waiting (another process is sending it)"
    rows = f"{len(parse_metrics(metrics))} rows on {server.place}" + ("" if contents.state == "done" else f", the run is {contents.state}")
    return f"{'synced' if sent else 'up to date'} ({rows})"


def _bring_up_to_date(contents: Contents, metrics: bytes, server: Server) -> bool:
    """Send what the server lacks of ``metrics`` and of the results, and say whether that was anything."""
    rows, done = parse_metrics(metrics), contents.state == "done"

    def lacking(remote: Remote | None) -> str | None:
        if remote is None:
            return "the run is not there"
        if len(remote.rows) < len(rows):
            return f"{len(rows) - len(remote.rows)} rows are not there"
        if done and remote.summary.get("metrics_sha256") != sha256(metrics):
            return "the results are not in the summary"
        return mismatch(rows, remote.rows, finished=done)

    remote = server.look(contents.run_id)
    present = [] if remote is None else remote.rows
    if problem := mismatch(rows, present, finished=done):
        raise UserError(f"{problem}. That cannot be mended there; `sync --project OTHER` sends the whole run to another project.")
    if remote is not None and lacking(remote) is None and (not done or remote.state == "finished"):
        return False
    _send(contents, rows, server, after=int(number(present[-1]["epoch"])) if present else -1)
    for wait_s in (*SETTLING_S, 0.0):
        problem = lacking(server.look(contents.run_id))
        if problem is None:
            return True
        time.sleep(wait_s)
    raise UserError(f"{problem}; {_RESUMES}")


def _send(contents: Contents, rows: list[dict[str, Any]], server: Server, *, after: int) -> None:
    """Log the rows after epoch ``after``, and the results of a finished run."""
    import wandb

    isolate(contents.folder)
    data = contents.folder / DATA
    data.mkdir(exist_ok=True)
    # The client's own files are needed until the rows have arrived.
    with tempfile.TemporaryDirectory(dir=data, prefix="sending-", ignore_cleanup_errors=True) as directory:
        place: dict[str, Any] = {"project": server.project, "entity": server.entity, "directory": Path(directory)}
        try:
            run = open_run(contents, mode="online", finish_timeout_s=UPLOAD_TIMEOUT_S, **place)
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
