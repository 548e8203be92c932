"""Runs as processes of their own that start fast: one server process imports everything once and forks for each attempt.

``python forking.py`` reads lines of JSON: ``{"settings": [...], "environment": {...}, "log": FILE}`` answers with the pid of a fork that
trains that run as ``python -m repro`` would; ``{"wait": PID}`` answers with its exit status as :meth:`subprocess.Popen.wait` has it.
"""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from repro.runs.folder import parse_metrics


class ForkServer:
    """The server process, as tests use it."""

    def __init__(self) -> None:
        command = [sys.executable, str(Path(__file__))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def _ask(self, **request: object) -> int:
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def start(self, settings: Sequence[str], environment: dict[str, str], log: Path) -> int:
        return self._ask(settings=list(settings), environment=environment, log=str(log))

    def wait(self, pid: int) -> int:
        """Wait for an attempt to end and return its exit status, -N if a signal N ended it."""
        return self._ask(wait=pid)

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def kill_tree(pid: int) -> None:
    """Kill a process and all below it, W&B's service included, as a power cut would."""
    try:
        process = psutil.Process(pid)
        victims = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for victim in victims:
        try:
            victim.suspend()  # so that none of them sees another die
        except psutil.NoSuchProcess:
            continue
    for victim in victims:
        try:
            victim.kill()
        except psutil.NoSuchProcess:
            continue


def killed_and_finished(
    server: ForkServer, settings: Sequence[str], environment: dict[str, str], runs: Path, *, kills: int, chance: random.Random
) -> Path:
    """Start a run, kill it ``kills`` times at a random moment after its first row, start it again until it is done; return its folder."""
    for attempt in range(kills + 1):
        pid = server.start([*settings, f"paths.runs={runs}"], environment, runs.parent / f"attempt{attempt}.log")
        if attempt < kills:
            limit = time.monotonic() + 400
            before = _rows(runs) if attempt else 0
            while _rows(runs) < before + 1 and _trains(pid) and time.monotonic() < limit:
                time.sleep(0.01)
            time.sleep(chance.uniform(0.0, 1.0))
            kill_tree(pid)
            server.wait(pid)
        else:
            assert server.wait(pid) == 0, (runs.parent / f"attempt{attempt}.log").read_text()[-3000:]
    (folder,) = (path.parent for path in runs.glob("*/identity.json"))
    return folder


def _trains(pid: int) -> bool:
    """Say whether a process has not ended. One that was killed behind its last row ends without another row, and waits to be asked for."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _rows(runs: Path) -> int:
    return sum(len(parse_metrics(path.read_bytes())) for path in runs.glob("*/metrics.jsonl"))


def _serve() -> None:
    from repro.config.compose import compose
    from repro.data.prepare import prepare
    from repro.errors import Interrupted
    from repro.training.run import choose_device, execute

    # What every run would import and read first.
    prepare(compose(["method=one_hot", "dataset=digits", "seed=0", "tracker=none"]), choose_device("cpu"))
    import wandb  # noqa: F401

    from repro.tracker import client, server

    # As in PATIENCE of short_runs.
    server.CONNECT_S, client.INIT_TIMEOUT_S, client.FINISH_TIMEOUT_S = 120, 120, 120

    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        pid = os.fork()
        if pid:
            print(pid, flush=True)
            continue
        os.setsid()
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.update(request["environment"])
        import logging

        logging.basicConfig(level=logging.INFO)
        try:
            execute(compose(request["settings"]))
        except Interrupted as stop:
            sys.exit(stop.exit_code)
        sys.exit(0)


if __name__ == "__main__":
    _serve()
