"""What a run is said to be, by its folder and by what SLURM says of its job."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import slurm.jobs.queue
import slurm.jobs.states
import slurm.jobs.trainer
from repro.files import read_json, write_json
from repro.runs.folder import RunFolder
from repro.runs.state import Status, requeue
from slurm.cluster import Cluster
from slurm.jobs.batches import Batch
from slurm.jobs.ledger import Ledger
from slurm.jobs.queue import Job, NoAnswerError, this_user
from slurm.jobs.states import JobStates, RunView
from slurm.jobs.submission import choose
from slurm.jobs.trainer import _is_over
from slurm.watch import print_status, stop
from sweeps.plan.plan import PlannedRun

SITE = Cluster.model_construct(kind="slurm", minutes={"default": 5}, memory_mib={"default": 900}, array_limit=9)


class Site:
    """A folder of runs of which ``run`` was submitted as job 7, and what SLURM then says."""

    def __init__(self, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runs = runs
        self.queue: dict[str, Job] = {}
        self.accounting: dict[str, str] = {}
        self.ledger = Ledger(runs)
        self.token = self.submitted("run", "7")
        self.cancelled: list[str] = []
        monkeypatch.setattr(slurm.jobs.states, "read_queue", lambda: self.queue)
        monkeypatch.setattr(slurm.jobs.states, "read_accounting", lambda jobs: self.accounting)
        monkeypatch.setattr(slurm.jobs.states, "this_cluster", lambda: "here")
        monkeypatch.setattr(slurm.jobs.queue, "cancel", self.cancelled.extend)

    def submitted(self, name: str, *jobs: str) -> str:
        item = self.ledger.begin(Batch("table-m-net", "net", ((name,),), ()), SITE, self.runs / "code", "here")
        item.jobs = list(jobs)
        self.ledger.save(item)
        return item.token

    def batch(self) -> Path:
        return self.ledger.folder / self.token / "batch.json"

    def planned(self) -> None:
        plan = {"schema": 1, "spec": "table", "title": "A table", "cells": [{"row": "a", "column": "b", "runs": ["run"]}]}
        (self.ledger.folder / "plans").mkdir()
        run = {"place": "a / b", "epochs": 3, "inputs": [], "stage": 0}
        write_json(self.ledger.folder / "plans" / "table.json", plan | {"runs": {"run": run}})

    def says(self, state: str, reason: str = "None") -> None:
        self.queue = {"7": Job("7", state, "node1", reason, self.token)}

    def folder_says(self, state: str, job: str | None = "7") -> None:
        if state == "done":
            with RunFolder(self.runs / "run").hold(heartbeat_s=1000.0, epochs=3) as held:
                held.end("done")
        elif state != "missing":
            said = vars(Status(attempt=1, heartbeat_s=1000.0, slurm_job=job)) | {"state": state, "error": "why"}
            (self.runs / "run").mkdir()
            write_json(self.runs / "run" / "status.json", said | ({"state": "running", "pid": 2**22 + 1} if state == "lost" else {}))

    def view(self) -> RunView:
        return JobStates(self.runs).views(["run"], {})["run"]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path, monkeypatch)


FOLDER = ("missing", "queued", "running", "preempted", "lost", "failed", "done")
#: What SLURM says of the job: in squeue, or with accounting (*), or nothing; then the state for each thing that the folder may say.
ROWS = {
    "PENDING": "queued queued queued queued queued failed done",
    "REQUEUED": "queued queued queued queued queued failed done",
    "RUNNING": "starting starting running starting starting failed done",
    "COMPLETING": "starting starting running starting starting failed done",
    "FAILED": "failed failed failed failed failed failed done",
    "*OUT_OF_MEMORY": "failed failed failed failed failed failed done",
    "CANCELLED": "cancelled cancelled running cancelled cancelled failed done",
    "*CANCELLED": "cancelled cancelled running cancelled cancelled failed done",
    "TIMEOUT": "lost lost running preempted lost failed done",
    "*NODE_FAIL": "lost lost running preempted lost failed done",
    "": "lost lost running preempted lost failed done",
}


#: What can be done, by state; about the others nothing need be.
REMEDY = dict.fromkeys(("cancelled", "lost", "preempted"), "submit") | {"failed": "retry", "damaged": "retry"}


@pytest.mark.parametrize("said", ROWS)
@pytest.mark.parametrize("folder", FOLDER)
def test_every_row_of_the_table(site: Site, said: str, folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    site.folder_says(folder)
    site.planned()
    if said.startswith("*"):
        site.accounting = {"7": said[1:]}
    elif said:
        site.says(said)
    view = site.view()
    assert view.state == ROWS[said].split()[FOLDER.index(folder)]
    print_status(site.runs, [], every=False)
    remedies = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f"{view.state}: ")]
    assert [f"`{REMEDY.get(view.state)}`" in line for line in remedies] == [True] * (view.state in REMEDY)
    assert view.outside == (view.state == "running" and said != "RUNNING" and said != "COMPLETING")
    assert folder != "failed" or view.why == "why" or (said == "*OUT_OF_MEMORY" and "(why)" in view.why)
    # What SLURM forgets is remembered.
    if said.isupper() and said not in ("PENDING", "REQUEUED", "RUNNING", "COMPLETING"):
        JobStates(site.runs).save_ends()
        site.queue = site.accounting = {}
        assert site.view() == view


def test_whose_turn_in_a_job_has_not_come_is_queued(site: Site) -> None:
    write_json(site.batch(), read_json(site.batch()) | {"tasks": [["first", "second", "run"]], "at_a_time": 2})
    site.says("RUNNING")
    views = JobStates(site.runs).views(["first", "second", "run"], {})
    assert [view.state for view in views.values()] == ["starting", "starting", "queued"]
    assert (views["run"].why, views["run"].node) == ("behind others of its job", "node1")
    site.folder_says("running")
    assert site.view().state == "running"
    # In ledgers that are older all run side by side; what a later version adds is no obstacle.
    document = read_json(site.batch()) | {"new": 1}
    write_json(site.batch(), {key: value for key, value in document.items() if key != "at_a_time"})
    (site.runs / "run" / "status.json").unlink()
    assert site.view().state == "starting"


@pytest.mark.parametrize(("state", "expected"), [("PENDING", "queued"), ("RUNNING", "starting")])
@pytest.mark.parametrize("folder", ["running", "failed"])
def test_what_an_earlier_job_has_left_is_not_the_live_ones(site: Site, folder: str, state: str, expected: str) -> None:
    site.folder_says(folder, job="3")
    site.says(state, reason="Priority")
    assert site.view().state == expected


def test_no_answer_concludes_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent() -> dict[str, Job]:
        raise NoAnswerError("squeue: no answer")

    monkeypatch.setattr(slurm.jobs.states, "read_queue", silent)
    cluster = JobStates(site.runs)
    assert cluster.answer == "squeue: no answer"
    assert cluster.view("run").state == "missing"
    assert site.ledger.read()[0].ended == {}


def test_what_was_put_back_and_has_no_job_is_submitted(site: Site) -> None:
    """As by a submission that was cut off between the two, or by `sweeps run --retry` that was killed: no job of ours will train it."""
    site.folder_says("failed")
    assert requeue(site.runs / "run")
    for path in site.ledger.folder.glob("*/batch.json"):
        path.unlink()
    runs = {
        "run": PlannedRun("run", (), {"method.name": "m", "model.name": "net"}, "queued", (), ("table",), "run"),
        "other": PlannedRun("other", (), {"method.name": "m", "model.name": "net"}, "missing", ("run",), ("table",), "other", 1),
    }
    plan: Any = SimpleNamespace(runs=runs, spared=())
    assert [run.run_id for run in choose(plan, SITE, JobStates(site.runs), retry=False, limit=None).send] == ["run", "other"]


def test_a_reader_of_a_failed_run_was_cancelled_for_it(site: Site) -> None:
    site.submitted("final", "8")
    site.folder_says("failed")
    view = JobStates(site.runs).views(["run", "final"], {"final": ["run"]})["final"]
    assert (view.state, view.why) == ("cancelled", "its input run failed")


# -- a folder that several share ---------------------------------------------------------------------------------------------------

OTHERS = [{"user": "ann", "slurm_cluster": "here"}, {"slurm_cluster": "there"}, {"user": "ann", "slurm_cluster": "there"}]


def one_run(folder: str) -> Any:
    run = PlannedRun("run", (), {"method.name": "m", "model.name": "net"}, folder, (), ("table",), "run")
    return SimpleNamespace(runs={"run": run}, spared=())


@pytest.mark.parametrize("owner", OTHERS)
@pytest.mark.parametrize("folder", FOLDER)
def test_jobs_in_a_queue_that_cannot_be_seen(site: Site, owner: dict[str, str], folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    """They are not lost, nothing of them is submitted or cancelled, though a job of this user has the same id here."""
    site.folder_says(folder)
    site.planned()
    write_json(site.batch(), read_json(site.batch()) | owner)
    site.queue = {"7": Job("7", "RUNNING", "node1", "None", "something else")}
    before = site.batch().read_bytes()
    whose = f"elsewhere: {owner.get('user', this_user())} on {owner['slurm_cluster']}"
    assert site.view().state == (folder if folder in ("failed", "done") else whose)
    plan = one_run(folder)
    choice = choose(plan, SITE, JobStates(site.runs), retry=False, limit=None)
    assert (choice.send, set(choice.left)) == ([], set() if folder == "done" else {"run"})
    assert print_status(site.runs, [], every=True) == (1 if folder == "failed" else 0)
    assert (whose in capsys.readouterr().out) == (folder not in ("failed", "done"))
    assert stop(site.runs, ["table"]) == (0 if folder in ("failed", "done") else 1)
    assert not site.cancelled
    assert (f"not cancelled, 1 runs {whose}" in capsys.readouterr().out) == (folder not in ("failed", "done"))
    JobStates(site.runs).save_ends()
    assert site.batch().read_bytes() == before


def test_what_its_owner_has_noted_as_over_goes_on_anywhere(site: Site) -> None:
    site.folder_says("preempted")
    write_json(site.batch(), read_json(site.batch()) | {"user": "ann", "ended": {"7": "CANCELLED"}})
    assert site.view().state == "cancelled"
    plan: Any = one_run("preempted")
    assert choose(plan, SITE, JobStates(site.runs), retry=False, limit=None).send == [plan.runs["run"]]


def test_another_job_of_this_user_with_the_same_id(site: Site) -> None:
    """SLURM counts anew, or another cluster has the name of this one: the comment tells them apart."""
    site.queue = {"7": Job("7", "RUNNING", "node1", "None", "something else")}
    assert site.view().state == "lost"
    assert stop(site.runs, ["run"]) == 0
    assert not site.cancelled
    site.says("RUNNING")
    assert stop(site.runs, ["run"]) == 0
    assert site.cancelled == ["7"]


def test_a_ledger_that_names_nobody_is_this_users_here(site: Site) -> None:
    old = {key: value for key, value in read_json(site.batch()).items() if key not in ("user", "slurm_cluster")}
    write_json(site.batch(), old)
    site.says("PENDING")
    assert site.view().state == "queued"


def test_status_writes_nothing(site: Site) -> None:
    site.planned()
    before = site.batch().read_bytes()
    site.says("CANCELLED")
    assert print_status(site.runs, [], every=False) == 1
    assert site.batch().read_bytes() == before


@pytest.mark.parametrize("owner", [{}, *OTHERS])
@pytest.mark.parametrize("own", ["7", "8"])
def test_a_job_elsewhere_is_not_taken_for_over(site: Site, monkeypatch: pytest.MonkeyPatch, owner: dict[str, str], own: str) -> None:
    """Neither because this queue lacks it, nor because it has the id of the job that asks: only when it shows no sign of life."""
    monkeypatch.setattr(slurm.jobs.trainer, "this_cluster", lambda: "here")
    monkeypatch.setattr(slurm.jobs.trainer, "read_queue", lambda: site.queue)
    monkeypatch.setenv("SLURM_JOB_ID", own)
    site.folder_says("running")
    write_json(site.batch(), read_json(site.batch()) | owner)
    folder = site.runs / "run"
    assert _is_over("7", folder) == (not owner)
    site.queue = {"7": Job("7", "RUNNING", "node1", "None", "something else")}
    assert _is_over("7", folder) == (not owner)
    site.says("RUNNING")
    assert _is_over("7", folder) == (not owner and own == "7")
    status = json.loads((folder / "status.json").read_text())
    write_json(folder / "status.json", status | {"heartbeat": "2020-01-01T00:00:00Z"})
    assert not owner or _is_over("7", folder)


def test_accounting_may_know_another_job_of_the_same_id(monkeypatch: pytest.MonkeyPatch) -> None:
    told = "7|table-m-net|CANCELLED by 1000\n8|another|FAILED\n9_1|table-m-net|COMPLETED\n"
    monkeypatch.setattr(slurm.jobs.queue, "call", lambda command: told)
    assert slurm.jobs.queue.read_accounting(dict.fromkeys(("7", "8", "9_1"), "table-m-net")) == {"7": "CANCELLED", "9_1": "COMPLETED"}


@pytest.mark.parametrize(
    ("state", "reason", "remedy"),
    [
        ("PENDING", "PartitionTimeLimit", "lower `time` of the cluster file, then `cancel` and `submit`"),
        ("PENDING", "QOSMaxWallDurationPerJobLimit", "lower `time`"),
        ("PENDING", "BadConstraints", "`doctor` names the line"),
        ("PENDING", "QOSMaxGRESPerJob", "`doctor` names the line"),
        ("PENDING", "QOSMaxMemoryPerNode", "`doctor` names the line"),
        ("PENDING", "AssocMaxCpuPerJobLimit", "`doctor` names the line"),
        ("PENDING", "QOSMinGRES", "`doctor` names the line"),
        ("PENDING", "InvalidQOS", "change it in the cluster file"),
        ("PENDING", "JobHeldUser", "`scontrol release JOB`"),
        ("PENDING", "JobHeldAdmin", "ask, or `scontrol release JOB`"),
        ("PENDING", "launch failed requeued held", "ask, or `scontrol release JOB`"),
        ("REQUEUE_HOLD", "None", "`scontrol release JOB`"),
        ("PENDING", "DependencyNeverSatisfied", "`cancel` it, then `retry`"),
        # These end when other jobs do, or at another time.
        ("PENDING", "QOSMaxGRESPerUser", None),
        ("PENDING", "QOSMaxJobsPerUserLimit", None),
        ("PENDING", "AssocGrpCpuLimit", None),
        ("PENDING", "Dependency", None),
        ("PENDING", "Priority", None),
        ("RUNNING", "None", None),
    ],
)
def test_what_a_job_waits_for_in_vain(site: Site, capsys: pytest.CaptureFixture[str], state: str, reason: str, remedy: str | None) -> None:
    site.planned()
    site.says(state, reason)
    assert print_status(site.runs, [], every=False) == (remedy is not None)
    written = capsys.readouterr().out
    assert ("will never begin by themselves, jobs 7: " in written) == (remedy is not None)
    assert remedy is None or (reason in written and remedy in written)


@pytest.mark.parametrize(
    ("end", "folder", "error", "log", "said"),
    [
        ("OUT_OF_MEMORY", "lost", "", "", "out of memory; raise `memory` in the cluster file"),
        (
            "FAILED",
            "failed",
            "killed by signal 9 (SIGKILL); the same command resumes; if nobody killed it, it needs more memory",
            "",
            "out of memory; ",
        ),
        ("FAILED", "failed", "OSError: [Errno 28] No space left on device", "", "the disk is full; make room"),
        ("FAILED", "lost", "", "OSError: [Errno 122] Disk quota exceeded\n", "the disk is full; make room"),
        ("FAILED", "lost", "", "something\n", "SLURM: FAILED"),
        ("FAILED", "failed", "ValueError: one\ntwo\n  three", "", "ValueError: one two three"),
    ],
)
def test_what_has_ended_a_run_in_one_line(
    site: Site, capsys: pytest.CaptureFixture[str], end: str, folder: str, error: str, log: str, said: str
) -> None:
    site.planned()
    site.says(end)
    site.folder_says(folder)
    status = site.runs / "run" / "status.json"
    write_json(status, read_json(status) | {"error": error or None})
    (site.runs / "logs").mkdir()
    (site.runs / "logs" / "run.log").write_text(log)
    assert print_status(site.runs, [], every=False) == 1
    assert f"(run): {said}" in capsys.readouterr().out
    assert site.view().state == "failed"


def test_a_suspended_job_gives_no_sign_of_life_and_is_live(site: Site) -> None:
    site.folder_says("lost")
    site.says("SUSPENDED")
    assert site.view().state == "suspended"
    plan: Any = one_run("lost")
    assert choose(plan, SITE, JobStates(site.runs), retry=False, limit=None).send == []
