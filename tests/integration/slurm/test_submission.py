"""Submitting on a real SLURM: order, GPUs, failures, and what is never submitted twice."""

from __future__ import annotations

import itertools
import os
import re
import resource
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from box import GPUS, NODES, Box
from lab import Lab, folds, plain

import slurm.jobs.sbatch
from repro.config.identity import identity_document
from repro.files import read_json, write_json
from repro.runs.state import Status
from slurm.jobs.ledger import Ledger
from slurm.jobs.queue import this_cluster

MakeLab = Callable[..., Lab]


def children_s() -> float:
    """The processor's seconds of the processes that this one has waited for; how busy the machine is does not matter to them."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def block(lab: Lab, name: str) -> Path:
    """Let a run raise: its labels have no place to go. Return what is in their way."""
    from repro.config.compose import compose

    folder = lab.runs / name
    folder.mkdir(parents=True)
    write_json(folder / "identity.json", identity_document(compose(lab.plan.runs[name].overrides)))
    (folder / "labels").write_text("in the way")
    return folder / "labels"


def folds_of(lab: Lab, seed: int) -> list[str]:
    return [name for name, run in lab.plan.runs.items() if run.stage == 0 and run.fields["seed"] == seed]


def final_of(lab: Lab, seed: int) -> str:
    return next(name for name, run in lab.plan.runs.items() if run.stage == 1 and run.fields["seed"] == seed)


@pytest.mark.slurm
def test_folds_then_finals_each_on_its_own_gpu(lab: MakeLab) -> None:
    """15 + 3 runs of two epochs. No GPU is used by two at a time, finals begin after their folds, and the code is a copy."""
    trial = lab(folds(5, seeds=3, epochs=2))
    assert len(trial.ids) == 18
    assert trial.submit() == 0
    ledger = Ledger(trial.runs).read()
    assert [len(item.jobs) for item in ledger] == [15, 1, 1, 1]
    assert trial.submit() == 0
    assert len(Ledger(trial.runs).read()) == 4, "what is in the queue is not submitted again"
    trial.assert_done()
    spans = defaultdict(list)
    for name in trial.ids:
        status = trial.status(name)
        assert status["node"] in NODES
        assert status["gpu"] in [str(number) for number in range(GPUS)]
        spans[status["node"], status["gpu"]].append((status["started"], status["ended"]))
        for other in trial.plan.runs[name].inputs:
            assert trial.status(other)["ended"] <= status["started"]
    assert len(spans) == GPUS * len(NODES), "all GPUs are used"
    for used in spans.values():
        used.sort()
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(used))
    # What a job imports is the copy, not the checkout, which may have been edited meanwhile, and not its working folder.
    (code,) = (path for path in (trial.runs / "code").iterdir() if not path.name.startswith("."))
    assert all(f"code {code}\n" in out.read_text() for out in trial.runs.glob("slurm/*/*_log.out"))
    assert read_json(trial.runs / trial.ids[0] / "provenance.json")["git"]["snapshot"].startswith(code.name)
    assert trial.call("status", "trial") == 0


@pytest.mark.slurm
@pytest.mark.parametrize("sharing", [1, 3])
def test_a_fold_that_raises_costs_its_own_final_only(lab: MakeLab, capsys: pytest.CaptureFixture[str], sharing: int) -> None:
    """Whether each run has a GPU of its own or the folds share one."""
    trial = lab(folds(3, seeds=2, epochs=2), runs_per_gpu=str(sharing))
    bad, final = folds_of(trial, 0)[1], final_of(trial, 0)
    in_the_way = block(trial, bad)
    assert trial.submit() == 0
    # Three folds of a final in one job make as few jobs as finals, which then are an array too.
    finals = [[1], [1]] if sharing == 1 else [[1, 1]]
    assert [[len(task) for task in item.tasks] for item in Ledger(trial.runs).read()] == [[sharing] * (6 // sharing), *finals]
    trial.wait_until_over()
    expected = dict.fromkeys(trial.ids, "done") | {bad: "failed", final: "cancelled"}
    assert trial.states() == expected
    assert "FileExistsError" in trial.views()[bad].why
    for name in folds_of(trial, 0):
        log = (trial.runs / "logs" / f"{name}.log").read_text()
        assert ("FileExistsError" in log or "File exists" in log) == (name == bad)
    together = [trial.status(name) for name in folds_of(trial, 1)]
    if sharing == 3:
        assert len({(status["node"], status["gpu"], status["slurm_job"]) for status in together}) == 1
        assert len({status["pid"] for status in together}) == 3
        # In whole seconds, of which such a run may need less than one.
        assert max(status["started"] for status in together) <= min(status["ended"] for status in together)
    capsys.readouterr()
    assert trial.call("status", "trial") == 1
    written = capsys.readouterr().out
    assert re.search(rf"failed .*{bad}", written)
    assert re.search(rf"cancelled .*{final}", written)
    trial.assert_same([name for name, state in expected.items() if state == "done"])
    # Without --retry nothing changes, with it what is missing is trained and nothing else.
    assert trial.submit() == 0
    assert trial.states() == expected
    in_the_way.unlink()
    assert trial.call("retry", str(trial.spec), "--yes") == 0
    trial.assert_done(attempts=(1, 2))
    assert [trial.status(name)["attempt"] for name in trial.ids if name != bad] == [1] * 7


def test_a_crash_is_named_and_retried(lab: MakeLab, capsys: pytest.CaptureFixture[str]) -> None:
    trial = lab(plain(1, epochs=12))
    (name,) = trial.begun(epoch=2)
    os.kill(trial.process(name), signal.SIGSEGV)
    trial.wait_until_over()
    assert trial.states() == {name: "failed"}
    assert "SIGSEGV" in trial.status(name)["error"]
    capsys.readouterr()
    # The line of the second epoch comes after its row.
    for known in (name, str(trial.views()[name].job)):
        assert trial.call("logs", known) == 0
        assert "epoch 1/12" in capsys.readouterr().out
    assert trial.call("retry", str(trial.spec), "--yes") == 0
    trial.assert_done(attempts=(2,))


@pytest.mark.slurm
def test_cancelled_and_vanished_runs_are_named_and_go_on(lab: MakeLab) -> None:
    """Two run, one of them and a waiting one are cancelled with our command, another waiting one with scancel: SLURM has no trace of it."""
    trial = lab(plain(4, epochs=25))
    assert trial.submit("--max-parallel", "2") == 0
    first, second, third, fourth = trial.ids
    trial.wait(lambda: trial.epoch(first) >= 1)
    assert trial.call("cancel", first, third) == 0
    jobs = {name: view.job for name, view in trial.views().items()}
    trial.box.run("scancel", str(jobs[fourth]))
    trial.wait(lambda: len(trial.box.jobs()) <= 1)
    states = trial.states()
    assert states[first] == "cancelled"
    assert trial.status(first)["state"] == "preempted", "it has saved its state"
    assert states[third] == "cancelled"
    assert states[fourth] in ("lost", "cancelled")
    assert trial.submit() == 0
    trial.assert_done(attempts=(1, 2))
    assert {name: trial.status(name)["attempt"] for name in trial.ids} == {first: 2, second: 1, third: 1, fourth: 1}


@pytest.mark.slurm
def test_no_controller_no_submission(lab: MakeLab, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Down before: nothing happens. Down in the middle: what is taken stays, the same command resumes, nothing is trained twice."""
    trial = lab(folds(2, seeds=1, epochs=1))
    trial.box.kill("slurmctld", signal.SIGTERM)
    try:
        assert trial.submit() == 2
        assert "Nothing was submitted" in capsys.readouterr().err
        assert not Ledger(trial.runs).read()
    finally:
        trial.box.start_controller()
    calls: list[object] = []
    send = slurm.jobs.sbatch.send

    def goes_away(*arguments: Any) -> list[str]:
        calls.append(arguments)
        if len(calls) == 2:
            trial.box.kill("slurmctld", signal.SIGTERM)
        return send(*arguments)

    monkeypatch.setattr(slurm.jobs.sbatch, "send", goes_away)
    try:
        assert trial.submit() == 2
    finally:
        trial.box.start_controller()
    assert "the same command submits the rest" in capsys.readouterr().err
    assert trial.submit() == 0
    trial.assert_done()


