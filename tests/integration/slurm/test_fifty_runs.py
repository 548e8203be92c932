"""Fifty runs on a real SLURM, disturbed in every way that there is: nothing is lost or doubled, and each is told."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from box import wait_until
from lab import Lab, folds

from repro.config.compose import compose
from repro.config.identity import identity_document
from repro.files import write_json

pytestmark = pytest.mark.slurm


def block(lab: Lab, name: str) -> Path:
    """Let a run raise: its labels have no place to go. Return what is in their way."""
    folder = lab.runs / name
    folder.mkdir(parents=True)
    write_json(folder / "identity.json", identity_document(compose(lab.plan.runs[name].overrides)))
    (folder / "labels").write_text("in the way")
    return folder / "labels"


def warned(pid: int) -> bool:
    """Whether a suspended process will find the warning when it continues, or has found it: SLURM may wake it."""
    try:
        pending = re.search(r"^ShdPnd:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except FileNotFoundError:
        return True
    return pending is not None and bool(int(pending[1], 16) >> (signal.SIGUSR2 - 1) & 1)


@pytest.mark.timeout(1800)
def test_fifty_runs_and_five_disturbances(lab: Callable[..., Lab], capsys: pytest.CaptureFixture[str]) -> None:
    """Forty folds and ten finals: one fold fails, one is killed, one cancelled, one requeued, and one reaches its time limit."""
    trial = lab(folds(4, seeds=10, epochs=15), time="00:03:00", warning_s=150)
    assert len(trial.ids) == 50
    first_stage = [name for name, run in trial.plan.runs.items() if run.stage == 0]
    limit, killed, requeued, cancelled, bad = first_stage[0], *first_stage[4:8]
    finals = {name: run.inputs for name, run in trial.plan.runs.items() if run.stage == 1}
    in_the_way = block(trial, bad)
    assert trial.submit("--max-jobs", "1") == 0
    assert trial.box.jobs() == [str(trial.views()[limit].job)]
    trial.write_site()
    assert trial.submit() == 0
    jobs = {name: str(view.job) for name, view in trial.views().items()}
    assert len(set(jobs.values())) == 50
    assert sum(job.count("_") for job in jobs.values()) == 39, "folds are arrays of twenty at most, finals wait for their own"
    assert trial.submit() == 0
    assert {name: str(view.job) for name, view in trial.views().items()} == jobs, "what is in the queue is not submitted again"
    assert trial.call("cancel", cancelled) == 0
    # The processor may be too fast for a limit of three minutes, so this one is suspended until it has been warned.
    trial.wait_for(limit)
    process = int(str(trial.status(limit)["pid"]))
    os.kill(process, signal.SIGSTOP)
    trial.wait_for(killed)
    os.kill(int(str(trial.status(killed)["pid"])), signal.SIGKILL)
    trial.wait_for(requeued)
    trial.box.run("scontrol", "requeue", jobs[requeued])
    wait_until(lambda: warned(process), 100, "the warning")
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGCONT)
    trial.wait_until_over()
    lost = {name for name, inputs in finals.items() if {killed, cancelled, bad} & set(inputs)}
    expected = dict.fromkeys(trial.ids, "done") | dict.fromkeys(lost | {killed}, "lost") | {cancelled: "cancelled", bad: "failed"}
    assert {name: view.state for name, view in trial.views().items()} == expected
    assert int(str(trial.status(limit)["attempt"])) > 1
    capsys.readouterr()
    assert trial.call("status", "trial") == 1
    told = capsys.readouterr().out
    for state, name in (("failed", bad), ("lost", killed), ("cancelled", cancelled)):
        assert re.search(rf"^{state} .*{name}", told, re.MULTILINE), told
    assert "FileExistsError" in told or "File exists" in told
    assert re.search(rf"its input {bad} failed", told)
    # What failed is left alone, with its final, until it is asked for; all else is sent again.
    assert trial.submit() == 0
    trial.wait_until_over()
    assert trial.counts() == {"done": 48, "failed": 1, "lost": 1}
    in_the_way.unlink()
    assert trial.submit(command="retry") == 0
    trial.assert_done()
    for name in (limit, killed, requeued, cancelled, bad):
        trial.assert_undisturbed(name)
