"""Room in the queue: what SLURM, or the cluster file, allows a user is used, and the rest waits for it."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from box import Box
from lab import Lab, folds, plain

import slurm.__main__
from slurm.jobs.ledger import Ledger

MakeLab = Callable[..., Lab]

pytestmark = pytest.mark.slurm


@pytest.fixture
def limited(make_box: Callable[..., Box]) -> Box:
    """A box whose qos lets a user have four jobs in the queue."""
    box = make_box(accounting=True, AccountingStorageEnforce="limits,qos")
    box.run("sacctmgr", "-i", "add", "account", "lab", "cluster=box", check=False)
    box.run("sacctmgr", "-i", "add", "user", box.user, "account=lab", "cluster=box", check=False)
    box.run("sacctmgr", "-i", "modify", "qos", "normal", "set", "MaxSubmitJobsPerUser=4")
    return box


def test_an_array_is_cut_to_what_a_qos_allows(
    lab: MakeLab, limited: Box, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight folds and their two finals, four jobs at a time. One command that stays sends all, each once."""
    trial = lab(folds(4, seeds=2, epochs=1), box=limited, sbatch="{hold: true}")
    assert trial.submit() == 0
    said = capsys.readouterr()
    assert "6 runs wait for room in the queue: " in said.out
    assert "SubmitJob" in said.out
    assert said.err == "", "what sbatch says of each attempt is for nobody"
    assert trial.call("doctor", "--no-job") == 0, "the file is good"
    assert "ask again when fewer jobs of yours are in the queue" in capsys.readouterr().out
    assert len(limited.jobs()) == 4
    before = [item.tasks for item in Ledger(trial.runs).read()]
    assert trial.submit() == 0
    assert "submitted 0 runs with 0 calls of sbatch" in capsys.readouterr().out
    assert [item.tasks for item in Ledger(trial.runs).read()] == before
    assert trial.counts() == {"missing": 6, "queued": 4}
    limited.run("scontrol", "release", *limited.jobs())
    trial.write_site()
    monkeypatch.setattr(slurm.__main__, "FOLLOW_S", 0.5)
    assert trial.submit("--follow") == 0
    assert "wait for room" in capsys.readouterr().out
    trial.assert_done()
    tasks = [name for item in Ledger(trial.runs).read() for task in item.tasks for name in task]
    assert sorted(tasks) == sorted(trial.ids)


def test_max_jobs_is_over_all_arrays(lab: MakeLab, capsys: pytest.CaptureFixture[str]) -> None:
    trial = lab(folds(2, seeds=2, epochs=1), max_jobs="3", sbatch="{hold: true}")
    assert trial.submit("--seeds", "1") == 0
    assert [len(item.jobs) for item in Ledger(trial.runs).read()] == [2, 1]
    chosen = {name for item in Ledger(trial.runs).read() for task in item.tasks for name in task}
    assert {trial.plan.runs[name].fields["seed"] for name in chosen} == {1}
    capsys.readouterr()
    assert trial.submit() == 0
    assert "3 runs wait for room in the queue: 3 jobs of yours are in the queue, and max_jobs is 3" in capsys.readouterr().out
    assert trial.submit("--max-jobs", "5") == 0
    assert trial.counts() == {"missing": 1, "queued": 5}
    assert trial.call("status", "trial") == 1, "they are held, and all six are listed"
    assert re.search(r"^6 runs: ", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize("ends_well", [True, False])
def test_runs_wait_for_a_job_that_brings_the_data(lab: MakeLab, ends_well: bool) -> None:
    """Folds and their final begin when it has ended well; where it has not, none of them does. Its files need not be there."""
    spec = folds(2, seeds=1, epochs=1)
    trial = lab(spec if ends_well else spec.replace("dataset: digits, model: digits_cnn", "dataset: cifar10"), check_data="true")
    download = trial.box.run("sbatch", "--parsable", "--hold", "--output=/dev/null", f"--wrap=exit {0 if ends_well else 1}").strip()
    assert ends_well or trial.submit() == 2
    assert trial.submit("--after", download) == 0
    assert trial.counts() == {"queued": 3}
    assert trial.box.run("squeue", "-h", "-o", "%E").count(f"afterok:{download}") == 2, "the folds, and their final"
    trial.box.run("scontrol", "release", download)
    if ends_well:
        trial.assert_done()
    else:
        trial.wait_until_over(60.0)
        assert not list(trial.runs.glob("*/metrics.jsonl"))
        assert "done" not in trial.counts()


def test_what_was_cancelled_meanwhile_is_not_sent_again(lab: MakeLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a submission that stays."""
    trial = lab(plain(4, epochs=1), max_jobs="2", sbatch="{hold: true}")

    def cancel(seconds: float) -> None:
        trial.box.empty()

    monkeypatch.setattr("slurm.__main__.time.sleep", cancel)
    assert trial.submit("--follow") == 0
    assert [name for item in Ledger(trial.runs).read() for task in item.tasks for name in task] == trial.ids
