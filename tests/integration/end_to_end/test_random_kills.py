"""A sweep in two stages whose processes are killed at random moments ends in the bytes of one that nobody disturbed.

``REPRO_KILLS`` is the number of kills, 12 unless it is given; a sweep that is done before begins again in another folder.
"""

import contextlib
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from real_runs import results

from repro.runs.state import read_state

KILLS = int(os.environ.get("REPRO_KILLS", "12"))

SPEC = """\
title: Sweeps that are killed
kind: table
common: {dataset: digits, dataset.num_classes: 3, model.width: 4, optim.epochs: 4, optim.batch_size: 10, meta.batch_size: 20}
runs:
  teacher: {set: {method: one_hot}}
  instance: {set: {method: instance_labels, method.learning_rate: 500.0, noise: uniform, noise.rate: 0.4}}
  folds:
    set: {method: class_labels, split: fold, split.num_folds: 3}
    each: {split.fold: [0, 1, 2]}
rows:
  - {label: Meta-Weight-Net, set: {method: meta_weight_net, method.learning_rate: 0.03}}
  - {label: Co-teaching, set: {method: co_teaching, method.forget_rate: 0.5}}
  - {label: MentorNet DD, set: {method: mentornet_dd, method.percentile: 0.5}}
  - {label: Replayed instance labels, set: {method: replay, noise: uniform, noise.rate: 0.4}, inputs: {labels: instance}}
  - {label: Replayed class labels, set: {method: replay, split: full}, inputs: {labels: folds}}
  - {label: Distilled, set: {method: distillation, method.temperature: 8.0}, inputs: {teacher: teacher}}
columns: [{label: Test accuracy}]
repeats: {seed: [0]}
value: {metric: test/accuracy, epoch: last}
"""


def begin(spec: Path, runs: Path, log: Path) -> subprocess.Popen[bytes]:
    # One thread, whatever the machine: another number would change the last bits.
    settings = ("exec.device=cpu", "exec.threads=1", "exec.checkpoint_interval_s=0.05", "exec.heartbeat_s=2", "tracker=none")
    options = [word for value in settings for word in ("--set", value)]
    command = [sys.executable, "-m", "sweeps", "run", str(spec), "--runs", str(runs), "--jobs", "2", *options]
    with log.open("ab") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)


def all_results(runs: Path) -> dict[str, Any]:
    folders = sorted(path.parent for path in runs.glob("*/identity.json"))
    assert {read_state(folder) for folder in folders} == {"done"}
    return {folder.name: results(folder) for folder in folders}


def kill_one(planner: psutil.Process, chance: random.Random) -> bool:
    """Kill the planner, the server of its workers or, mostly, a worker; return whether there was one."""
    with contextlib.suppress(psutil.NoSuchProcess):
        others = planner.children(recursive=True)
        chance.choice([planner, *others, *others, *others]).kill()
        return True
    return False


@pytest.mark.slow
@pytest.mark.timeout(600 + 60 * KILLS)
def test_kills_change_no_byte(tmp_path: Path) -> None:
    spec, log = tmp_path / "killed.yaml", tmp_path / "log"
    spec.write_text(SPEC)
    started = time.monotonic()
    assert begin(spec, tmp_path / "whole", log).wait() == 0, log.read_text()
    whole_s = time.monotonic() - started
    expected = all_results(tmp_path / "whole")
    chance, kills, sweeps = random.Random(int(os.environ.get("REPRO_KILLS_SEED", "0"))), 0, 0
    while kills < KILLS:
        runs, code = tmp_path / f"killed{sweeps}", None
        while code != 0:
            process, hit = begin(spec, runs, log), 0
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(chance.uniform(0.0, whole_s / 2))
                hit += process.poll() is None and kills + hit < KILLS and kill_one(psutil.Process(process.pid), chance)
            kills, code = kills + hit, process.returncode
            # 1 says that a run failed, as one does whose worker was killed; without a kill there is no reason to.
            assert code == 0 or (code in (1, -9) and hit), f"{code} after {hit} kills\n{log.read_text()[-5000:]}"
        assert all_results(runs) == expected
        sweeps += 1
