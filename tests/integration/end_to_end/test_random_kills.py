"""A sweep in two stages whose planner, server and workers are killed at random moments ends in the bytes of one that nobody disturbed.

``REPRO_KILLS`` is the number of kills, 30 unless it is given; a sweep that is done before begins anew in another folder.
"""

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from real_runs import lasting_rows

from repro.runs.state import read_state

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
#: Two more that nothing announces: while the sweep plans and imports, and any.
MOMENTS = (*FILES, "start", "any")
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
        found[f"{folder.name}/metrics.jsonl"] = json.dumps(lasting_rows(folder)).encode()
    return found


def living(planner: psutil.Process) -> dict[str, list[psutil.Process]]:
    """Return the processes of a sweep that live, by their role."""
    found: dict[str, list[psutil.Process]] = {"planner": [planner], "server": [], "worker": []}
    with contextlib.suppress(psutil.NoSuchProcess):
        # At its very start a child still looks like its parent.
        found["server"] = [child for child in planner.children() if "forkserver" in " ".join(child.cmdline())]
        found["worker"] = [worker for server in found["server"] for worker in server.children()]
    return found


def changes(runs: Path, moment: str) -> dict[Path, int]:
    """Return when the files that a moment is about were changed."""
    found = {}
    for name in FILES[moment]:
        for path in runs.glob(f"*-*/{name}"):
            with contextlib.suppress(FileNotFoundError):
                found[path] = path.stat().st_mtime_ns
    return found


class Killer:
    """Kills one victim after the other while a sweep runs, and counts."""

    def __init__(self, chance: random.Random) -> None:
        self.chance, self.start_s = chance, 1.0
        self.counts: Counter[tuple[str, str]] = Counter()
        self.known: set[psutil.Process] = set()

    @property
    def kills(self) -> int:
        return self.counts.total()

    def session(self, process: subprocess.Popen[bytes], runs: Path) -> int:
        """Kill until the planner has ended, by itself or by us; return how many were hit."""
        before, planner = self.kills, psutil.Process(process.pid)
        while process.poll() is None and self.kills < KILLS:
            victim = self.chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
            moment = self.chance.choice(MOMENTS)
            old = changes(runs, moment) if moment in FILES else {}
            end = time.monotonic() + self.chance.uniform(0.0, self.start_s if moment == "start" and self.kills == before else 2.0)
            while process.poll() is None and (changes(runs, moment) == old if moment in FILES else time.monotonic() < end):
                time.sleep(POLL_S)
            if moment in FILES:
                time.sleep(self.chance.uniform(0.0, 0.03))
            family = living(planner)
            self.known.update(*family.values())
            if family[victim] and process.poll() is None:
                with contextlib.suppress(psutil.NoSuchProcess):
                    self.chance.choice(family[victim]).kill()
                    self.counts[victim, moment] += 1
        return self.kills - before


@pytest.fixture
def killer() -> Iterator[Killer]:
    made = Killer(random.Random(int(os.environ.get("REPRO_KILLS_SEED", "0"))))
    yield made
    for process in made.known:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


@pytest.mark.slow
@pytest.mark.timeout(600 + 60 * KILLS)
def test_kills_change_no_byte(tmp_path: Path, killer: Killer, capsys: pytest.CaptureFixture[str]) -> None:
    spec = tmp_path / "killed.yaml"
    spec.write_text(SPEC)
    log = tmp_path / "log"
    whole = begin(spec, tmp_path / "whole", log)
    started = time.monotonic()
    while not living(psutil.Process(whole.pid))["worker"]:
        assert whole.poll() is None, log.read_text()
        time.sleep(POLL_S)
    killer.start_s = time.monotonic() - started
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
    with capsys.disabled():
        print(f"\n{killer.kills} kills in {sessions} calls of {sweeps_done} sweeps of {len(list(runs.glob('*/identity.json')))} runs")
        print({" ".join(pair): count for pair, count in sorted(killer.counts.items())})
    assert {victim for victim, _ in killer.counts} == set(WEIGHTS)
