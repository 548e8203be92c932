"""Two writers of one run folder whose lock does not reach from one to the other: only the newer one writes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from repro.errors import Interrupted
from repro.files import read_json
from repro.runs.folder import RunFolder
from repro.runs.lease import EXIT_SUPERSEDED, Superseded, claim
from repro.runs.state import note_failure, read_state, slurm_job


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in (".lock", "lease.json")}


def test_who_was_superseded_writes_nothing_more(tmp_path: Path) -> None:
    with RunFolder(tmp_path).hold(heartbeat_s=1000, epochs=3) as held:
        held.open_metrics([])
        held.append_metrics({"epoch": 0})
        claim(tmp_path)
        before = contents(tmp_path)
        for write in (
            lambda: held.append_metrics({"epoch": 1}),
            lambda: held.end("failed", error="something"),
            lambda: held.add_cost(wall_s=1.0, on_gpu=False, peak_gib=1.0),
            held.check_lease,
        ):
            with pytest.raises(Superseded) as caught:
                write()
            assert isinstance(caught.value, Interrupted), "no handler takes it for a failure of the run"
            assert caught.value.exit_code == EXIT_SUPERSEDED
        assert contents(tmp_path) == before


def test_the_heartbeat_finds_it_out_too(tmp_path: Path) -> None:
    with RunFolder(tmp_path).hold(heartbeat_s=0.05, epochs=3) as held:
        claim(tmp_path)
        deadline = time.monotonic() + 300
        while not held._superseded and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(Superseded):
            held.check_lease(read=False)


def test_a_failure_is_noted_for_a_run_that_cannot(tmp_path: Path) -> None:
    assert note_failure(tmp_path / "new", "killed")
    assert read_state(tmp_path / "new") == "failed"
    assert read_json(tmp_path / "new" / "status.json")["error"] == "killed"
    assert not note_failure(tmp_path / "new", "again")
    with RunFolder(tmp_path / "run").hold(heartbeat_s=1000, epochs=3) as held:
        assert not note_failure(tmp_path / "run", "killed"), "its process lives"
        held.end("done")
    assert not note_failure(tmp_path / "run", "killed")
    assert read_state(tmp_path / "run") == "done"


def test_the_job_is_called_as_squeue_calls_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    assert slurm_job() is None
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert slurm_job() == "17"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    assert slurm_job() == "12_0"
