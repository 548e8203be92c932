"""What a run is said to be, by its folder and by what SLURM says of its job."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

import slurm.states
from repro.errors import UserError
from repro.files import write_json
from repro.runs.state import now
from slurm.__main__ import main
from slurm.states import Jobs, Queue, call, forget_options, read_queue
from slurm.status import cancel, print_status


def write_state(runs: Path, state: str, name: str = "run") -> None:
    if state != "queued":
        (runs / name).mkdir(exist_ok=True)
        error = "why it failed" if state == "failed" else None
        status = {"state": state, "host": "elsewhere", "pid": 1, "epoch": 2, "epochs": 3, "error": error}
        status |= {"heartbeat": now(), "heartbeat_s": 1000.0}
        write_json(runs / name / "status.json", status)
        write_json(runs / name / "manifest.json", {"files": {}})


def submitted(runs: Path, cluster: str = "hal", **jobs: str) -> Jobs:
    noted = Jobs(runs, Queue(cluster))
    noted.note(noted.new_folder(), jobs)
    return noted


@pytest.mark.parametrize(
    ("folder", "job", "state"),
    [
        ("queued", None, "missing"),
        ("running", None, "running"),
        ("preempted", None, "preempted"),
        ("queued", "GONE", "lost"),
        ("preempted", "GONE", "preempted"),
        ("queued", "PENDING", "queued"),
        ("running", "PENDING", "queued"),
        ("preempted", "RUNNING", "running"),
        ("queued", "COMPLETING", "running"),
        ("running", "SUSPENDED", "suspended"),
        ("done", "COMPLETING", "done"),
        ("failed", "RUNNING", "failed"),
        ("failed", "GONE", "failed"),
    ],
)
def test_a_state_is_of_its_folder_and_its_job(tmp_path: Path, answers: Any, folder: str, job: str | None, state: str) -> None:
    if job is not None:
        submitted(tmp_path, run="7_1")
        answers.jobs = {} if job == "GONE" else {"7_1": (job, "None")}
    write_state(tmp_path, folder)
    view = Jobs(tmp_path, read_queue()).view("run")
    assert view.state == state
    assert view.job == ("7_1" if state in ("queued", "running", "suspended") and job is not None else "")


@pytest.mark.parametrize(("folder", "state"), [("queued", "elsewhere"), ("running", "running"), ("done", "done"), ("failed", "failed")])
@pytest.mark.parametrize("other", ["user", "cluster"])
def test_a_job_of_another_user_or_cluster_cannot_be_seen(
    tmp_path: Path, answers: Any, monkeypatch: pytest.MonkeyPatch, folder: str, state: str, other: str
) -> None:
    submitted(tmp_path, run="7")
    if other == "user":
        monkeypatch.setattr(slurm.states.os, "geteuid", lambda: 1)
    else:
        answers.cluster = "another"
    answers.jobs = {"7": ("RUNNING", "None")}
    write_state(tmp_path, folder)
    view = Jobs(tmp_path, read_queue()).view("run")
    assert (view.state, view.job) == (state, "")
    if state == "elsewhere":
        assert "job 7 of " in view.why


def test_the_newest_job_counts_and_a_cancelled_one_is_told(tmp_path: Path, answers: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for job in ("7", "8"):
        submitted(tmp_path, run=job, beside=job)
    answers.jobs = dict.fromkeys(("7", "8"), ("PENDING", "Priority"))
    kept = {name: {"place": f"spec: {name}", "inputs": []} for name in ("run", "beside", "other")}
    write_json(tmp_path / "slurm" / "spec.json", kept | {"reader": {"place": "spec: reader", "inputs": ["other"]}})
    submitted(tmp_path, other="9", reader="10")
    write_state(tmp_path, "failed", "other")
    assert print_status(tmp_path, ["spec"]) == 1
    told = capsys.readouterr().out
    assert "spec: 4 runs: 2 queued, 1 failed, 1 lost" in told
    assert "queued for: 2 Priority" in told
    assert "2/3" in told
    assert "why it failed" in told
    assert "its input other failed" in told
    assert "failed: `retry` trains it again" in told
    assert cancel(tmp_path, ["run"]) == 0
    assert ("scancel", "8") in answers.calls
    answers.jobs = {}
    assert print_status(tmp_path, []) == 1
    assert "spec: 4 runs: 2 lost, 1 failed, 1 cancelled" in capsys.readouterr().out, "the run beside it in its job is told too"


def test_what_is_elsewhere_is_not_cancelled(tmp_path: Path, answers: Any, capsys: pytest.CaptureFixture[str]) -> None:
    submitted(tmp_path, "another", run="7")
    write_json(tmp_path / "slurm" / "spec.json", {"run": {"place": "spec: run", "inputs": []}})
    assert cancel(tmp_path, ["spec"]) == 1
    assert [command for command in answers.calls if command[0] == "scancel"] == []
    assert Jobs(tmp_path, Queue("another", jobs={"7": ("RUNNING", "")})).view("run").job == "7"
    assert main(["cancel", "sepc", "--runs", str(tmp_path)]) == 2
    assert "sepc was not submitted from" in capsys.readouterr().err


def test_slurm_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "squeue").write_text("#!/bin/sh\necho 'squeue: error: no\n controller' >&2; exit 1\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    with pytest.raises(UserError, match="squeue: squeue: error: no controller"):
        call("squeue")
    with pytest.raises(UserError, match="sbatsh: there is no such command here"):
        call("sbatsh")

    def hang(*command: object, **options: object) -> None:
        raise subprocess.TimeoutExpired("squeue", 60)

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(UserError, match="squeue: .*timed out after 60 seconds"):
        call("squeue")
    assert print_status(tmp_path, []) == 0
    assert "this is what the run folders say" in capsys.readouterr().err


def test_options_of_the_caller_are_forgotten(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """sbatch prefers them to its text, squeue takes them for a filter, and a job would take its submitter's array for its own."""
    given = ("SBATCH_QOS", "SLURMD_NODENAME", "SLURM_ARRAY_JOB_ID", "SQUEUE_PARTITION", "SRUN_DEBUG")
    kept = ("SLURM_CONF", "SLURM_JWT")
    forget_options()

    def absent(*command: object, **options: object) -> None:
        raise FileNotFoundError(2, "no such command")

    monkeypatch.setattr(subprocess, "run", absent)
    for name in (*given, *kept):
        monkeypatch.setenv(name, "x")
    main(["status", "--runs", str(tmp_path)])
    assert f"not given to SLURM, so that the cluster file decides: {', '.join(sorted(given))}" in capsys.readouterr().err
    assert [name for name in (*given, *kept) if name in os.environ] == list(kept)