@pytest.mark.slurm
def test_two_submissions_at_once_train_everything_once(lab: MakeLab) -> None:
    trial = lab(folds(2, seeds=1, epochs=1))
    command = [sys.executable, "-m", "slurm", "submit", str(trial.spec), "--yes", "--cluster", str(trial.site), "--runs", str(trial.runs)]

    def once(_: int) -> str:
        return subprocess.run(command, env=os.environ, capture_output=True, text=True, check=True).stdout

    with ThreadPoolExecutor(2) as pool:
        texts = list(pool.map(once, range(2)))
    assert sorted(re.findall(r"submitted (\d) runs", "".join(texts))) == ["0", "3"]
    trial.assert_done()


@pytest.mark.slurm
@pytest.mark.parametrize(
    ("changed", "reason", "remedy"),
    [
        ({"sbatch": "{hold: true}"}, "JobHeldUser", "scontrol release JOB"),
        ({"time": '{default: "2-00:00:00"}'}, "PartitionTimeLimit", "lower `time`"),
    ],
)
def test_what_slurm_takes_and_never_starts(
    lab: MakeLab, capsys: pytest.CaptureFixture[str], changed: dict[str, str], reason: str, remedy: str
) -> None:
    trial = lab(plain(2, epochs=1), **changed)
    assert trial.submit() == 0
    trial.wait(lambda: all(view.stuck for view in trial.views().values()), 30)
    capsys.readouterr()
    assert trial.call("status", "trial") == 1
    assert re.search(rf"will never begin by themselves, jobs \d+_0, \d+_1: {reason}: .*{remedy}", capsys.readouterr().out)


