"""A job of a minute for a node that is new: it does once what every run does, writes down how it went, and waits for the signal."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.command import stop_signals
from repro.files import write_json

#: Seconds that the job waits for the signal.
PATIENCE_S = 90.0


@dataclass(frozen=True)
class Probe:
    """What to look at: the folder of the report, and that of the datasets."""

    folder: Path
    data: Path

    def __call__(self) -> str:
        """Look, report, hold a run folder until the signal comes, and report that."""
        with stop_signals([signal.SIGUSR2]) as received:
            report = self.look()
            from repro.runs.folder import RunFolder

            try:
                with RunFolder(self.folder / "run").hold(heartbeat_s=1.0, epochs=1) as held:
                    write_json(self.folder / "report.json", report | {"run_folder": "ok"})
                    deadline = time.monotonic() + PATIENCE_S
                    while not received and time.monotonic() < deadline:
                        time.sleep(0.1)
                    held.end("done")
                report["run_folder"] = "ok"
            except OSError as error:
                report["run_folder"] = str(error)
            write_json(self.folder / "report.json", report | {"signal": bool(received)})
        return "done"

    def look(self) -> dict[str, Any]:
        """Return what a run would find here; an error is a text that begins with its type."""
        return {
            "node": os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
            "cores": len(os.sched_getaffinity(0)),
            "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "gpus": _tried(_gpus),
            "compilers": _tried(_compilers),
            "code": _tried(_code),
            "data": _tried(lambda: _read_something(self.data)),
        }


def _tried(look: Callable[[], Any]) -> Any:
    try:
        return look()
    except (ImportError, OSError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"


def _gpus() -> dict[str, str]:
    """Return what is wrong with each GPU that PyTorch sees, by number and name; nothing where it can compute there."""
    import torch

    from repro.engine.execution import runs_on

    built = torch.cuda.get_arch_list()
    found = {}
    for index in range(torch.cuda.device_count()):
        capability = torch.cuda.get_device_capability(index)
        wrong = "" if runs_on(capability, built) else f"it has sm_{capability[0]}{capability[1]}, PyTorch is built for {' '.join(built)}"
        found[f"{index}: {torch.cuda.get_device_name(index)}"] = wrong
    return found


def _compilers() -> dict[str, str | None]:
    from repro.engine.compiled import missing_compiler

    return {device: missing_compiler(device) for device in ("cpu", "cuda")}


def _code() -> dict[str, str]:
    import torch

    import repro.training.run

    return {"repro": str(Path(repro.training.run.__file__).parents[2]), "torch": torch.__version__}


def _read_something(folder: Path) -> int:
    """Return the number of entries of a folder, after reading the beginning of one file of it."""
    entries = list(folder.iterdir())
    for path in (path for path in entries if path.is_file()):
        with path.open("rb") as file:
            file.read(1)
        break
    return len(entries)
