"""A sweep in two stages whose planner, server and workers are killed at random moments ends in the bytes of one that nobody disturbed.

``REPRO_KILLS`` is the number of kills, 30 unless it is given; a sweep that is done before begins anew in another folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from repro.rundir import read_metrics, read_state

KILLS = int(os.environ.get("REPRO_KILLS", "30"))

SPEC = """\
title: Sweeps that are killed
kind: table
common:
  dataset: digits
  dataset.num_classes: 3
  model.width: 4
  noise: uniform
  noise.rate: 0.4
  optim.epochs: 4
  optim.batch_size: 10
  meta.batch_size: 20
runs:
  teacher: {set: {method: one_hot}}
  instance: {set: {method: instance_labels, method.learning_rate: 500.0}}
  folds:
    set: {method: class_labels, split: fold, split.num_folds: 3, noise: none}
    each: {split.fold: [0, 1, 2]}
rows:
  - {label: Meta-Weight-Net, set: {method: meta_weight_net, method.learning_rate: 0.03}}
  - {label: Data parameters, set: {method: data_parameters, method.learning_rate: 20.0}}
  - {label: Co-teaching, set: {method: co_teaching, method.forget_rate: 0.5}}
  - {label: MentorNet DD, set: {method: mentornet_dd, method.percentile: 0.5}}
  - {label: L2RW, set: {method: l2rw}}
  - {label: Class labels, set: {method: class_labels, method.learning_rate: 3.0}}
  - {label: Replayed instance labels, set: {method: replay}, inputs: {labels: instance}}
  - {label: Replayed class labels, set: {method: replay, split: full}, inputs: {labels: folds}}
  - {label: Distilled, set: {method: distillation, method.temperature: 8.0}, inputs: {teacher: teacher}}
