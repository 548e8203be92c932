"""What a run is said to be, by its folder and by what SLURM says of its job."""

from __future__ import annotations

from pathlib import Path

import pytest

import slurm.states
from repro.files import read_json, write_json
from repro.rundir import RunFolder, now
from slurm.batches import Batch
from slurm.ledger import Ledger
from slurm.queue import Job, NoAnswerError
from slurm.states import JobStates


def job(state: str, name: str = "7", reason: str = "None") -> dict[str, Job]:
    return {name: Job(name, state, "node1", reason, "1:00", "token")}


def submitted(runs: Path, *, jobs: tuple[str, ...] = ("7",)) -> Ledger:
    ledger = Ledger(runs)
    item = ledger.begin(Batch("table-m-net", "net", (("run",),), ()), "site", runs / "code", 5)
    item.jobs = list(jobs)
    ledger.save(item)
    return ledger


def folder_says(runs: Path, state: str, *, job: str | None = "7", pid: int = 1) -> None:
    with RunFolder(runs / "run").hold(heartbeat_s=1000.0, epochs=3) as held:
        assert held.status is not None
        held.status.slurm_job = job
        held.status.pid = pid
        held.end(state, error="why" if state == "failed" else None)
    status = read_json(runs / "run" / "status.json")
    write_json(runs / "run" / "status.json", status | {"heartbeat": now()})


def look(
    runs: Path, monkeypatch: pytest.MonkeyPatch, queue: dict[str, Job], accounting: dict[str, str] | None = None
) -> slurm.states.RunView:
    monkeypatch.setattr(slurm.states, "read_queue", lambda: queue)
    monkeypatch.setattr(slurm.states, "read_accounting", lambda jobs: accounting or {})
    return JobStates(runs).views(["run"], {})["run"]


@pytest.mark.parametrize(
    ("folder", "queue", "accounting", "state"),
    [
        (None, job("PENDING"), {}, "queued"),
        (None, job("RUNNING"), {}, "starting"),
        ("running", job("RUNNING"), {}, "running"),
        ("preempted", job("PENDING"), {}, "queued"),
        ("preempted", job("RUNNING"), {}, "starting"),
        ("running", job("PENDING"), {}, "queued"),
        ("done", job("COMPLETING"), {}, "done"),
        ("done", job("FAILED"), {}, "done"),
        ("failed", job("RUNNING"), {}, "failed"),
        ("failed", {}, {}, "failed"),
        ("preempted", {}, {}, "preempted"),
        ("preempted", {}, {"7": "CANCELLED"}, "cancelled"),
        ("preempted", job("CANCELLED"), {}, "cancelled"),
        (None, job("CANCELLED"), {}, "cancelled"),
        (None, job("FAILED"), {}, "failed"),
        (None, {}, {}, "lost"),
        ("lost", {}, {}, "lost"),
        ("lost", {}, {"7": "OUT_OF_MEMORY"}, "failed"),
        ("lost", {}, {"7": "NODE_FAIL"}, "lost"),
        ("lost", job("TIMEOUT"), {}, "lost"),
    ],
)
def test_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str | None, queue: dict[str, Job], accounting: dict[str, str], state: str
) -> None:
    submitted(tmp_path)
    if folder == "lost":
        folder_says(tmp_path, "running", pid=2**22 + 1)
    elif folder is not None:
        folder_says(tmp_path, folder)
    assert look(tmp_path, monkeypatch, queue, accounting).state == state


def test_what_slurm_forgets_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted(tmp_path)
    assert look(tmp_path, monkeypatch, job("CANCELLED")).state == "cancelled"
    assert look(tmp_path, monkeypatch, {}).state == "cancelled"


def test_a_process_that_no_live_job_started_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted(tmp_path)
    folder_says(tmp_path, "running", job=None)
    assert look(tmp_path, monkeypatch, {}).outside
    assert look(tmp_path, monkeypatch, {}).state == "running"


def test_no_answer_concludes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = submitted(tmp_path)

    def silent() -> dict[str, Job]:
        raise NoAnswerError("squeue: no answer")

    monkeypatch.setattr(slurm.states, "read_queue", silent)
    cluster = JobStates(tmp_path)
    assert cluster.answer == "squeue: no answer"
    assert cluster.views(["run"], {})["run"].state == "missing"
    assert ledger.read()[0].ended == {}


def test_a_submission_that_was_cut_off_is_no_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted(tmp_path, jobs=())
    assert look(tmp_path, monkeypatch, {}).state == "missing"
    assert len(JobStates(tmp_path).unconfirmed()) == 1


def test_a_reader_of_a_failed_run_was_cancelled_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = submitted(tmp_path)
    item = ledger.begin(Batch("table-replay-net", "net", (("final",),), ("run",)), "site", tmp_path, 5)
    item.jobs = ["8"]
    ledger.save(item)
    folder_says(tmp_path, "failed")
    monkeypatch.setattr(slurm.states, "read_queue", dict)
    monkeypatch.setattr(slurm.states, "read_accounting", lambda jobs: {})
    view = JobStates(tmp_path).views(["run", "final"], {"final": ["run"]})["final"]
    assert (view.state, view.why) == ("cancelled", "its input run failed")
