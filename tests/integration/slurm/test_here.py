"""The clusters that are this machine take the same commands, and need no SLURM."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import filelock
import pytest
from lab import folds, plain

import slurm.here
import slurm.states
from repro.rundir import read_state
from slurm.__main__ import main
from slurm.here import OnOneGpu, visible_gpus

SITE = "kind: {kind}\nwandb: none\nsettings: {{exec.device: cpu, exec.threads: 1}}\n"


@pytest.mark.parametrize("kind", ["local", "debug"])
def test_the_graph_is_trained_here(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (tmp_path / "trial.yaml").write_text(folds(2, seeds=1, epochs=1))
    (tmp_path / "site.yaml").write_text(SITE.format(kind=kind))
    command = ["submit", f"{tmp_path}/trial.yaml", "--cluster", f"{tmp_path}/site.yaml", "--runs", f"{tmp_path}/runs"]
    assert main([*command, "--dry-run"]) == 0
    assert not (tmp_path / "runs" / "plans").exists()
    assert main([*command, "--limit", "1"]) == 0
    assert main(command) == 0
    states = [read_state(path.parent) for path in (tmp_path / "runs").glob("*/identity.json")]
    assert states == ["done"] * 3
    assert "1 of 3 runs done" in capsys.readouterr().out


def test_a_worker_takes_a_free_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def train(overrides: Sequence[str]) -> int:
        seen.append(os.environ["CUDA_VISIBLE_DEVICES"])
        if len(seen) < 3:
            # The GPU is taken as long as the run lives.
            return worker(overrides)
        return 0

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    monkeypatch.setattr(slurm.here, "train", train)
    worker = OnOneGpu(visible_gpus(), tmp_path)
    with filelock.FileLock(tmp_path / "5.lock"):
        assert worker(["x"]) == 0
    assert seen == ["4", "6", "7"]


def test_without_a_terminal_nothing_is_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "trial.yaml").write_text(plain(1, epochs=1))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    command = ["submit", "trial.yaml", "--cluster", "example", "--runs", "runs"]
    assert main([*command, "--dry-run"]) == 0
    written = capsys.readouterr().out
    assert "#SBATCH --gres=gpu:a100:1" in written
    assert "GPU-hours trial:" in written
    assert main([*command, "--yes"]) == 2
    assert "squeue: there is no such command here" in capsys.readouterr().err
    assert not list((tmp_path / "runs" / "slurm").glob("*/batch.json"))
    monkeypatch.setattr(slurm.states, "read_queue", dict)
    assert main(command) == 2
    assert "--yes submits without a question" in capsys.readouterr().err
