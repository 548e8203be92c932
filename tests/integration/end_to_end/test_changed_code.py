"""Code that is edited between two calls of the command."""

import shutil
import subprocess
from pathlib import Path

from commands import python
from real_runs import tiny

import repro
from repro.training.run import execute

RUN = ("method=one_hot", "dataset=digits", "seed=0", "model.width=4", "optim.epochs=1", "tracker=none", "exec.threads=1")


def test_results_of_a_different_version_are_refused_and_comments_are_none(tmp_path: Path) -> None:
    folder = execute(tiny(tmp_path / "runs"))
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    # Another place does not matter either.
    shutil.copytree(Path(repro.__file__).parent, tmp_path / "repro", ignore=shutil.ignore_patterns("__pycache__"))
    method, other = tmp_path / "repro/methods/fixed/focal.py", tmp_path / "repro/metric_names.py"

    def train() -> subprocess.CompletedProcess[str]:
        return python("-m", "repro", *RUN, "paths.runs=runs", cwd=tmp_path)

    method.write_text("# A comment.\n" + method.read_text())
    other.write_text(other.read_text() + "\nUNUSED = 1\n")
    accepted = train()
    assert (accepted.returncode, "is done already" in accepted.stderr) == (0, True), accepted.stderr
    method.write_text(method.read_text() + "\nFACTOR = 2.0\n")
    refused = train()
    assert (refused.returncode, "different version of the code" in refused.stderr) == (2, True)
    assert "Traceback" not in refused.stderr
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
