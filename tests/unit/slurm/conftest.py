"""A SLURM that answers as it is told."""

from __future__ import annotations

import pytest

import slurm.states


class Answers:
    """What scontrol and squeue say, ``jobs`` by id with state and reason, and the commands that were called."""

    def __init__(self) -> None:
        self.cluster = "hal"
        self.jobs: dict[str, tuple[str, str]] = {}
        self.calls: list[tuple[str, ...]] = []

    def __call__(self, *command: str) -> str:
        self.calls.append(command)
        if command[0] == "scontrol":
            return f"Configuration data\nClusterName             = {self.cluster}\nMaxArraySize            = 4\n"
        return "".join(f"{job}|{state}|{reason}\n" for job, (state, reason) in self.jobs.items())


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    answers = Answers()
    monkeypatch.setattr(slurm.states, "call", answers)
    return answers
