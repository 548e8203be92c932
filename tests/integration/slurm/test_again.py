"""Submitting again while a part of the first submission still runs, or while SLURM does not answer."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable

import pytest
from lab import Lab, folds, plain
from test_submission import block, final_of, folds_of

from slurm.jobs.ledger import Ledger

MakeLab = Callable[..., Lab]

pytestmark = pytest.mark.slurm


def test_a_retry_while_the_job_of_the_failed_run_goes_on(lab: MakeLab) -> None:
    """One of three folds in a job has failed and is tried again at once: the final waits for its new job, and is not lost with the old."""
    trial = lab(folds(3, seeds=1, epochs=40), runs_per_gpu="3")
    first, bad, third = folds_of(trial, 0)
    final = final_of(trial, 0)
    in_the_way = block(trial, bad)
    assert trial.submit() == 0
    trial.wait(lambda: trial.states()[bad] == "failed" and trial.epoch(first) >= 0)
    before = trial.views()[final].job
    in_the_way.unlink()
    assert trial.call("retry", str(trial.spec), "--yes") == 0
    states = trial.states()
    assert (states[first], states[third], states[final]) == ("running", "running", "queued"), "the retry came too late to show anything"
    assert trial.views()[final].job != before
    assert trial.views()[bad].job != trial.views()[first].job
    trial.assert_done(attempts=(1, 2))


def test_finals_of_a_grid_are_one_array_and_wait_each_for_its_own(lab: MakeLab) -> None:
    trial = lab(folds(2, seeds=4, epochs=1))
    bad, final = folds_of(trial, 2)[1], final_of(trial, 2)
    in_the_way = block(trial, bad)
    assert trial.submit() == 0
    assert [len(item.jobs) for item in Ledger(trial.runs).read()] == [4, 4, 4]
    trial.wait_until_over()
    assert trial.states() == dict.fromkeys(trial.ids, "done") | {bad: "failed", final: "cancelled"}
    for name in trial.ids:
        for other in trial.plan.runs[name].inputs if name != final else ():
            assert trial.status(other)["ended"] <= trial.status(name)["started"]
    in_the_way.unlink()
    assert trial.submit("--retry") == 0
    trial.assert_done(attempts=(1, 2))


def test_a_dry_run_without_a_controller_knows_what_was_cancelled(lab: MakeLab, capsys: pytest.CaptureFixture[str]) -> None:
    trial = lab(plain(2, epochs=1), sbatch="{hold: true}")
    assert trial.submit() == 0
    assert trial.call("cancel", trial.ids[0]) == 0
    trial.box.kill("slurmctld", signal.SIGTERM)
    try:
        capsys.readouterr()
        assert trial.submit("--dry-run") == 0
    finally:
        trial.box.start_controller()
    told = capsys.readouterr()
    assert re.search(r"^2 runs on cluster site: 1 cancelled, 1 missing$", told.out, re.MULTILINE)
    assert "SLURM does not answer, so this is what run folders and the ledger say: " in told.err
