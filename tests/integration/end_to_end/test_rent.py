"""The rehearsal of the command for a rented GPU, on a CPU with digits: it is killed, it runs out of time, it is asked to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch

from analysis.__main__ import main as analysis_command
from repro.files import read_json
from repro.rundir import read_metrics, read_state

ROOT = Path(__file__).resolve().parents[3]

SPEC = """\
title: A rehearsal
kind: table
common: {dataset: digits, model: digits_cnn, model.width: 4}
runs:
  fold:
    set: {method: class_labels, split: fold, split.num_folds: 3}
    each: {split.fold: [1]}
rows:
  - {label: Long, set: {method: one_hot, split: full, optim.epochs: 20000}}
  - {label: Replay, set: {method: replay, split: full, optim.epochs: 2}, inputs: {labels: fold}}
  - {label: Not wanted, set: {method: label_smoothing, split: full, optim.epochs: 2}}
columns:
  - {label: A}
repeats: {seed: [0]}
value: {metric: test/accuracy, epoch: last}
"""

RECORD = ("metrics.jsonl", "status.json", "provenance.json", "identity.json")


def command(folder: Path, minutes: str) -> list[str]:
    return [
        *(sys.executable, str(ROOT / "benchmarks" / "rent.py"), "--minutes", minutes, "--spec", str(folder / "tried.yaml")),
        *("--device", "cpu", "--skip", "numerics,measure", "--jobs", "2", "--runs", str(folder / "runs"), "--out", str(folder / "rent")),
        *("--overrides", "exec.threads=1", "tracker=none", "exec.checkpoint_interval_s=0.2", "exec.heartbeat_s=1"),
    ]


def begin(folder: Path, minutes: str, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen([*command(folder, minutes), *more], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def long_run(folder: Path) -> Path:
    (found,) = (folder / "runs").glob("one_hot-*")
    return found


def epochs(folder: Path) -> int:
    return max((row["epoch"] for found in (folder / "runs").glob("one_hot-*") for row in read_metrics(found)), default=0)


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + 400
    while not condition():
        assert process is None or process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def load(checkpoint: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(checkpoint, weights_only=True)
    return state


def packed(folder: Path) -> list[str]:
    """The names in the archive, which has records of runs and nothing of their weights and labels."""
    with tarfile.open(folder / "rent" / "evidence.tar.gz") as archive:
        names = archive.getnames()
    assert {Path(name).suffix for name in names} <= {".json", ".jsonl", ".log"}
    assert not [name for name in names if "/labels/" in name]
    return names


def test_killed_then_out_of_time_then_stopped_and_nothing_is_lost(tmp_path: Path) -> None:
    (tmp_path / "tried.yaml").write_text(SPEC)
    # The machine is taken away in the middle.
    killed = begin(tmp_path, "9", "--runs-first", "Replay")
    wait_until(lambda: [read_state(folder) for folder in (tmp_path / "runs").glob("replay-*")] == ["done"], killed)
    wait_until(lambda: epochs(tmp_path) >= 20 and (long_run(tmp_path) / "checkpoint.pt").exists(), killed)
    for process in [*psutil.Process(killed.pid).children(recursive=True), psutil.Process(killed.pid)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    killed.communicate()
    summary = read_json(tmp_path / "rent" / "summary.json")
    assert (summary["state"], summary["training"]["state"]) == ("running", "running")
    assert summary["machine"]["torch"]
    assert "training: begins" in (tmp_path / "rent" / "rent.log").read_text()
    wait_until(lambda: read_state(long_run(tmp_path)) == "lost")
    (fold,) = (tmp_path / "runs").glob("class_labels-*")
    assert (fold / "model.safetensors").exists()
    (replay,) = (tmp_path / "runs").glob("replay-*")
    (checkpoint,) = long_run(tmp_path).glob("checkpoint.pt")

    # The time is over, perhaps before the run has gone on, if the machine is busy.
    saved = load(checkpoint)["epoch"]
    again = subprocess.run(command(tmp_path, "0.3"), cwd=tmp_path, capture_output=True, text=True, timeout=400, check=False)
    assert again.returncode == 0, again.stdout + again.stderr
    summary = read_json(tmp_path / "rent" / "summary.json")
    assert summary["state"] == "ended"
    assert summary["training"]["state"] in ("time over", "left out: no time")
    assert {fold.name, replay.name} <= set(summary["progress"]["done"])
    assert load(checkpoint)["epoch"] >= saved
    names = packed(tmp_path)
    assert {f"evidence/unfinished/{long_run(tmp_path).name}/{name}" for name in RECORD} <= set(names)
    assert {f"evidence/inputs/{fold.name}/final.json", f"evidence/runs/{replay.name}/final.json"} <= set(names)
    assert {"evidence/runs/plans/tried.json", "evidence/call/rent.log", "evidence/call/summary.json"} <= set(names)
    assert (tmp_path / "rent" / "evidence.tar.gz").stat().st_size == summary["evidence"]["bytes"] < 100_000

    # At home, what came by mail becomes evidence.
    with tarfile.open(tmp_path / "rent" / "evidence.tar.gz") as archive:
        archive.extractall(tmp_path / "home", filter="data")
    mailed = ["--runs", str(tmp_path / "home" / "evidence" / "runs")]
    assert analysis_command(["evidence", str(tmp_path / "tried.yaml"), *mailed, "--out", str(tmp_path / "pages")]) == 0
    assert (tmp_path / "pages" / "evidence" / replay.name / "final.json").read_bytes() == (replay / "final.json").read_bytes()

    # Whoever rents it stops it.
    reached = load(checkpoint)["epoch"]
    stopped = begin(tmp_path, "9")
    wait_until(lambda: epochs(tmp_path) >= reached + 20, stopped)
    os.kill(stopped.pid, signal.SIGTERM)
    written, _ = stopped.communicate(timeout=400)
    assert stopped.returncode == 128 + signal.SIGTERM, written
    rows = read_metrics(long_run(tmp_path))
    assert [row["epoch"] for row in rows] == list(range(len(rows)))
    assert load(checkpoint)["epoch"] >= reached + 20
    assert read_state(long_run(tmp_path)) == "preempted"
    summary = read_json(tmp_path / "rent" / "summary.json")
    assert (summary["state"], summary["training"]["state"], summary["wrong"]) == ("stopped", "stopped", False)
    assert len(list((tmp_path / "rent" / "earlier").glob("summary-*.json"))) == 2
    assert [item["runs_left"] for item in summary["projection"] if item["kind"] == "one_hot digits digits_cnn full"] == [1]
    packed(tmp_path)
