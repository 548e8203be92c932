"""Offline runs to a server: complete, each epoch once, whatever was sent before; called twice, or from cron, it sends nothing twice.

W&B's own upload says it is finished when the server refused everything, and sends a second time what is there already. So what is
there is asked first, a fragment goes through it only if none of its epochs is there, what still lacks comes from ``metrics.jsonl``, and a
run counts as synced when its rows on the server have been compared with the truth. ``sync.json`` keeps what has been found out.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.errors import UserError
from repro.files import read_json, write_json
from repro.rundir import now, read_state
from repro.tracker.contents import Contents
from repro.tracker.fragments import Fragment, epochs, fragments, repair
from repro.tracker.locks import lives
from repro.tracker.replay import needs_conclusion, scratch, send, sending
from repro.tracker.server import Remote, Server
from repro.tracker.verify import compare

LEDGER = "sync.json"

#: Seconds between looks at rows that were sent and do not show yet: a server may take a moment to show what it has taken.
SETTLING_S = (1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Outcome:
    """What became of one run: ``synced``, ``up to date`` (nothing was sent), ``waiting`` (for its turn or its first row), ``failed``."""

    run_id: str
    state: str
    detail: str = ""


class _IncompleteError(Exception):
    """The run is not complete on the server; the message says why."""


def sync(folder: Path, server: Server, *, limit_s: float, again: bool = False) -> Outcome:
    """Bring the server up to date with a run folder within ``limit_s`` seconds, and compare; ``again``: also if the ledger says it is.

    Of a run that is under way, the rows so far are sent from ``metrics.jsonl``; its W&B files are left alone until it ends.
    """
    try:
        contents = Contents(folder)
        if not contents.rows():
            return Outcome(contents.run_id, "waiting", "no row yet")
        known = _ledger(folder)
        if not again and known.get("verified", {}).get("mark") == _mark(contents, server):
            return Outcome(contents.run_id, "up to date")
        with sending(folder):
            return _sync(contents, server, known, time.monotonic() + limit_s)
    except UserError as error:
        busy = "another process is sending it" in str(error)
        return Outcome(folder.name, "waiting" if busy else "failed", str(error))


def _sync(contents: Contents, server: Server, known: dict[str, Any], deadline: float) -> Outcome:
    folder, run_id = contents.folder, contents.run_id
    mark = _mark(contents, server)
    ledger: dict[str, Any] = known if known.get("place") == server.place else {"place": server.place, "fragments": {}}
    try:
        remote = before = server.look(run_id)
        if not lives(folder):
            remote = _send_fragments(contents, server, remote, ledger["fragments"], deadline)
            write_json(folder / LEDGER, ledger)
        held = remote.epochs() if remote else []
        last = max(held, default=-1)
        missing = {int(row["epoch"]) for row in contents.rows()} - set(held)
        if gaps := sorted(epoch for epoch in missing if epoch < last):
            raise _IncompleteError(f"the server lacks epochs {gaps[:5]} before its last, {last}; `publish` makes a clean copy")
        if missing or needs_conclusion(contents, remote):
            problem = send(contents, server, after=last, run_id=run_id, resume="allow", limit_s=_left(deadline))
            if problem:
                raise _IncompleteError(problem)
            remote = _look(contents, server, missing)
            if needs_conclusion(contents, remote, state=False):
                raise _IncompleteError("the results did not arrive in the summary")
        problems = compare(contents, remote.rows if remote else [], whole=not lives(folder))
        if problems:
            raise _IncompleteError("; ".join(problems[:3]))
    except _IncompleteError as failure:
        return Outcome(run_id, "failed", str(failure))
    assert remote is not None
    ledger["verified"] = {"mark": mark, "rows": len(remote.epochs()), "last_epoch": max(remote.epochs(), default=-1), "at": now()}
    write_json(folder / LEDGER, ledger)
    state = read_state(folder)
    detail = f"{len(remote.epochs())} rows on {server.place}" + ("" if state == "done" else f", the run is {state}")
    return Outcome(run_id, "up to date" if remote is before else "synced", detail)


def _send_fragments(
    contents: Contents, server: Server, remote: Remote | None, noted: dict[str, dict[str, Any]], deadline: float
) -> Remote | None:
    """Send the fragments whose epochs go on where the server's end, in their order; return what is there afterwards.

    Raises:
        _IncompleteError: W&B's upload did not do it.
    """
    last = max(remote.epochs(), default=-1) if remote else -1
    chosen: list[Fragment] = []
    sent: set[int] = set()
    for fragment in fragments(contents.folder):
        about = noted.setdefault(fragment.name, {})
        if about.get("state") in ("sent", "covered", "empty"):
            continue
        about["cut_bytes"] = about.get("cut_bytes", 0) + repair(fragment)
        mine = epochs(fragment.rows())
        about |= {"sha256": fragment.sha256(), "rows": len(mine), "at": now(), "state": "covered" if mine else "empty"}
        # Where a part of it is there, or something before it is not, what lacks comes from metrics.jsonl, which can be cut anywhere.
        if mine and mine == list(range(last + 1, last + 1 + len(mine))):
            about["state"] = "not sent"
            chosen.append(fragment)
            sent |= set(mine)
            last = mine[-1]
    if not chosen:
        return remote
    problem = _upload(chosen, contents, server, _left(deadline))
    after = _look(contents, server, sent)
    arrived = sent & set(after.epochs()) if after else set()
    if arrived != sent:
        words = problem or "W&B reported no error"
        raise _IncompleteError(f"{len(arrived)} of {len(sent)} rows of {len(chosen)} offline fragments arrived ({words})")
    for fragment in chosen:
        noted[fragment.name]["state"] = "sent"
    return after


def _look(contents: Contents, server: Server, sent: set[int]) -> Remote | None:
    """Return what the server has, as soon as it shows the epochs that were ``sent``, or after the last look."""
    for wait_s in (*SETTLING_S, 0.0):
        remote = server.look(contents.run_id)
        if remote is not None and sent <= set(remote.epochs()):
            break
        time.sleep(wait_s)
    return remote


def _upload(chosen: list[Fragment], contents: Contents, server: Server, limit_s: float) -> str | None:
    """Let W&B upload fragments; return its last words if it failed. Its success means nothing and is checked by the caller.

    It takes fragments of one run in the order of their starts, one after the other.
    """
    command = [sys.executable, "-m", "wandb", "sync", "--include-synced", "--yes", "-p", server.project, "-e", server.entity]
    command += [str(fragment.path.parent.resolve()) for fragment in chosen]
    try:
        # It writes a log beneath the folder that it is started in.
        with scratch(contents.folder) as place:
            done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        return f"`wandb sync` did not end within {limit_s:.0f} s"
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "ERROR" in line or "error" in line]
    return lines[-1].strip() if lines else (f"`wandb sync` ended with {done.returncode}" if done.returncode else None)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise _IncompleteError("the time limit is over; the same command goes on")
    return left


def _ledger(folder: Path) -> dict[str, Any]:
    """Return the ledger; a damaged or missing one knows nothing, and everything is asked anew."""
    try:
        ledger = read_json(folder / LEDGER)
        return ledger if isinstance(ledger, dict) and isinstance(ledger.get("fragments"), dict) else {}
    except (OSError, ValueError):
        return {}


def _mark(contents: Contents, server: Server) -> list[str]:
    """Return what makes another look at the server needless: the place, the truth, its end."""
    return [server.place, contents.truth_sha256(), read_state(contents.folder)]
