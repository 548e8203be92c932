"""The run folder: its files, its lock, and the state it is in. Its layout is described in docs/run-folder.md.

Only the holder of the lock writes. A reader needs no lock, since every file is replaced whole (:mod:`repro.files`), and
``metrics.jsonl`` grows by whole lines.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import json
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from repro.errors import UserError
from repro.files import json_text, jsonable, read_json, write_bytes, write_json, write_text
from repro.runs.lease import Lease, Superseded
from repro.runs.lock import HeldError, hold
from repro.runs.manifest import FILE as MANIFEST
from repro.runs.manifest import DamagedError, Entry, Manifest, entry_of, open_manifest
from repro.runs.state import FOLDER_STATES, Status, TrainedElsewhereError, now, read_state

logger = logging.getLogger(__name__)

#: The environment variable that says how many runs share the GPU of a process; whoever starts them side by side sets it.
GPU_SHARE = "REPRO_GPU_SHARE"


class FinishedError(Exception):
    """Another process has finished the run before this one held it."""


class RunFolder:
    """A run folder held by this process. Use as ``with RunFolder(path).hold(heartbeat_s=15) as folder``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.status: Status | None = None
        self.manifest = Manifest(path, path.name)
        self._metrics: IO[str] | None = None
        self._metrics_sum, self._metrics_size = hashlib.sha256(), 0
        self._guard = threading.Lock()
        self._lease = Lease(path)
        self._superseded = False
        self._forgotten = False

    @contextlib.contextmanager
    def hold(self, *, heartbeat_s: float, epochs: int) -> Iterator[RunFolder]:
        """Take the lock, say ``running``, and beat until the block ends; the block's end does not change the state.

        Raises:
            UserError: another process holds the run, or the folder cannot be written.
            FinishedError: another process has held it and is done.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be made: {error.strerror}. Set paths.runs or $REPRO_RUNS to a folder you can write."
            ) from error
        lock = contextlib.ExitStack()
        try:
            lock.enter_context(hold(self.path / ".lock"))
        except HeldError as error:
            raise TrainedElsewhereError(self.path) from error
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be written: {error.strerror}. Make it writable, or set paths.runs or $REPRO_RUNS elsewhere."
            ) from error
        stop = threading.Event()
        beat = threading.Thread(target=self._beat, args=(stop, heartbeat_s), daemon=True, name="heartbeat")
        try:
            if read_state(self.path) == "done":
                raise FinishedError
            try:
                self._lease.take()
            except FileNotFoundError as error:  # whoever else began without a lock has tidied up
                raise TrainedElsewhereError(self.path) from error
            # Temporary files of writes that a kill cut off; the lock says that nobody is writing them.
            for leftover in self.path.glob("**/.*.tmp"):
                leftover.unlink(missing_ok=True)
            self._take_over_manifest()
            self.status = Status(attempt=self._count_attempts() + 1, heartbeat_s=heartbeat_s, epochs=epochs)
            self._write_status()
            beat.start()
            yield self
        finally:
            stop.set()
            if beat.ident is not None:
                beat.join()
            if self._forgotten:
                # The lock stays: a file that another process may hold by now must not go.
                for name in ("status.json", "lease.json"):
                    (self.path / name).unlink(missing_ok=True)
            self.close_metrics()
            lock.close()

    def _take_over_manifest(self) -> None:
        """Go on with what the manifest of the attempt before knows of its checkpoints and its cost, if there was one."""
        if not (self.path / MANIFEST).exists():
            return
        try:
            before = open_manifest(self.path)
        except DamagedError as error:
            logger.warning("%s Nothing that an earlier attempt left is used.", error)
            return
        self.manifest = replace(before, complete=False, files={})
        if before.complete:
            self.manifest.write()

    def _count_attempts(self) -> int:
        """Return the number of attempts so far; one that ended hard is added to the cost, from its start to its last heartbeat."""
        cost = self._cost_before()
        try:
            status = read_json(self.path / "status.json")
            attempt, gpus = int(status["attempt"]), float(status.get("gpus", 0.0))
            lived = dt.datetime.fromisoformat(status["heartbeat"]) - dt.datetime.fromisoformat(status["started"])
        except (FileNotFoundError, ValueError, KeyError, TypeError, OverflowError):
            return int(cost["attempts"])
        # Before it has an identity a run is nothing yet, and leaves no other files either.
        if attempt > cost["attempts"] and (self.path / "identity.json").exists():
            wall_s = max(0.0, lived.total_seconds())
            more = {"wall_s": cost["wall_s"] + wall_s, "gpu_hours": cost["gpu_hours"] + gpus * wall_s / 3600, "attempts": attempt}
            self._write_cost(cost | more)
        return max(attempt, int(cost["attempts"]))

    def _beat(self, stop: threading.Event, period_s: float) -> None:
        while not stop.wait(period_s):
            # A full disk shows up in the loop's own writes, which stop the run; a missed heartbeat alone must not.
            try:
                self._write_status()
            except Superseded:
                self._superseded = True
                return
            except OSError:
                continue

    def check_lease(self, *, read: bool = True) -> None:
        """Check that nobody has taken the run over; without ``read``, go by what the last heartbeat found.

        Raises:
            Superseded: somebody has.
        """
        if self._superseded:
            raise Superseded(self.path)
        if read:
            self._lease.check()

    def _write_status(self) -> None:
        with self._guard:
            assert self.status is not None
            self.check_lease()
            self.status.heartbeat = now()
            write_json(self.path / "status.json", vars(self.status))

    def progress(self, epoch: int) -> None:
        """Note the number of completed epochs; it is written with the next heartbeat."""
        assert self.status is not None
        self.status.epoch = epoch

    def use_gpu(self) -> None:
        """Note which share of a GPU this attempt uses, for whoever has to say what it cost if it cannot itself."""
        assert self.status is not None
        self.status.gpus = 1.0 / _runs_on_gpu()
        self._write_status()

    def forget(self) -> None:
        """Leave no state behind when the block of :meth:`hold` ends: the run has not begun."""
        self._forgotten = True

    def end(
        self, state: str, *, error: str | None = None, traceback_tail: list[str] | None = None, entries: Mapping[str, Entry] | None = None
    ) -> None:
        """Write the final state of this attempt: ``done``, ``failed`` or ``preempted``.

        Before ``done`` stands the complete manifest; ``entries`` are those of files that were not written by :meth:`write`.
        """
        assert self.status is not None
        assert state in FOLDER_STATES
        if state == "done":
            self._complete(entries or {})
        self.status.state = state
        self.status.ended = now()
        self.status.error = error
        self.status.traceback_tail = traceback_tail or []
        self._write_status()

    def write(self, name: str, content: bytes) -> None:
        """Write a file of the run; the manifest will say what it was."""
        self.check_lease()
        write_bytes(self.path / name, content)
        self.manifest.files[name] = entry_of(content)

    def write_json(self, name: str, value: object) -> None:
        """Write ``value`` as a JSON file of the run, as :func:`repro.files.write_json` does."""
        self.write(name, json_text(value).encode())

    def _complete(self, entries: Mapping[str, Entry]) -> None:
        self.close_metrics()
        metrics = {"metrics.jsonl": Entry(self._metrics_size, self._metrics_sum.hexdigest())} if self._metrics_size else {}
        # What it knows of checkpoints stays: they are there until the run says done.
        self.manifest = replace(self.manifest, complete=True, files={**self.manifest.files, **metrics, **entries})
        self.check_lease()
        self.manifest.write()

    def open_metrics(self, rows: list[dict[str, Any]]) -> None:
        """Let ``metrics.jsonl`` hold ``rows``, those that the checkpoint knows, and open it for more.

        A resumed run repeats the epochs after its checkpoint, so their rows are dropped; so is a line that a kill cut short.
        """
        path, text = self.path / "metrics.jsonl", "".join(map(metrics_line, rows))
        try:
            stored = path.read_bytes()
        except FileNotFoundError:
            stored = b""
        behind = parse_metrics(stored[len(text.encode()) :])
        if not stored.startswith(text.encode()) or any(row.get("epoch", 0) < len(rows) for row in behind):
            logger.warning("%s is not what the run wrote; its %d rows are written again from the checkpoint.", path, len(rows))
        write_text(path, text)
        self._metrics_sum, self._metrics_size = hashlib.sha256(text.encode()), len(text.encode())
        self._metrics = path.open("a")

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Append one evaluation to ``metrics.jsonl`` and force it to the disk."""
        assert self._metrics is not None
        self.check_lease()
        line = metrics_line(row)
        self._metrics_sum.update(line.encode())
        self._metrics_size += len(line.encode())
        self._metrics.write(line)
        self._metrics.flush()
        os.fsync(self._metrics.fileno())

    def close_metrics(self) -> None:
        """Close ``metrics.jsonl``."""
        if self._metrics is not None:
            with contextlib.suppress(OSError):  # every row was flushed when it was written
                self._metrics.close()
            self._metrics = None

    def add_cost(self, *, wall_s: float, on_gpu: bool, peak_gib: float) -> None:
        """Add this attempt's cost to ``cost.json``: summed wall time and GPU-hours, highest memory (GiB).

        Of n runs that were started side by side on one GPU each counts an n-th of its wall time, whichever ends first. An attempt that
        ended hard is added by the next one.
        """
        assert self.status is not None
        before = self._cost_before()
        gpu_hours = before["gpu_hours"] + (wall_s / 3600 / _runs_on_gpu() if on_gpu else 0.0)
        cost = {"wall_s": before["wall_s"] + wall_s, "gpu_hours": gpu_hours, "peak_gib": max(before["peak_gib"], peak_gib)}
        self._write_cost(cost | {"attempts": self.status.attempt})

    def _write_cost(self, cost: Mapping[str, Any]) -> None:
        self.check_lease()
        content = json_text(cost).encode()
        self.manifest.expect("cost.json", content)
        self.write("cost.json", content)

    def _cost_before(self) -> dict[str, Any]:
        path = self.path / "cost.json"
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            content = b""
        if self.manifest.expects("cost.json", content):
            return dict(json.loads(content))
        if content or "cost.json" in self.manifest.changing:
            logger.warning("%s is not what the run wrote; what the attempts before this one cost is not counted.", path)
        return {"wall_s": 0.0, "gpu_hours": 0.0, "peak_gib": 0.0, "attempts": 0}


def _runs_on_gpu() -> int:
    """Return how many runs share the GPU of this process: 1 where nobody says it."""
    given = os.environ.get(GPU_SHARE, "1")
    if not (given.isascii() and given.isdigit() and int(given) > 0):
        logger.warning("%s=%s is no number of runs: the GPU-hours are counted as those of one.", GPU_SHARE, given)
        return 1
    return int(given)


def metrics_line(row: dict[str, Any]) -> str:
    """Return the line of ``metrics.jsonl`` for one evaluation."""
    return json.dumps(jsonable(row), sort_keys=True, allow_nan=False) + "\n"


def parse_metrics(content: bytes) -> list[dict[str, Any]]:
    """Return the rows in the ``content`` of a ``metrics.jsonl``, without damaged lines and a last one that a kill cut short."""
    rows = []
    for line in content.splitlines(keepends=True):
        if line.endswith(b"\n"):
            # Neither bytes that are no text nor lists within lists within lists end a look at how far a run is.
            with contextlib.suppress(ValueError, RecursionError):
                row = json.loads(line)
                if isinstance(row, dict):
                    rows.append(row)
    return rows
