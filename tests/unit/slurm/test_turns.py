"""Runs of a job that take turns, without a SLURM."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import slurm.jobs.job
from repro.files import write_json
from repro.runs.folder import GPU_SHARE
from repro.runs.state import Status
from slurm.jobs.job import RunJob, RunsFailedError


class LeftError(Exception):
    """Stands for the end of the job's process."""


class Node:
    """Runs that end after three looks, ``b`` after five, those of ``bad`` with an error; after ``told_at`` the job is told to stop."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *, bad: str = "", told_at: tuple[str, int] | None = None) -> None:
        self.began: list[str] = []
        self.together: list[set[str]] = []
        self.shares: set[str] = set()
        self.commands: list[list[str]] = []
        self.exit_codes: list[int] = []
        alive: set[str] = set()
        handlers: dict[int, Any] = {}
        node = self

        class Process:
            def __init__(self, command: list[str], *, env: dict[str, str], **options: Any) -> None:
                self.name, self.looks, self.returncode = Path(command[3]).name, 0, 0
                self.needs = 5 if self.name == "b" else 3
                (folder / self.name).mkdir(exist_ok=True)
                alive.add(self.name)
                node.began.append(self.name)
                node.shares.add(env[GPU_SHARE])
                node.together.append(set(alive))

            def poll(self) -> int | None:
                self.looks += 1
                if (self.name, self.looks) == told_at:
                    handlers[signal.SIGUSR2](signal.SIGUSR2, None)
                if self.looks < self.needs:
                    return None
                if self.returncode == 0:
                    state = "failed" if self.name in bad else "done"
                    write_json(
                        folder / self.name / "status.json", vars(Status(attempt=1, heartbeat_s=1.0)) | {"state": state, "error": "why"}
                    )
                    self.returncode = 1 if self.name in bad else 0
                alive.discard(self.name)
                return self.returncode

            def send_signal(self, number: int) -> None:
                self.needs, self.returncode = 0, 128 + number

        def leave(code: int) -> None:
            self.exit_codes.append(code)
            raise LeftError

        def run(command: list[str], **options: Any) -> Any:
            self.commands.append(command)
            handlers[signal.SIGTERM](signal.SIGTERM, None)
            return SimpleNamespace(returncode=0)

        job = slurm.jobs.job
        monkeypatch.setattr(job, "read_state", lambda path: "missing" if not (path / "status.json").exists() else self.state(path))
        monkeypatch.setattr(job.signal, "signal", handlers.__setitem__)
        monkeypatch.setattr(job.subprocess, "Popen", Process)
        monkeypatch.setattr(job.subprocess, "run", run)
        monkeypatch.setattr(job.shutil, "which", lambda name: name)
        monkeypatch.setattr(job.os, "_exit", leave)
        monkeypatch.setattr(job, "POLL_S", 0.0)

    def state(self, path: Path) -> str:
        return str(slurm.jobs.job.read_json(path / "status.json")["state"])


@pytest.mark.parametrize("at_a_time", [1, 2, 7])
def test_each_has_its_turn_and_a_failure_takes_nobody_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_a_time: int) -> None:
    node = Node(tmp_path, monkeypatch, bad="b")
    with pytest.raises(RunsFailedError, match="^b: why$"):
        RunJob(dict.fromkeys("abcde", ()), tmp_path, tmp_path, at_a_time)()
    assert node.began == list("abcde")
    assert max(map(len, node.together)) == min(at_a_time, 5)
    assert node.shares == {str(min(at_a_time, 5))}
    assert Counter(node.state(tmp_path / name) for name in "abcde") == {"done": 4, "failed": 1}


@pytest.mark.parametrize(
    ("told_at", "at_a_time", "left"),
    [(("b", 1), 1, "bcd"), (("b", 5), 1, "cd"), (("a", 3), 2, "bcd")],
)
def test_a_warning_leaves_the_rest_to_the_next_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told_at: tuple[str, int], at_a_time: int, left: str
) -> None:
    """Whether it comes while a run trains, as one ends by itself and none has anything to save, or as one ends beside another."""
    node = Node(tmp_path, monkeypatch, told_at=told_at)
    with pytest.raises(LeftError):
        RunJob(dict.fromkeys("abcd", ()), tmp_path, tmp_path, at_a_time)()
    assert node.began == list("ab")
    assert [command[:2] for command in node.commands] == [["scontrol", "requeue"]]
    assert node.exit_codes == [128 + signal.SIGTERM]
    again = Node(tmp_path, monkeypatch)
    assert RunJob(dict.fromkeys("abcd", ()), tmp_path, tmp_path, at_a_time)() == "4 runs done, or submitted anew"
    assert again.began == list(left)
