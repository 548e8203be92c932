"""Short runs on digits with a tiny network: in this process, or each attempt in a process that can be killed; and what W&B has of them."""

import contextlib
import json
import logging
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil
import pytest
from real_runs import lasting_rows

from repro.config.compose import compose
from repro.errors import Interrupted
from repro.tracker import mirror, server
from repro.training.run import execute

EPOCHS = 5
EXPECTED = list(range(EPOCHS + 1))
#: Time limits (s) of the client, so long that only a server that never answers exceeds them, however busy the machine is.
PATIENT = {(server, "CONNECT_S"): 120, (mirror, "INIT_TIMEOUT_S"): 120, (mirror, "FINISH_TIMEOUT_S"): 120}
SETTINGS = [
    *("method=instance_labels", "dataset=digits", "model.width=4", "noise=uniform", "noise.rate=0.4", "seed=0"),
    *("exec.threads=1", "exec.device=cpu"),
]

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["repro.training.run", "repro.tracker.sync", "wandb.apis.public", "sklearn.datasets", "sympy"])


def settings(runs: Path, tracker: str, *more: str, epochs: int = EPOCHS) -> list[str]:
    return [*SETTINGS, f"optim.epochs={epochs}", f"tracker={tracker}", f"paths.runs={runs}", *more]


def train(runs: Path, tracker: str, *more: str, epochs: int = EPOCHS) -> Path:
    """Train a short run and return its folder."""
    return execute(compose(settings(runs, tracker, *more, epochs=epochs)))


def start(asked: Sequence[str], environment: Mapping[str, str], log: Path) -> BaseProcess:
    """Start an attempt in a process of its own."""
    process = processes.Process(target=_attempt, args=(list(asked), dict(environment), log))
    process.start()
    return process


def _attempt(asked: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
    os.environ.update(environment)
    for (module, name), limit_s in PATIENT.items():
        setattr(module, name, limit_s)
    logging.basicConfig(filename=log, level=logging.INFO)
    try:
        execute(compose(asked))
    except Interrupted as stop:
        sys.exit(stop.exit_code)


def kill_tree(pid: int) -> None:
    """Kill a process and all below it, W&B's service included, as a power cut would."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for victim in [*process.children(recursive=True), process]:
            victim.kill()


def results(folder: Path) -> tuple[bytes, bytes, list[dict[str, Any]]]:
    """Return everything of a run that must not depend on its mirror."""
    return (folder / "final.json").read_bytes(), (folder / "model.safetensors").read_bytes(), lasting_rows(folder)


def records(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Return the records of a kind in the file of the last offline attempt, as W&B's own reader has them."""
    files = sorted((folder / "wandb").glob("offline-run-*/run-*.wandb"))
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", *map(str, files[-1:])]
    output = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False).stdout if files else ""
    decoded = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return [record[kind] for record in decoded if record["type"] == kind]


def offline_rows(folder: Path) -> list[dict[str, Any]]:
    return [record["item"] for record in records(folder, "history")]


def offline_epochs(folder: Path) -> list[int]:
    return [int(row["epoch"]) for row in offline_rows(folder)]


def at_epoch(monkeypatch: pytest.MonkeyPatch, epoch: int, action: Callable[[], object]) -> None:
    """Let something happen when the row of ``epoch`` has been written, before W&B gets it."""
    original = mirror.WandbTracker.log

    def log(tracker: mirror.WandbTracker, row: dict[str, Any]) -> None:
        if row["epoch"] == epoch:
            action()
        original(tracker, row)

    monkeypatch.setattr(mirror.WandbTracker, "log", log)
