"""One folder of runs for two users, two clusters, or a cluster and a laptop: whoever comes second waits or leaves, and does no harm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from box import Box, wait_until
from lab import Lab, plain
from second_user import NOBODY, needs_root

from sweeps.plan import override

pytestmark = pytest.mark.slurm


def notes(lab: Lab) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in lab.runs.glob("slurm/*/jobs.json")}


def as_nobody(lab: Lab, command: str, *more: str) -> subprocess.CompletedProcess[str]:
    words = ["-m", "slurm", command, *more, "--cluster", str(lab.site), "--runs", str(lab.runs)]
    environment = os.environ | {"HOME": str(lab.folder), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([*NOBODY, *words], env=environment, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False)


@needs_root
def test_a_second_user(lab: Callable[..., Lab]) -> None:
    """One run trains and one waits; the second user could write all of it, and may continue once its owner has given it up."""
    trial = lab(plain(2, epochs=5000), max_parallel=1)
    assert trial.submit() == 0
    trial.wait_for(trial.ids[0])
    for path in (trial.runs, *trial.runs.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    before = notes(trial)
    status = as_nobody(trial, "status", "trial")
    assert (status.returncode, "1 elsewhere" in status.stdout, "1 running" in status.stdout) == (0, True, True), status
    submit = as_nobody(trial, "retry", str(trial.spec), "--yes")
    assert (submit.returncode, "0 of 2 runs to submit" in submit.stdout) == (0, True), submit
    assert "job 7_1 of root on box" in submit.stdout
    assert as_nobody(trial, "cancel", "trial").returncode == 1
    assert notes(trial).items() >= before.items()
    assert trial.counts() == {"running": 1, "queued": 1}
    assert trial.call("cancel", "trial") == 0
    trial.wait_until_over()
    told = as_nobody(trial, "status", "trial").stdout
    assert "1 preempted" in told
    assert "1 cancelled" in told


def test_a_second_cluster_whose_jobs_have_the_same_ids(
    lab: Callable[..., Lab], make_box: Callable[[str], Box], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = lab(plain(2, epochs=1), sbatch={"hold": True})
    assert trial.submit() == 0
    before = notes(trial)
    other = make_box("other")
    monkeypatch.setenv("SLURM_CONF", str(other.config))
    other.run("sbatch", "-o", "/dev/null", "--hold", "--array=0-1", "--wrap", "true")
    assert trial.counts() == {"elsewhere": 2}
    assert trial.submit(command="retry") == 0
    assert "0 of 2 runs to submit" in capsys.readouterr().out
    assert trial.call("cancel", "trial") == 1
    assert len(other.jobs()) == 2
    assert notes(trial).items() >= before.items()
    other.empty()
    monkeypatch.setenv("SLURM_CONF", str(trial.box.config))
    assert trial.counts() == {"queued": 2}


def test_a_run_that_is_trained_by_hand(lab: Callable[..., Lab]) -> None:
    """Its job waits until it is done, and is a success; what is trained already is not submitted."""
    trial = lab(plain(2, epochs=10), sbatch={"hold": True})
    words = [sys.executable, "-m", "repro", override("paths.runs", str(trial.runs))]
    words += ["tracker=none", "exec.threads=1", "exec.heartbeat_s=100"]
    begun, (first, second) = [], trial.ids
    for name in trial.ids:
        command = [*words, *trial.plan.runs[name].overrides]
        begun.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        trial.wait_for(name)
        # It lives, and gets nothing done before the job of the second run waits for it.
        begun[-1].send_signal(signal.SIGSTOP)
        if name == first:
            assert trial.submit() == 0
            assert {other: not view.job for other, view in trial.views().items()} == {first: True, second: False}
            job = str(trial.views()[second].job)
    trial.box.run("scontrol", "release", job)
    log = trial.runs / "logs" / f"{second}.log"
    wait_until(lambda: log.exists() and "waiting: " in log.read_text(), 100, "a job that waits")
    for process in begun:
        process.send_signal(signal.SIGCONT)
    assert [process.wait(200) for process in begun] == [0, 0]
    trial.assert_done()
    assert not (trial.runs / "logs" / f"{first}.log").exists()
    assert trial.box.run("squeue", "-h", "-t", "all", "-o", "%T", "-j", job).split() == ["COMPLETED"]
