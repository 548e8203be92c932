"""The commands that submit and that look are small: what needs PyTorch is done by another process, which ends."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from lab import CLUSTER, SPEC, Lab, folds
from test_tuning_by_jobs import TUNED

#: Prints the exit code of a command and whether this process has imported PyTorch.
CALL = "import sys; from slurm.__main__ import main; print('ended with', main(sys.argv[1:]), 'torch' in sys.modules)"


def ended(folder: Path, site: Path, runs: Path, command: str, *more: str) -> str:
    words = [command, *more, "--cluster", str(site), "--runs", str(runs)]
    called = subprocess.run([sys.executable, "-c", CALL, *words], capture_output=True, text=True, check=True)
    assert called.stderr == "" or "there is no such command here" in called.stderr, called.stderr
    return called.stdout


def test_a_dry_run_and_a_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing counted before; the hours, the disk and a mistake come from the other process."""
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    spec, site, runs = (tmp_path / name for name in ("trial.yaml", "site.yaml", "runs"))
    spec.write_text(folds(2, seeds=1, epochs=1))
    site.write_text("".join(f"{key}: {value}\n" for key, value in CLUSTER.items()))
    told = ended(tmp_path, site, runs, "submit", str(spec), "--dry-run")
    for said in ("3 runs on cluster site: 3 missing", "GPU-hours trial: ", " more are needed, ", "#SBATCH --array=0-1%2"):
        assert said in told
    assert told.index("GPU-hours") < told.index("#SBATCH")
    assert told.endswith("ended with 0 False\n")
    assert ended(tmp_path, site, runs, "status").endswith("ended with 0 False\n")
    spec.write_text(SPEC.format(runs=TUNED, seeds=[0], epochs=1))
    told = ended(tmp_path, site, runs, "tune", str(spec), "--dry-run")
    assert "2 runs on cluster site: 2 missing" in told
    assert told.endswith("ended with 0 False\n")


@pytest.mark.slurm
def test_all_of_it_on_a_slurm(lab: Callable[..., Lab]) -> None:
    trial = lab(folds(2, seeds=1, epochs=1), time_factor="2")
    for command, *more in (["submit", str(trial.spec), "--yes"], ["status", "trial"], ["summary"], ["cancel", "trial"]):
        assert ended(trial.folder, trial.site, trial.runs, command, *more).endswith("ended with 0 False\n")
    trial.wait_until_over()
    assert set(trial.counts()) <= {"cancelled", "done"}
