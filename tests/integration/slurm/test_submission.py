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

import pytest
from box import GPUS, NODES, Box
from lab import Lab, folds, plain

import slurm.sbatch
from repro.files import read_json, write_json
from repro.identity import identity_document
from repro.rundir import Status
from slurm.ledger import Ledger

MakeLab = Callable[..., Lab]


def children_s() -> float:
    """The processor's seconds of the processes that this one has waited for; how busy the machine is does not matter to them."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def block(lab: Lab, name: str) -> Path:
    """Let a run raise: its labels have no place to go. Return what is in their way."""
    from repro.compose import compose

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
    trial.wait_until_over()
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
    git = read_json(trial.runs / trial.ids[0] / "provenance.json")["git"]
    assert (trial.runs / "code" / git["snapshot"][:16] / "repro" / "run.py").exists()
    assert trial.call("status", "trial") == 0


@pytest.mark.slurm
def test_a_fold_that_raises_costs_its_own_final_only(lab: MakeLab, capsys: pytest.CaptureFixture[str]) -> None:
    trial = lab(folds(2, seeds=2, epochs=1))
    bad = folds_of(trial, 0)[1]
    in_the_way = block(trial, bad)
    assert trial.submit() == 0
    trial.wait_until_over()
    final = final_of(trial, 0)
    expected = dict.fromkeys(trial.ids, "done") | {bad: "failed", final: "cancelled"}
    assert trial.states() == expected
    assert "FileExistsError" in trial.views()[bad].why
    capsys.readouterr()
    assert trial.call("status", "trial") == 1
    written = capsys.readouterr().out
    assert re.search(rf"failed .*{bad}", written)
    assert re.search(rf"cancelled .*{final}", written)
    ended = [states for item in Ledger(trial.runs).read() for states in item.ended.items()]
    assert (
        sorted(state for _, state in ended) == ["CANCELLED", "COMPLETED", "COMPLETED", "COMPLETED", "COMPLETED", "FAILED"]
        or len(ended) >= 2
    )
    trial.assert_same([name for name, state in expected.items() if state == "done"])
    # Without --retry nothing changes, with it what is missing is trained and nothing else.
    assert trial.submit() == 0
    assert trial.states() == expected
    in_the_way.unlink()
    assert trial.call("retry", str(trial.spec), "--yes") == 0
    trial.wait_until_over()
    trial.assert_done(attempts=(1, 2))
    assert [trial.status(name)["attempt"] for name in trial.ids if name != bad] == [1] * 5


def test_a_crash_is_named_and_retried(lab: MakeLab, capsys: pytest.CaptureFixture[str]) -> None:
    trial = lab(plain(1, epochs=12))
    (name,) = trial.ids
    assert trial.submit() == 0
    trial.wait_for_epoch(name, 2)
    os.kill(trial.process(name), signal.SIGSEGV)
    trial.wait_until_over()
    assert trial.states() == {name: "failed"}
    assert "SIGSEGV" in trial.status(name)["error"]
    capsys.readouterr()
    assert trial.call("logs", name) == 0
    assert "epoch 2/12" in capsys.readouterr().out
    assert trial.call("retry", str(trial.spec), "--yes") == 0
    trial.wait_until_over()
    trial.assert_done(attempts=(2,))


@pytest.mark.slurm
def test_cancelled_and_vanished_runs_are_named_and_go_on(lab: MakeLab) -> None:
    """Two run, one of them and a waiting one are cancelled with our command, another waiting one with scancel: SLURM has no trace of it."""
    trial = lab(plain(4, epochs=25))
    assert trial.submit("--max-parallel", "2") == 0
    first, second, third, fourth = trial.ids
    trial.wait_for_epoch(first, 1)
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
    trial.wait_until_over()
    trial.assert_done(attempts=(1, 2))
    assert {name: trial.status(name)["attempt"] for name in trial.ids} == {first: 2, second: 1, third: 1, fourth: 1}


def test_no_controller_no_submission(lab: MakeLab, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Down before: nothing happens. Down in the middle: what is taken stays, the same command goes on, nothing is trained twice."""
    trial = lab(folds(2, seeds=1, epochs=1))
    trial.box.kill("slurmctld", signal.SIGTERM)
    try:
        assert trial.submit() == 2
        assert "Nothing was submitted" in capsys.readouterr().err
        assert not Ledger(trial.runs).read()
    finally:
        trial.box.start_controller()
    calls: list[object] = []
    send = slurm.sbatch.send

    def goes_away(*arguments: object) -> list[str]:
        calls.append(arguments)
        if len(calls) == 2:
            trial.box.kill("slurmctld", signal.SIGTERM)
        return send(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(slurm.sbatch, "send", goes_away)
    try:
        assert trial.submit() == 2
    finally:
        trial.box.start_controller()
    assert "the same command submits the rest" in capsys.readouterr().err
    assert trial.submit() == 0
    trial.wait_until_over()
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
    trial.wait_until_over()
    trial.assert_done()


def test_arrays_end_at_the_limit(lab: MakeLab, make_box: Callable[..., Box], capsys: pytest.CaptureFixture[str]) -> None:
    small = make_box(MaxArraySize="4")
    trial = lab(plain(7, epochs=1), box=small)
    assert trial.submit() == 2
    assert "Invalid job array specification" in capsys.readouterr().err
    assert not small.jobs()
    assert not list(trial.runs.glob("slurm/*/*.pkl")), "nothing is left of what was refused"
    trial.write_site(array_limit="3")
    assert trial.submit() == 0
    assert [len(item.jobs) for item in Ledger(trial.runs).read()] == [3, 3, 1]
    assert trial.counts()["queued"] >= 3
    assert trial.call("cancel", "trial") == 0
    trial.wait_until_over()
    assert set(trial.counts()) == {"cancelled"}


@pytest.mark.slurm
def test_packed_runs_share_a_gpu_and_not_their_fate(lab: MakeLab) -> None:
    trial = lab(folds(3, seeds=2, epochs=2), runs_per_gpu="3")
    bad = folds_of(trial, 0)[1]
    block(trial, bad)
    assert trial.submit() == 0
    items = Ledger(trial.runs).read()
    assert [[len(task) for task in item.tasks] for item in items] == [[3, 3], [1], [1]]
    trial.wait_until_over()
    expected = dict.fromkeys(trial.ids, "done") | {bad: "failed", final_of(trial, 0): "cancelled"}
    assert trial.states() == expected
    for name in folds_of(trial, 0):
        log = (trial.runs / "logs" / f"{name}.log").read_text()
        assert ("FileExistsError" in log or "File exists" in log) == (name == bad)
    together = [trial.status(name) for name in folds_of(trial, 1)]
    assert len({(status["node"], status["gpu"], status["slurm_job"]) for status in together}) == 1
    assert len({status["pid"] for status in together}) == 3
    assert max(status["started"] for status in together) < min(status["ended"] for status in together)
    trial.assert_same([name for name, state in expected.items() if state == "done"])


@pytest.mark.slurm
def test_code_that_waited_is_the_code_that_was_submitted(lab: MakeLab) -> None:
    """The job waits while the checkout could be edited: what it imports is the copy, not the checkout and not its working folder."""
    trial = lab(plain(1, epochs=1))
    assert trial.submit() == 0
    (code,) = (path for path in (trial.runs / "code").iterdir() if not path.name.startswith("."))
    trial.wait_until_over()
    (out,) = trial.runs.glob("slurm/*/*_log.out")
    assert f"code {code}\n" in out.read_text()
    assert read_json(trial.runs / trial.ids[0] / "provenance.json")["git"]["snapshot"].startswith(code.name)


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
    """167 times five folds and a final. An array is submitted by one call, and a look at all with every run folder there costs no more of
    the processor than some twenty starts of the command."""
    trial = lab(folds(5, seeds=167, epochs=2), sbatch="{hold: true}")
    assert len(trial.ids) == 1002
    assert trial.submit() == 0
    assert len(Ledger(trial.runs).read()) == 168
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
    shown = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=True).stdout
    assert children_s() - start < 20 * helped
    assert "1002 runs: 1002 queued" in shown
