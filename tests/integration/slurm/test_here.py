"""The clusters that are this machine take the same commands, and need no SLURM."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import filelock
import pytest
from lab import folds, plain

import slurm.here
import slurm.jobs.states
import sweeps.local.gpus
from repro.runs.folder import GPU_SHARE
from repro.runs.state import read_state
from slurm.__main__ import main
from slurm.cluster import load_cluster
from slurm.here import run_here
from sweeps.local.gpus import OnOneGpu, visible_gpus
from sweeps.local.progress import Outcome
from sweeps.plan.plan import Plan

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


@pytest.mark.parametrize(("kind", "devices", "cuda"), [("local", "0,1", True), ("local", "", False), ("debug", "0,1", False)])
def test_a_worker_on_a_gpu_trains_on_cuda(tmp_path: Path, kind: str, devices: str, cuda: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A debugger's run takes what ``python -m repro`` would."""
    seen: list[tuple[str, ...]] = []

    def note(plan: Plan, **options: Any) -> Outcome:
        seen.extend(run.overrides for run in plan.runs.values())
        return Outcome()

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices)
    monkeypatch.setattr(slurm.here, "run_missing", note)
    monkeypatch.setattr(slurm.here, "run_in_this_process", note)
    (tmp_path / "trial.yaml").write_text(plain(2, epochs=1))
    (tmp_path / "site.yaml").write_text(f"kind: {kind}\n")
    assert main(["submit", f"{tmp_path}/trial.yaml", "--cluster", f"{tmp_path}/site.yaml", "--runs", f"{tmp_path}/runs"]) == 0
    assert [("exec.device=cuda" in overrides) for overrides in seen] == [cuda] * 2


@pytest.mark.parametrize(("given", "order"), [(None, "PCI_BUS_ID"), ("1,0", "FASTEST_FIRST")])
def test_gpus_are_numbered_as_nvidia_smi_does(tmp_path: Path, given: str | None, order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where its numbers are used; somebody else's are in the order of the one who gave them."""
    seen: list[str | None] = []

    def note(plan: Plan, **options: Any) -> Outcome:
        seen.append(os.environ.get("CUDA_DEVICE_ORDER"))
        return Outcome()

    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 0\necho 1\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    monkeypatch.setattr(slurm.here, "run_missing", note)
    (tmp_path / "site.yaml").write_text("kind: local\n")
    run_here(Plan(tmp_path / "runs", (), {}), load_cluster(str(tmp_path / "site.yaml")), retry=False, limit=None)
    assert seen == [order]


def test_a_worker_takes_a_free_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def train(overrides: Sequence[str]) -> int:
        seen.append(os.environ["CUDA_VISIBLE_DEVICES"])
        assert os.environ[GPU_SHARE] == "1", "whatever trains on the other ones"
        if len(seen) < 3:
            # The GPU is taken as long as the run lives.
            return worker(overrides)
        return 0

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    monkeypatch.setenv(GPU_SHARE, "4")
    monkeypatch.setattr(sweeps.local.gpus, "train", train)
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
    assert "export CUDA_DEVICE_ORDER=PCI_BUS_ID" in written
    assert "GPU-hours trial:" in written
    assert re.search(r"^GPU: A100 SXM 80GB \(as \w+\.yaml says; ", written, re.MULTILINE)
    assert main([*command, "--yes"]) == 2
    assert "scontrol: there is no such command here" in capsys.readouterr().err
    assert not list((tmp_path / "runs" / "slurm").glob("*/batch.json"))
    monkeypatch.setattr(slurm.jobs.states, "read_queue", dict)
    monkeypatch.setattr(slurm.jobs.states, "this_cluster", lambda: "there")
    assert main(command) == 2
    assert "--yes submits without a question" in capsys.readouterr().err


def test_a_gpu_without_known_peaks_is_said_to_have_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "trial.yaml").write_text(plain(1, epochs=1))
    site = "kind: slurm\npartition: gpu\ngpu: titan\ntime: {default: '1:00:00'}\nmemory: {default: 1G}\n"
    (tmp_path / "site.yaml").write_text(site)
    command = ["submit", f"{tmp_path}/trial.yaml", "--cluster", f"{tmp_path}/site.yaml", "--runs", f"{tmp_path}/runs"]
    assert main([*command, "--dry-run"]) == 0
    written = capsys.readouterr().out
    assert f"{tmp_path}/site.yaml:3: the peaks of gpu: titan are not known, so another is planned for. Known: a100, h100, " in written
    assert "GPU: A100 SXM 80GB (assumed; gpu: in site.yaml names another; " in written


@pytest.mark.parametrize(
    "site",
    ["kind: local\n", "kind: slurm\npartition: cpu\ngpu: none\ntime: {default: '1:00:00'}\nmemory: {default: 1G}\n"],
)
def test_without_gpus_no_gpu_is_planned_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], site: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (tmp_path / "trial.yaml").write_text(plain(2, epochs=1))
    (tmp_path / "site.yaml").write_text(site)
    command = ["submit", f"{tmp_path}/trial.yaml", "--cluster", f"{tmp_path}/site.yaml", "--runs", f"{tmp_path}/runs", "--dry-run"]
    assert main(command) == 0
    written = capsys.readouterr().out
    assert "CPU-hours trial: no estimate\nno estimate for 2 runs: none of the kind is done on a CPU\n" in written
    assert "GPU" not in written
