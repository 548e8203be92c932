"""What is submitted, with which limits, and what the doctor says of it, on a real SLURM."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from box import wait_until
from lab import LEARNING, REPLAY, Lab, folds, plain, spec

from repro.files import read_json

#: A job of somebody more important that needs every GPU for a moment.
URGENT = ["sbatch", "-p", "urgent", "--gres=gpu:2", "--mem=100", "-o", "/dev/null", "--wrap", "sleep 2"]


def test_a_dry_run_shows_what_is_sent_and_the_caller_decides_nothing(
    lab: Callable[..., Lab], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text is made through a private name of submitit."""
    trial = lab(plain(3, epochs=1), sbatch={"nice": 5, "hold": True}, setup=["true"], runs_per_gpu=2)
    monkeypatch.setenv("SBATCH_PARTITION", "urgent")
    monkeypatch.setenv("SBATCH_TIMELIMIT", "5")
    assert trial.submit("--dry-run") == 0
    shown = capsys.readouterr().out.partition("#!/bin/bash")[2].strip()
    assert not trial.runs.exists()
    monkeypatch.setenv("SQUEUE_PARTITION", "urgent")
    assert trial.submit() == 0
    text = next(trial.runs.glob("slurm/*/*submission*.sh"))
    (code,) = (trial.runs / "code").iterdir()
    sent = text.read_text().partition("#!/bin/bash")[2].strip()
    assert sent == shown.replace("TOKEN", text.parent.name).replace("SHA256", code.name)
    assert set(trial.box.run("squeue", "-h", "-o", "%P %l").split("\n")) == {"main 30:00", ""}
    assert trial.counts() == {"queued": 3}


@pytest.mark.slurm
def test_no_more_jobs_than_allowed_and_none_twice(lab: Callable[..., Lab]) -> None:
    """Two submissions at once; the next one sends the rest; all wait for another job."""
    trial = lab(folds(2, seeds=2, epochs=1))
    first = trial.box.run("sbatch", "--parsable", "--hold", "-o", "/dev/null", "--wrap", "true").strip()
    words = ["--yes", "--cluster", str(trial.site), "--runs", str(trial.runs), "--max-jobs", "4", "--after", first]
    command = [sys.executable, "-m", "slurm", "submit", str(trial.spec), *words]
    for process in [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(2)]:
        assert process.wait(120) == 0
    assert len(trial.box.jobs()) == 4
    assert trial.counts() == {"queued": 3, "missing": 3}
    assert trial.submit("--seeds", "1", "--after", first) == 0
    assert trial.counts() == {"queued": 5, "missing": 1}
    assert trial.submit() == 0
    trial.box.run("scontrol", "release", first)
    trial.assert_done()


@pytest.mark.slurm
def test_runs_that_share_a_gpu_and_are_preempted(lab: Callable[..., Lab]) -> None:
    """Each is a process of its own; the one that fails does not end the other, and both come back."""
    trial = lab(plain(2, epochs=30), runs_per_gpu=2, cpus=2)
    assert trial.submit() == 0
    (job,) = trial.box.jobs()
    for name in trial.ids:
        trial.wait_for(name, epoch=1)
    assert [(trial.status(name)["gpu"], trial.status(name)["slurm_job"]) for name in trial.ids] == [("0", job)] * 2
    assert trial.status(trial.ids[0])["pid"] != trial.status(trial.ids[1])["pid"]
    trial.box.run(*URGENT)
    wait_until(lambda: trial.counts() == {"queued": 2}, 60, "the preemption")
    trial.assert_done()
    for name in trial.ids:
        assert trial.status(name)["attempt"] == 2
        trial.assert_undisturbed(name)
    (code,) = (trial.runs / "code").iterdir()
    assert read_json(trial.runs / trial.ids[0] / "provenance.json")["git"]["snapshot"].startswith(code.name)


@pytest.mark.slurm
def test_tuning_by_jobs(
    lab: Callable[..., Lab], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPRO_TUNED", str(tmp_path))
    point = LEARNING | {"split.num_folds": 2, "split.fold": 0, "split.validation_size": 100, "seed": 7}
    del point["method.learning_rate"]
    grid = {"method.learning_rate": [5.0, 50.0]}
    tuning = {"rate": {"set": point, "grid": grid, "otherwise": {"method.learning_rate": 20.0}}}
    run = {"set": {"method": "instance_labels", "split": "fold", "split.num_folds": 2}, "each": {"split.fold": [0, 1]}, "tuned": "rate"}
    trial = lab(spec(1, 1) | {"runs": {"folds": run}, "tuning": tuning, "rows": [REPLAY]})
    assert trial.submit(command="tune") == 0
    assert "2 runs of the grids are not done" in capsys.readouterr().out
    assert trial.call("status", "trial.tuning") == 0
    trial.wait_until_over()
    assert trial.submit(command="tune") == 0
    assert "rate for digits, digits_cnn: method.learning_rate=" in capsys.readouterr().out
    (chosen,) = yaml.safe_load((tmp_path / "paper.yaml").read_text())["tuned"]
    assert chosen["chosen"]["method.learning_rate"] in grid["method.learning_rate"]


def test_the_doctor(lab: Callable[..., Lab], capsys: pytest.CaptureFixture[str]) -> None:
    trial = lab(plain(1, epochs=1))
    assert trial.call("doctor") == 0
    told = capsys.readouterr().out
    for line in (
        "SLURM answers: it is box",
        "sbatch would take the jobs of all models",
        "it trains on box, GPU 0",
        "it saves, and is queued again",
        "ready",
    ):
        assert line in told
    assert not list((trial.runs / "slurm").iterdir())
    for key, value, line in (
        ("partition", "nope", "nvalid partition"),
        ("time", "2-00:00:00", "time: main allows 1-00:00:00"),
        ("memory", "900G", "node configuration is not available"),
        ("setup", ["exit 3"], "does not train"),
        ("python", "/nowhere/python", "/nowhere/python"),
    ):
        trial.write_site(**{key: value})
        assert trial.call("doctor") == 2
        assert line in capsys.readouterr().err