columns: [{label: Test accuracy}]
repeats: {seed: [0]}
value: {metric: test/accuracy, epoch: last}
"""

#: What a kill waits for: a file of a run that appears or changes. After it comes a short random delay.
FILES = {
    "train": ("metrics.jsonl",),
    "checkpoint": ("checkpoint.pt", "checkpoint.previous.pt", ".checkpoint.new.tmp"),
    "finish": ("model.safetensors", "final.json", "cost.json"),
}
#: Victims with the moments at which they are killed; ``any`` is a moment that nothing announces.
MOMENTS = {
    "planner": ("plan", "import", "train", "checkpoint", "finish", "any"),
    "server": ("import", "train", "checkpoint", "finish", "any"),
    "worker": ("import", "train", "checkpoint", "finish", "any"),
}
#: How often each is chosen.
WEIGHTS = {"planner": 2, "server": 2, "worker": 6}

POLL_S = 0.002


def settings() -> list[str]:
    # One thread, whatever the machine: another number would change the last bits.
    values = ("exec.device=cpu", "exec.threads=1", "exec.checkpoint_interval_s=0.05", "exec.heartbeat_s=2", "tracker=none")
    return [word for value in values for word in ("--set", value)]


def begin(spec: Path, runs: Path, log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "sweeps", "run", str(spec), "--runs", str(runs), "--jobs", "2", *settings()]
    with log.open("ab") as file:
        return subprocess.Popen(command, cwd=spec.parent, stdout=file, stderr=file, start_new_session=True)


def results(runs: Path) -> dict[str, bytes]:
    """Everything of the runs that must not depend on what happened to them."""
    found = {}
    for folder in sorted(path.parent for path in runs.glob("*/identity.json")):
        assert read_state(folder) == "done", folder
        for path in [folder / "final.json", folder / "model.safetensors", *sorted(folder.glob("labels/*"))]:
            found[path.relative_to(runs).as_posix()] = path.read_bytes()
        rows = [{name: value for name, value in row.items() if not name.startswith("time/")} for row in read_metrics(folder)]
        found[f"{folder.name}/metrics.jsonl"] = json.dumps(rows).encode()
    return found


@dataclass
class Family:
    """The server and the workers of one planner, also when what started them has been killed."""

    planner: psutil.Process
    roles: dict[psutil.Process, str] = field(default_factory=dict)

    def look(self) -> None:
        """Find the processes below those that are known."""
        known = [self.planner, *self.roles]
        for parent in known:
            with contextlib.suppress(psutil.NoSuchProcess):
                for child in parent.children():
                    if child not in self.roles:
                        self._add(child, parent)

    def _add(self, child: psutil.Process, parent: psutil.Process) -> None:
        if self.roles.get(parent) == "server":
            self.roles[child] = "worker"
        elif parent == self.planner and "forkserver" in " ".join(child.cmdline()):
            # Only now: at its very start a child still looks like its parent.
            self.roles[child] = "server"

    def living(self, role: str) -> list[psutil.Process]:
        if role == "planner":
            return [self.planner] if alive(self.planner) else []
        return [process for process, known in self.roles.items() if known == role and alive(process)]


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def holder(folder: Path) -> int:
    """The process that trains a run, as the run says; 0 when it does not."""
    try:
        return int(json.loads((folder / "status.json").read_text())["pid"])
    except (OSError, ValueError, KeyError):
        return 0


def changed(runs: Path, moment: str, seen: dict[Path, int]) -> Path | None:
    """Return the folder of a run whose files have changed as the moment wants it since the last look."""
    found = None
    for folder in runs.glob("*-*"):
        for name in FILES[moment]:
            path = folder / name
            try:
                now = path.stat().st_mtime_ns
            except (FileNotFoundError, NotADirectoryError):
                continue
            if seen.get(path) != now:
                seen[path] = now
                found = folder
    return found


class Killer:
    """Kills one victim after the other while a sweep runs, and counts."""

    def __init__(self, chance: random.Random, planning_s: float) -> None:
        self.chance = chance
        self.planning_s = planning_s
        self.counts: Counter[tuple[str, str]] = Counter()
        self.families: list[Family] = []

    @property
    def kills(self) -> int:
        return self.counts.total()

    def session(self, process: subprocess.Popen[bytes], runs: Path) -> int:
        """Kill until the planner has ended, by itself or by us; return how many were hit."""
        before = self.kills
        family = Family(psutil.Process(process.pid))
        self.families.append(family)
        first = True
        while process.poll() is None and self.kills < KILLS:
            victim = self.chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
            moment = self.chance.choice([known for known in MOMENTS[victim] if first or known != "plan"])
            target = self._wait(process, family, runs, victim, moment)
            if target is not None and alive(target):
                target.kill()
                self.counts[victim, moment] += 1
                # Readable while it goes on, which takes long.
                (runs.parent / "counts.json").write_text(json.dumps({" ".join(pair): count for pair, count in sorted(self.counts.items())}))
            first = False
        return self.kills - before

    def _wait(self, process: subprocess.Popen[bytes], family: Family, runs: Path, victim: str, moment: str) -> psutil.Process | None:
        """Wait for the moment, and return the process to be killed, if there is one."""
        if moment in ("plan", "any"):
            self._sleep(process, self.chance.uniform(0.0, self.planning_s if moment == "plan" else 2.0))
            family.look()
            return self._one_of(family.living(victim))
        seen: dict[Path, int] = {}
        if moment in FILES:
            changed(runs, moment, seen)
        else:
            family.look()
        others = set(family.roles)
        while process.poll() is None:
            if moment in FILES:
                folder = changed(runs, moment, seen)
                if folder is not None:
                    family.look()
                    time.sleep(self.chance.uniform(0.0, 0.03))
                    pid = holder(folder)
                    workers = [one for one in family.living("worker") if one.pid == pid]
                    return self._one_of(workers if victim == "worker" else family.living(victim))
            else:
                family.look()
                new = [one for one in family.roles if one not in others and family.roles[one] in ("server", "worker")]
                if new:
                    time.sleep(self.chance.uniform(0.0, 0.3))
                    return self._one_of([one for one in new if family.roles[one] == victim] or family.living(victim))
            time.sleep(POLL_S)
        return None

    def _sleep(self, process: subprocess.Popen[bytes], seconds: float) -> None:
        end = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < end:
            time.sleep(POLL_S)

    def _one_of(self, candidates: list[psutil.Process]) -> psutil.Process | None:
        return self.chance.choice(candidates) if candidates else None

    def end(self) -> None:
        """Kill what is left, when the test fails."""
        for family in self.families:
            for process in [family.planner, *family.roles]:
                if alive(process):
                    process.kill()


@pytest.fixture
def killer() -> Iterator[Killer]:
    made = Killer(random.Random(int(os.environ.get("REPRO_KILLS_SEED", "0"))), 1.0)
    yield made
    made.end()


@pytest.mark.slow
@pytest.mark.timeout(600 + 60 * KILLS)
def test_kills_change_no_byte(tmp_path: Path, killer: Killer, capsys: pytest.CaptureFixture[str]) -> None:
    spec = tmp_path / "killed.yaml"
    spec.write_text(SPEC)
    log = tmp_path / "log"
    whole = begin(spec, tmp_path / "whole", log)
    family, started = Family(psutil.Process(whole.pid)), time.monotonic()
    while not family.living("worker"):
        assert whole.poll() is None, log.read_text()
        family.look()
        time.sleep(POLL_S)
    killer.planning_s = time.monotonic() - started
    assert whole.wait() == 0, log.read_text()
    expected = results(tmp_path / "whole")

    sweeps_done = sessions = 0
    while killer.kills < KILLS:
        runs = tmp_path / f"killed{sweeps_done}"
        code = None
        while code != 0:
            process = begin(spec, runs, log)
            sessions += 1
            hit = killer.session(process, runs)
            code = process.wait()
            # 1 says that a run failed, as one does whose worker was killed; without a kill there is no reason to.
            assert code == 0 or (code in (1, -9) and hit), f"{code} after {hit} kills\n{log.read_text()[-5000:]}"
        found = results(runs)
        assert found.keys() == expected.keys()
        assert [name for name in found if found[name] != expected[name]] == []
        sweeps_done += 1
    assert "Traceback" not in log.read_text()
    by = {index: Counter[str]() for index in (0, 1)}
    for pair, count in killer.counts.items():
        for index in by:
            by[index][pair[index]] += count
    with capsys.disabled():
        print(f"\n{killer.kills} kills in {sessions} calls of {sweeps_done} sweeps of {len(list(runs.glob('*/identity.json')))} runs")
        print("victims:", dict(by[0]), "moments:", dict(by[1]))
        print("both:", {" ".join(pair): count for pair, count in sorted(killer.counts.items())})
    assert set(by[0]) == set(WEIGHTS)
