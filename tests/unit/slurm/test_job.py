"""What a job decides that no SLURM is needed for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import slurm.jobs.job
from repro.files import write_json
from repro.runs.folder import GPU_SHARE
from repro.runs.state import Status, read_state
from slurm.jobs.job import MAX_STALLED, RunJob, _Execution
from sweeps.local.worker import last_error


def test_jobs_that_end_before_one_step_give_up_in_the_end(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    write_json(tmp_path / "run" / "status.json", vars(Status(attempt=1, heartbeat_s=15.0)) | {"state": "preempted"})

    def ends(*, stalled: bool) -> bool:
        attempt = _Execution(RunJob({"run": ()}, tmp_path, tmp_path, 1), [])
        attempt._stopped = ["run"]
        return attempt._give_up(stalled=stalled)

    assert not any(ends(stalled=stalled) for stalled in [True] * (MAX_STALLED - 1) + [False] + [True] * (MAX_STALLED - 1))
    assert read_state(tmp_path / "run") == "preempted"
    assert ends(stalled=True)
    assert read_state(tmp_path / "run") == "failed"
    assert "give `time` more in the cluster file" in last_error(tmp_path / "run")


def test_runs_are_told_how_many_share_their_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three runs one is done already."""
    told: dict[str, str] = {}

    class Process:
        returncode = 0

        def __init__(self, command: list[str], *, env: dict[str, str], **options: Any) -> None:
            told[Path(command[3]).name] = env[GPU_SHARE]
            (tmp_path / Path(command[3]).name).mkdir()
            write_json(tmp_path / Path(command[3]).name / "status.json", done)

        def poll(self) -> int:
            return 0

    done = vars(Status(attempt=1, heartbeat_s=15.0)) | {"state": "done"}
    (tmp_path / "a").mkdir()
    write_json(tmp_path / "a" / "status.json", done)
    monkeypatch.setattr(slurm.jobs.job, "read_state", lambda folder: "done" if (folder / "status.json").exists() else "missing")
    monkeypatch.setattr(slurm.jobs.job.subprocess, "Popen", Process)
    monkeypatch.setattr(slurm.jobs.job.signal, "signal", lambda *given: None)
    assert RunJob(dict.fromkeys("abc", ()), tmp_path, tmp_path, 3)() == "3 runs done, or submitted anew"
    assert told == {"b": "2", "c": "2"}