@pytest.mark.slurm
def test_the_cluster_file_decides(lab: MakeLab, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a variable of the shell, which sbatch prefers to its text, and squeue takes for a filter."""
    trial = lab(plain(1, epochs=1), sbatch="{hold: true}")
    for name, value in (("SBATCH_PARTITION", "urgent"), ("SBATCH_TIMELIMIT", "5"), ("SQUEUE_PARTITION", "urgent")):
        monkeypatch.setenv(name, value)
    assert trial.submit() == 0
    assert "not given to sbatch, so that the cluster file decides: SBATCH_PARTITION, SBATCH_TIMELIMIT, " in capsys.readouterr().out
    assert trial.box.run("squeue", "-h", "-o", "%P %l").split() == ["main", "30:00"]
    assert trial.counts() == {"queued": 1}


@pytest.mark.slurm
def test_two_clusters_over_one_folder(
    lab: MakeLab, make_box: Callable[..., Box], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the second, which gives the same ids, a run of the first is neither lost nor submitted again, and no job is cancelled for it."""
    trial = lab(plain(1, epochs=25))
    (name,) = trial.begun(epoch=1)
    job = str(trial.views()[name].job)
    (item,) = Ledger(trial.runs).read()
    other = make_box(ClusterName="other", FirstJobId=job)
    monkeypatch.setenv("SLURM_CONF", str(other.config))
    this_cluster.cache_clear()
    other.run("sbatch", "-o", "/dev/null", "--mem=100", "--wrap", "sleep 300")
    assert other.jobs() == [job]
    batch = trial.runs / "slurm" / item.token / "batch.json"
    before = batch.read_bytes()
    assert trial.states() == {name: f"elsewhere: {item.user} on box"}
    assert trial.call("status", "trial") == 0
    assert f"1 runs: 1 elsewhere: {item.user} on box" in capsys.readouterr().out
    assert trial.submit() == 0
    assert trial.submit("--retry") == 0
    assert "submitted 0 runs" in capsys.readouterr().out
    assert trial.call("cancel", "trial") == 1
    assert other.jobs() == [job]
    assert batch.read_bytes() == before
    other.empty()
    monkeypatch.setenv("SLURM_CONF", str(trial.box.config))
    this_cluster.cache_clear()
    assert trial.states() == {name: "running"}
    trial.assert_done()


def test_arrays_end_at_the_limit(lab: MakeLab, make_box: Callable[..., Box], capsys: pytest.CaptureFixture[str]) -> None:
    small = make_box(MaxArraySize="4")
    trial = lab(plain(7, epochs=1), box=small)
    assert trial.submit() == 0
    assert "submitted 7 runs with 2 calls of sbatch" in capsys.readouterr().out
    assert [len(item.jobs) for item in Ledger(trial.runs).read()] == [3, 4]
    assert trial.counts()["queued"] >= 3
    assert trial.call("cancel", "trial") == 0
    trial.wait_until_over()
    assert set(trial.counts()) == {"cancelled"}


def test_what_a_dry_run_shows_is_what_is_submitted(lab: MakeLab, capsys: pytest.CaptureFixture[str]) -> None:
    """The text is made through a private name of submitit."""
    trial = lab(plain(3, epochs=1), account="somebody", memory="{default: 4G}", modules="[nothing]", sbatch="{nice: 5}")
    assert trial.submit("--dry-run") == 0
    shown = capsys.readouterr().out.partition("#!/bin/bash")[2].strip()
    assert not trial.runs.exists()
    # Nothing of it is to run.
    trial.write_site(account="somebody", memory="{default: 4G}", modules="[nothing]", sbatch="{nice: 5, hold: true}")
    assert trial.submit() == 0
    (item,) = Ledger(trial.runs).read()
    (text,) = (trial.runs / "slurm" / item.token).glob("*_submission.sh")
    sent = text.read_text().partition("#!/bin/bash")[2].strip()
    code = next(path.name for path in (trial.runs / "code").iterdir())
    assert sent.replace("#SBATCH --hold\n", "") == shown.replace("TOKEN", item.token).replace("SHA256", code)


@pytest.mark.slurm
def test_a_thousand_runs(lab: MakeLab) -> None:
    """167 times five folds and a final: six arrays. A look at all with every run folder there costs no more of the processor than some
    twenty starts of the command."""
    trial = lab(folds(5, seeds=167, epochs=2), sbatch="{hold: true}")
    assert len(trial.ids) == 1002
    assert trial.submit() == 0
    assert [len(item.jobs) for item in Ledger(trial.runs).read()] == [167] * 6
    for name in trial.ids:
        folder = trial.runs / name
        folder.mkdir()
        write_json(folder / "status.json", vars(Status(attempt=1, heartbeat_s=15.0)) | {"state": "preempted"})
        (folder / "metrics.jsonl").write_text('{"epoch": 0}\n{"epoch": 1, "time/epoch_s": 2.0}\n' * 50)
    command = [sys.executable, "-m", "slurm", "status", "trial", "--all", "--runs", str(trial.runs)]
    start = children_s()
    subprocess.run([sys.executable, "-m", "slurm", "--help"], env=os.environ, capture_output=True, check=True)
    helped = children_s() - start
    start = children_s()
    shown = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)
    assert children_s() - start < 20 * helped
    assert shown.returncode == 1, "they are held"
    assert "1002 runs: 1002 queued" in shown.stdout


