"""Short runs one after another in a job, their time by estimate, and what accounting says of them in the end."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from box import Box
from lab import Lab, folds, plain
from test_submission import block, final_of, folds_of

from slurm.jobs.ledger import Ledger

MakeLab = Callable[..., Lab]

pytestmark = pytest.mark.slurm


def test_a_fold_that_raises_takes_nobody_along(lab: MakeLab) -> None:
    """Two by two, one pair after the other; then its final is all that is lost, and comes with the retry."""
    trial = lab(folds(4, seeds=1, epochs=8), runs_per_gpu="2", runs_per_job="2")
    bad, final = folds_of(trial, 0)[0], final_of(trial, 0)
    in_the_way = block(trial, bad)
    assert trial.submit() == 0
    assert [[len(task) for task in item.tasks] for item in Ledger(trial.runs).read()] == [[4], [1]]
    trial.wait_until_over()
    assert trial.states() == dict.fromkeys(trial.ids, "done") | {bad: "failed", final: "cancelled"}
    second, third, fourth = map(trial.status, folds_of(trial, 0)[1:])
    assert max(third["started"], fourth["started"]) >= second["ended"]
    in_the_way.unlink()
    assert trial.submit("--retry") == 0
    trial.assert_done(attempts=(1, 2))


def test_a_warning_leaves_the_rest_to_the_next_attempt(lab: MakeLab, capsys: pytest.CaptureFixture[str]) -> None:
    trial = lab(plain(3, epochs=20), runs_per_job="3")
    first, *others = trial.begun(epoch=1)
    assert trial.states() == {first: "running"} | dict.fromkeys(others, "queued")
    assert trial.call("status", "trial") == 0
    assert capsys.readouterr().out.count("behind others of its job") == 2
    job = str(trial.views()[first].job)
    assert {view.job for view in trial.views().values()} == {job}
    trial.box.run("scancel", "--signal=USR2", job)
    trial.wait(lambda: trial.states() == dict.fromkeys(trial.ids, "queued"))
    assert trial.status(first)["state"] == "preempted"
    assert not any((trial.runs / name).exists() for name in others)
    trial.assert_done(attempts=(1, 2))
    assert [trial.status(name)["attempt"] for name in trial.ids] == [2, 1, 1]
    assert {trial.status(name)["slurm_job"] for name in trial.ids} == {job}


def test_a_model_has_its_partition_and_a_time_by_estimate(lab: MakeLab) -> None:
    """Once runs of its kind are done; then 10 minutes and the warning remain of 30."""
    trial = lab(plain(2, epochs=1), by_model="{digits_cnn: {partition: urgent, qos: normal, time_factor: 2}}", sbatch="{hold: true}")
    assert trial.submit() == 0
    assert trial.box.run("squeue", "-h", "-r", "-o", "%P %l").split() == ["urgent", "30:00"] * 2, "nobody knows how fast any GPU is"
    assert trial.call("cancel", "trial") == 0
    trial.wait_until_over()
    trial.write_site(by_model="{digits_cnn: {gpu: none, time_min: '00:05:00'}}", time_factor="3")
    assert trial.submit() == 0
    trial.assert_done(attempts=(1,))
    # Now runs of this kind are done, and their CPU-hours count.
    more = lab(plain(3, epochs=1), by_model="{digits_cnn: {gpu: none, time_min: '00:05:00'}}", time_factor="3", sbatch="{hold: true}")
    assert more.submit() == 0
    assert more.box.run("squeue", "-h", "-o", "%P %l").split() == ["main", "11:00"]
    assert "TimeMin=00:05:00" in more.box.run("scontrol", "show", "job", more.box.jobs()[0])


def test_what_jobs_took_of_what_they_asked_for(lab: MakeLab, make_box: Callable[..., Box], capsys: pytest.CaptureFixture[str]) -> None:
    trial = lab(plain(2, epochs=3), box=make_box(accounting=True, AccountingStorageTRES="gres/gpu"), runs_per_job="2")
    assert trial.submit() == 0
    trial.assert_done()

    def lines() -> list[str]:
        capsys.readouterr()
        assert trial.call("summary", "trial") == 0
        return capsys.readouterr().out.splitlines()

    # The accounts come a moment later.
    trial.wait(lambda: len(lines()) == 3, 60)
    found = re.fullmatch(
        r"trial-instance_labels-digits_cnn +1 +(0\.\d\d) +(0\.\d\d) +(\d+)% +not measured +(\d[\d,]*) of 3,072 MiB", lines()[1]
    )
    assert found
    assert found[1] == found[2]
    assert int(found[3]) > 0
    assert 100 < int(found[4].replace(",", "")) < 3072


def test_without_accounting_there_is_no_summary(lab: MakeLab, capsys: pytest.CaptureFixture[str]) -> None:
    trial = lab(plain(1, epochs=1), sbatch="{hold: true}")
    assert trial.submit() == 0
    capsys.readouterr()
    assert trial.call("summary") == 0
    assert "no accounts: there is no sacct, or it knows no job of these that is over" in capsys.readouterr().out
