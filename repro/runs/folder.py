"""The run folder: its files, its lock, and who writes it. Its layout is described in docs/run-folder.md.

Only the holder of the lock writes. A reader needs no lock, since every file is replaced whole (:mod:`repro.files`), and ``metrics.jsonl``
grows by whole lines. A lock ends with its process and, on many network file systems, at the border of a machine. So whoever begins a run
waits until the heartbeat of another host has stopped, and puts a token into ``status.json``: a process that finds another one than its own,
such as one on a node that was given up and came back, writes nothing more and leaves.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from repro.errors import Interrupted, UserError
from repro.files import json_text, jsonable, try_read, write_bytes, write_json, write_text
from repro.runs.lock import HeldError, acquire
from repro.runs.manifest import sha256, write_manifest
from repro.runs.state import LOST_AFTER_PERIODS, TrainedElsewhereError, now, read_state, read_status

#: The environment variable that says how many runs share the GPU of a process; whoever starts them side by side sets it.
GPU_SHARE = "REPRO_GPU_SHARE"

#: Seconds between two looks at the heartbeat of another host.
LOOK_S = 0.5


class FinishedError(Exception):
    """Another process has finished the run before this one held it."""


class RunFolder:
    """A run folder that this process writes. Use as ``with RunFolder(path, heartbeat_s=15, epochs=60).acquire() as folder``.

    Attributes:
        path: of the folder.
        status: what ``status.json`` holds but for the present heartbeat.
        rows: what ``metrics.jsonl`` holds.
        written: sha256 of each file that was written, for the manifest.
    """

    def __init__(
        self, path: Path, *, heartbeat_s: float, epochs: int, on_gpu: bool = False, peak_gib: Callable[[], float] = lambda: 0.0
    ) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self.written: dict[str, str] = {}
        self.status: dict[str, Any] = {
            "state": "running",
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "slurm_job": os.environ.get("SLURM_JOB_ID"),
            "node": os.environ.get("SLURMD_NODENAME"),
            "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "token": uuid.uuid4().hex,
            "heartbeat_s": heartbeat_s,
            "started": now(),
            "ended": None,
            "epoch": 0,
            "epochs": epochs,
            "error": None,
            "traceback_tail": [],
        }
        self._gpus = 1 / int(os.environ.get(GPU_SHARE, "1")) if on_gpu else 0.0
        self._peak_gib = peak_gib
        self._began, self._cpu_began = time.monotonic(), time.process_time()
        self._guard = threading.Lock()

    @contextlib.contextmanager
    def acquire(self) -> Iterator[RunFolder]:
        """Take the lock, say ``running``, and write a heartbeat until the block ends; an exception says how it ended.

        Raises:
            TrainedElsewhereError: another process trains the run.
            FinishedError: another process has trained it.
            OSError: the folder cannot be written.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(acquire(self.path / ".lock"))
            except HeldError as error:
                raise TrainedElsewhereError(self.path) from error
            self._wait_for_other_hosts()
            if read_state(self.path) == "done":
                raise FinishedError
            # Temporary files of writes that a kill cut off; the lock says that nobody is writing them.
            for leftover in self.path.glob("**/.*.tmp"):
                leftover.unlink(missing_ok=True)
            self._begin()
            stack.enter_context(self._heartbeat())
            try:
                yield self
            except TrainedElsewhereError:
                raise
            except Interrupted as stop:
                self.end("preempted", f"stopped by signal {stop.signal_number}; the same command resumes")
                raise
            except KeyboardInterrupt:
                self.end("preempted", "stopped at once by a second Ctrl-C; the same command resumes from the last checkpoint")
                raise
            except BaseException as error:
                tail = [] if isinstance(error, UserError) else traceback.format_exc().splitlines()[-20:]
                # On a full disk even this note may fail; the error itself matters more.
                with contextlib.suppress(OSError):
                    self.end("failed", f"{type(error).__name__}: {error}", tail)
                raise

    def _wait_for_other_hosts(self) -> None:
        """Wait until what another host has written is lost, as after a requeue; leave if it shows that it lives."""
        status = read_status(self.path)
        start = time.monotonic()
        while read_state(self.path) == "running" and time.monotonic() - start < LOST_AFTER_PERIODS * float(status["heartbeat_s"]):
            if try_read(self.path / "status.json", "heartbeat") != status["heartbeat"]:
                raise TrainedElsewhereError(self.path)
            time.sleep(LOOK_S)

    def _begin(self) -> None:
        """Take the run over, and go on counting what its attempts cost; one that was killed counts up to its last heartbeat."""
        cost = read_status(self.path).get("cost") or {}
        self._cost_before = {name: float(cost.get(name, 0.0)) for name in ("wall_s", "cpu_s", "gpu_hours", "peak_gib")}
        self.status["attempt"] = int(cost.get("attempts", 0)) + 1
        self._write_status(take_over=True)

    @contextlib.contextmanager
    def _heartbeat(self) -> Iterator[None]:
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(self.status["heartbeat_s"]):
                # A full disk shows up in the training's own writes, which stop the run; a missed heartbeat alone must not.
                # Who has taken the run over is found by these, too.
                with contextlib.suppress(OSError, TrainedElsewhereError):
                    self._write_status()

        thread = threading.Thread(target=beat, daemon=True, name="heartbeat")
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _write_status(self, *, take_over: bool = False) -> None:
        with self._guard:
            if not take_over:
                self.check_mine()
            wall_s = time.monotonic() - self._began
            before = self._cost_before
            self.status["heartbeat"] = now()
            self.status["cost"] = {
                "wall_s": before["wall_s"] + wall_s,
                "cpu_s": before["cpu_s"] + time.process_time() - self._cpu_began,
                "gpu_hours": before["gpu_hours"] + wall_s / 3600 * self._gpus,
                "peak_gib": max(before["peak_gib"], self._peak_gib()),
                "attempts": self.status["attempt"],
            }
            write_json(self.path / "status.json", self.status)

    def check_mine(self) -> None:
        """Check that nobody has taken the run over.

        Raises:
            TrainedElsewhereError: somebody has.
        """
        if try_read(self.path / "status.json", "token") not in (self.status["token"], None):
            raise TrainedElsewhereError(self.path)

    def end(self, state: str, error: str | None = None, traceback_tail: list[str] | None = None) -> None:
        """Write the final state of this attempt: ``done``, ``failed`` or ``preempted``."""
        self.status |= {"state": state, "ended": now(), "error": error, "traceback_tail": traceback_tail or []}
        self._write_status()

    def finish(self) -> None:
        """Write what the run cost and its manifest, and say ``done``."""
        self._write_status()
        self.write_json("cost.json", self.status["cost"])
        self.written["metrics.jsonl"] = sha256("".join(map(metrics_line, self.rows)).encode())
        self.check_mine()
        write_manifest(self.path, self.written)
        self.end("done")

    def write(self, name: str, content: bytes) -> None:
        """Write a file of the run; the manifest will say what it was."""
        self.check_mine()
        write_bytes(self.path / name, content)
        self.written[name] = sha256(content)

    def write_json(self, name: str, value: object) -> None:
        """Write ``value`` as a JSON file of the run, as :func:`repro.files.write_json` does."""
        self.write(name, json_text(value).encode())

    def begin_rows(self, rows: list[dict[str, Any]]) -> None:
        """Let ``metrics.jsonl`` hold ``rows``, those that the checkpoint knows: a resumed run repeats the epochs after it."""
        self.check_mine()
        self.rows = rows
        write_text(self.path / "metrics.jsonl", "".join(map(metrics_line, rows)))

    def append_row(self, row: dict[str, Any]) -> None:
        """Append one evaluation to ``metrics.jsonl`` and force it to the disk."""
        self.check_mine()
        self.rows.append(row)
        self.status["epoch"] = row["epoch"]
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(metrics_line(row))
            file.flush()
            os.fsync(file.fileno())


def metrics_line(row: dict[str, Any]) -> str:
    """Return the line of ``metrics.jsonl`` for one evaluation."""
    return json.dumps(jsonable(row), sort_keys=True, allow_nan=False) + "\n"


def parse_metrics(content: bytes) -> list[dict[str, Any]]:
    """Return the rows in the ``content`` of a ``metrics.jsonl``, without a last one that a kill cut short."""
    return [json.loads(line) for line in content.splitlines(keepends=True) if line.endswith(b"\n")]