@pytest.mark.slurm
def test_the_doctor_names_what_to_change(lab: MakeLab, capsys: pytest.CaptureFixture[str]) -> None:
    trial = lab(plain(1, epochs=1), partition="main,urgent", gpu='"3090"')
    assert trial.call("doctor") == 0
    written = capsys.readouterr().out
    for said in ("it imports the copy of the code", "it writes a run folder", "locks reach", "it got its signal", "site: ready"):
        assert f"{said}" in written
    assert not list((trial.runs / "slurm").glob("doctor-*"))
    for key, value, text, change in (
        ("partition", "nope", "partition nope does not exist", "one of main, urgent"),
        ("time", '{default: "2-00:00:00"}', "time.default: 2880 min, the partition allows 1-00:00:00", "at most 1-00:00:00"),
        ("memory", "{default: 900G}", "no node has 1 CPUs and 921600 MiB for a job", "the largest has 8 CPUs, 16000 MiB"),
        ("gpu", "a100", "no node of main has a GPU of type a100", "the types are 3090, fake"),
        ("constraint", "nope", "Invalid feature specification", "change what sbatch names"),
    ):
        trial.write_site(**{key: value})
        assert trial.call("doctor", "--no-job") == 1
        written = capsys.readouterr().out
        assert re.search(rf"BAD   .*{text}\n      -> (site.yaml:\d+: |\S*/site.yaml:\d+: )?{change}", written), written
        assert "site: 1 things to change" in written
