"""A box with a folder of runs: submit, disturb, and look at what became of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from box import Box, wait_until

from repro.config.compose import compose
from repro.files import read_json
from repro.training.run import execute
from slurm.__main__ import main
from slurm.jobs.states import JobStates, RunView
from sweeps.plan.plan import Plan, make_plan
from sweeps.spec.load import PAPER, load_spec

SPEC = """
title: Labels on digits
kind: table
caption: A table.
common: {{dataset: digits, model: digits_cnn, optim.epochs: {epochs}}}
{runs}
columns: [{{label: Digits}}]
repeats: {{seed: {seeds}}}
value: {{metric: test/accuracy, epoch: last, scale: percent, decimals: 1, better: higher}}
cell: {{statistic: mean, spread: sample_sd}}
"""
FOLDS = """
runs:
  folds:
    set: {{method: instance_labels, split: fold, method.learning_rate: 50.0, split.num_folds: {folds}}}
    each: {{split.fold: {numbers}}}
rows: [{{label: Ours, set: {{method: replay, split: full}}, inputs: {{labels: folds}}}}]
"""
PLAIN = "rows: [{label: Plain, set: {method: instance_labels, split: fold, split.fold: 0, method.learning_rate: 50.0}}]"

CLUSTER = {
    "kind": "slurm",
    "partition": "main",
    "cpus": "1",
    "time": '{default: "00:30:00"}',
    "memory": "{default: 3G}",
    "warning_s": "30",
    "wandb": "none",
    "check_data": "false",
    "settings": "{exec.device: cpu, exec.threads: 1, exec.heartbeat_s: 0.5, exec.checkpoint_interval_s: 0.3}",
}

#: What does not depend on how often a run was interrupted.
RESULTS = ("final.json", "model.safetensors", "labels/instances.f16")


def folds(number: int, *, seeds: int, epochs: int) -> str:
    """Return the spec of so many folds, which learn labels, and the final that replays them, for each of so many seeds."""
    return SPEC.format(runs=FOLDS.format(folds=number, numbers=list(range(number))), seeds=list(range(seeds)), epochs=epochs)


def plain(number: int, *, epochs: int) -> str:
    """Return the spec of so many runs that read nothing."""
    return SPEC.format(runs=PLAIN, seeds=list(range(number)), epochs=epochs)


class Lab:
    """``spec`` is the text of the one spec in it."""

    def __init__(self, box: Box, folder: Path, spec: str, **cluster: str) -> None:
        self.box = box
        self.folder = folder
        self.runs = folder / "runs"
        self.spec = folder / "trial.yaml"
        self.spec.write_text(spec)
        self.site = folder / "site.yaml"
        self.write_site(**cluster)
        self.plan: Plan = make_plan([load_spec(str(self.spec), PAPER)], self.runs)
        self.ids = list(self.plan.runs)

    def write_site(self, **changed: str) -> None:
        self.site.write_text("".join(f"{key}: {value}\n" for key, value in (CLUSTER | changed).items()))

    def call(self, *arguments: str) -> int:
        command, *more = arguments
        return main([command, "--cluster", str(self.site), "--runs", str(self.runs), *more])

    def submit(self, *more: str) -> int:
        return self.call("submit", str(self.spec), "--yes", *more)

    def begun(self, *, epoch: int = -1) -> list[str]:
        """Submit everything, wait until the first run has completed ``epoch``, and return the ids of the runs."""
        assert self.submit() == 0
        wait_until(lambda: self.epoch(self.ids[0]) >= epoch, 120.0, f"epoch {epoch} of {self.ids[0]}")
        return self.ids

    # -- looking ---------------------------------------------------------------------------------------------------------------

    def views(self) -> dict[str, RunView]:
        return JobStates(self.runs).views(self.ids, {name: run.inputs for name, run in self.plan.runs.items()})

    def states(self) -> dict[str, str]:
        return {name: view.state for name, view in self.views().items()}

    def counts(self) -> dict[str, int]:
        found = list(self.states().values())
        return {state: found.count(state) for state in dict.fromkeys(sorted(found))}

    def status(self, name: str) -> dict[str, Any]:
        return dict(read_json(self.runs / name / "status.json"))

    def epoch(self, name: str) -> int:
        path = self.runs / name / "metrics.jsonl"
        return path.read_text().count("\n") - 1 if path.exists() else -1

    def wait(self, condition: Callable[[], object], timeout_s: float = 240.0) -> None:
        wait_until(condition, timeout_s, "what was asked for")

    def wait_until_over(self, timeout_s: float = 400.0) -> None:
        wait_until(lambda: not self.box.jobs(), timeout_s, "the end of all jobs")

    # -- judging ---------------------------------------------------------------------------------------------------------------

    def assert_done(self, *, attempts: Sequence[int] = (1,), timeout_s: float = 400.0) -> None:
        """In the end everything is done, in one of so many attempts, and each result is that of an undisturbed run, to the byte."""
        self.wait_until_over(timeout_s)
        assert self.counts() == {"done": len(self.ids)}, [view for view in self.views().values() if view.state != "done"]
        self.assert_same(self.ids)
        for name in self.ids:
            assert self.status(name)["attempt"] in attempts, self.status(name)
            rows = (self.runs / name / "metrics.jsonl").read_text().splitlines()
            assert [json.loads(row)["epoch"] for row in rows] == list(range(self.plan.runs[name].epochs + 1))

    def assert_same(self, names: Sequence[str]) -> None:
        reference = self.folder / "undisturbed"
        for name in self.ids:
            if name in names or any(name in self.plan.runs[other].inputs for other in names):
                execute(compose([*self.plan.runs[name].overrides, *QUIET, f"paths.runs={reference}"]))
        for name in names:
            for file in RESULTS:
                if (reference / name / file).exists():
                    assert (self.runs / name / file).read_bytes() == (reference / name / file).read_bytes(), (name, file)

    def process(self, name: str) -> int:
        return int(self.status(name)["pid"])


QUIET = ("tracker=none", "exec.device=cpu", "exec.threads=1")


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return not Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].startswith(" Z")
