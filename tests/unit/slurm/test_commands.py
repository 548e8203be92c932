from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from slurm.__main__ import main

SPEC = {
    "title": "Labels on digits",
    "kind": "table",
    "common": {"dataset": "digits", "model": "digits_cnn", "method": "one_hot", "split": "full"},
    "rows": [{"label": "Plain"}],
    "repeats": {"seed": [0, 1, 2]},
    "value": {"metric": "test/accuracy", "epoch": "last"},
}
SITE = {"partition": "gpu", "time": "01:00:00", "memory": "3G", "gpu": "a100", "cpus": 4, "runs_per_gpu": 2, "setup": ["module load cuda"]}


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    (tmp_path / "trial.yaml").write_text(yaml.dump(SPEC))
    (tmp_path / "a site.yaml").write_text(yaml.dump(SITE))
    return [f"{tmp_path}/trial.yaml", "--cluster", f"{tmp_path}/a site.yaml", "--runs", f"{tmp_path}/some runs"]


def test_a_dry_run_needs_no_slurm_and_leaves_nothing(
    tmp_path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["submit", *words, "--dry-run", "--seeds", "0,1,2"]) == 0
    told = capsys.readouterr()
    for line in (
        "3 of 3 runs to submit to a site, with 1 calls of sbatch",
        "#SBATCH --gres=gpu:a100:1",
        "#SBATCH --mem=6G",
        "#SBATCH --ntasks-per-node=2",
        "#SBATCH --cpus-per-task=2",
        "#SBATCH --array=0-1%2",
        "module load cuda",
        f"export REPRO_RUNS='{tmp_path}/some runs'",
    ):
        assert f"\n{line}\n" in told.out
    assert "-hours" in told.out
    assert "scontrol: there is no such command here" in told.err
    assert not (tmp_path / "some runs").exists()
    assert main(["submit", *words, "--yes"]) == 2
    assert "error: scontrol: there is no such command here" in capsys.readouterr().err


def test_somebody_is_asked(words: list[str], answers: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", *words]) == 2
    assert "--yes submits without a question" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: "n")
    assert main(["submit", *words, "--max-jobs", "1"]) == 0
    told = capsys.readouterr().out
    assert "not submitted, 1 runs: the queue has as many jobs as max_jobs allows, 1" in told
    assert "submitted;" not in told


@pytest.mark.parametrize("command", ["submit", "doctor"])
def test_a_mistake_is_told_in_one_process_of_its_own(words: list[str], command: str) -> None:
    call = [sys.executable, "-m", "slurm", command, *(words[:1] if command == "submit" else []), "--cluster", "exampel"]
    result = subprocess.run(call, capture_output=True, text=True, check=False)
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
    assert "there is no cluster 'exampel'. Did you mean 'example'?" in result.stderr


def test_a_cluster_must_be_named(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("REPRO_CLUSTER", raising=False)
    assert main(["submit", words[0]]) == 2
    assert "name a cluster: --cluster NAME" in capsys.readouterr().err
