"""The truth, sent: the rows of a run folder that a server lacks, or all of them as a new run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from repro.errors import UserError
from repro.lock import HeldError
from repro.rundir import read_state
from repro.tracker.client import WandbTracker, open_run
from repro.tracker.contents import Contents
from repro.tracker.environment import DATA, isolate
from repro.tracker.locks import writer_lock
from repro.tracker.server import Remote, Server
from repro.tracker.verify import compare


def send(contents: Contents, server: Server, *, after: int, run_id: str, resume: str, limit_s: float) -> str | None:
    """Log the rows of ``metrics.jsonl`` after epoch ``after``, and the results of a finished run; return what went wrong, if anything.

    ``resume`` is W&B's: ``allow`` goes on with the server's run, ``never`` makes a new one.
    """
    import wandb

    with scratch(contents.folder) as directory:
        try:
            run = open_run(
                contents,
                mode="online",
                project=server.project,
                entity=server.entity,
                run_id=run_id,
                directory=directory,
                resume=resume,
                finish_timeout_s=limit_s,
            )
        except Exception as error:  # noqa: BLE001  # whatever W&B raises is this run's failure, not that of the others
            wandb.teardown()
            return str(error).strip() or type(error).__name__
        if resume != "never" and run.starting_step - 1 != after:
            run.finish()
            return f"the server says its last epoch is {run.starting_step - 1}, but its rows end with {after}"
        tracker = WandbTracker(run, contents, after)
        for row in contents.rows():
            tracker.log(row)
        results = contents.results()
        if results is not None:
            tracker.conclude(results)
        state = read_state(contents.folder)
        tracker.end({"done": 0, "failed": 1}.get(state, 143), preempted=state not in ("done", "failed"))
        return f"W&B failed {tracker.failures} times" if tracker.failures else None


def publish(folder: Path, server: Server, *, run_id: str | None, limit_s: float) -> str:
    """Send the whole truth of a run folder as one clean, new W&B run, check it row by row, and return its id.

    Without ``run_id`` it is the run's own, or the first of ``<run_id>-2``, ``-3``, ... that the server does not have.

    Raises:
        UserError: another process sends this run, the id is taken, or what the server then has is not the truth.
    """
    contents = Contents(folder)
    with sending(folder):
        chosen = run_id or _free_id(contents.run_id, server)
        if run_id and server.look(run_id) is not None:
            raise UserError(f"{server.place} has a run {run_id} already. Choose another --id, or leave it out.")
        problem = send(contents, server, after=-1, run_id=chosen, resume="never", limit_s=limit_s)
        remote = server.look(chosen)
        problems = compare(contents, remote.rows if remote else [], whole=True)
        if problem or problems:
            raise UserError(f"{folder.name} is not published as {chosen}: {'; '.join([*([problem] if problem else []), *problems[:3]])}")
        return chosen


def _free_id(run_id: str, server: Server) -> str:
    number = 1
    while server.look(chosen := run_id if number == 1 else f"{run_id}-{number}") is not None:
        number += 1
    return chosen


def needs_conclusion(contents: Contents, remote: Remote | None, *, state: bool = True) -> bool:
    """Say whether a finished run's results, or with ``state`` that it is finished, are not known to the server."""
    if contents.results() is None or read_state(contents.folder) != "done":
        return False
    return remote is None or remote.summary.get("truth_sha256") != contents.truth_sha256() or (state and remote.state != "finished")


@contextmanager
def sending(folder: Path) -> Iterator[None]:
    """Hold the right to send the run to a server.

    Raises:
        UserError: another process holds it, or the folder cannot be written.
    """
    try:
        (folder / "wandb").mkdir(exist_ok=True)
        with writer_lock(folder):
            yield
    except HeldError as error:
        raise UserError(f"{folder.name}: another process is sending it.") from error
    except OSError as error:
        raise UserError(f"{folder / 'wandb'} cannot be written: {error.strerror or error}.") from error


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """Make a folder for the client's own files inside the run folder; it is gone afterwards."""
    isolate(folder)
    (folder / DATA).mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder / DATA, prefix="sending-", ignore_cleanup_errors=True) as directory:
        yield Path(directory)
