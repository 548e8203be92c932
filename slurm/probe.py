"""The job of a minute that `doctor` submits: it does once what every run does, writes down how it went, and waits for the signal."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from repro.files import write_json

#: Seconds that the job waits for the signal.
PATIENCE_S = 90.0


@dataclass(frozen=True)
class Probe:
    """What to look at: the folder of the report, that of the datasets, scratch, and the copy of the code."""

    folder: str
    data: str
    scratch: str | None
    code: str

    def __call__(self) -> str:
        """Look, report, hold a run folder until the signal comes, and report that."""
        received: list[int] = []

        def note(number: int, frame: FrameType | None) -> None:
            received.append(number)

        signal.signal(signal.SIGUSR2, note)
        folder = Path(self.folder)
        report = self.look()
        from repro.rundir import RunFolder

        try:
            with RunFolder(folder / "run").hold(heartbeat_s=1.0, epochs=1) as held:
                report["run_folder"] = "ok"
                write_json(folder / "report.json", report)
                deadline = time.monotonic() + PATIENCE_S
                while not received and time.monotonic() < deadline:
                    time.sleep(0.1)
                held.end("done")
        except OSError as error:
            report["run_folder"] = str(error)
        report["signal"] = bool(received)
        write_json(folder / "report.json", report)
        return "done"

    def look(self) -> dict[str, Any]:
        """Return what a run would find here; an error is a text that begins with its type."""
        return {
            "node": os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
            "cores": len(os.sched_getaffinity(0)),
            "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "gpus": _tried(_gpus),
            "code": _tried(_code),
            "data": _tried(lambda: _read_something(Path(self.data))),
            "scratch": None if self.scratch is None else _tried(lambda: _write_something(str(self.scratch))),
        }


def _tried(look: Callable[[], Any]) -> Any:
    try:
        return look()
    except (ImportError, OSError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"


def _gpus() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []


def _code() -> dict[str, str]:
    import torch

    import repro.run

    return {"repro": str(Path(repro.run.__file__).parents[1]), "torch": torch.__version__}


def _read_something(folder: Path) -> int:
    """Return the number of entries of a folder, after reading the beginning of one file of it."""
    entries = sorted(folder.iterdir())
    for path in entries:
        if path.is_file():
            with path.open("rb") as file:
                file.read(1)
            break
    return len(entries)


def _write_something(folder: str) -> str:
    with contextlib.closing(tempfile.TemporaryFile(dir=folder)) as file:
        file.write(b"x")
    return "ok"
