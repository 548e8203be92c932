"""What a task of a job does; SLURM's own part is tested on a SLURM."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import repro.config.compose
import repro.training.run
import slurm.job
from repro.errors import Interrupted, UserError
from repro.files import write_json
from repro.runs.state import TrainedElsewhereError
from slurm.job import EXIT_REQUEUE, Train


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return a function that does the task of a run whose training does one after the other what it is given."""

    def run(*behaviours: BaseException | None, number: int = 0) -> str:
        left = list(behaviours)

        def execute(config: object) -> None:
            if (behaviour := left.pop(0)) is not None:
                raise behaviour

        monkeypatch.setattr(repro.config.compose, "compose", lambda overrides: overrides)
        monkeypatch.setattr(repro.training.run, "execute", execute)
        monkeypatch.setenv("SLURM_PROCID", str(number))
        result = Train(tmp_path, (("run", ("x=1",)),))()
        assert not left
        return result

    monkeypatch.setattr(slurm.job, "_hide_signals_from_children", lambda: None)
    monkeypatch.setattr(slurm.job, "_write_to", lambda log: None)
    monkeypatch.setattr(slurm.job, "LOOK_S", 0.0)
    return run


def test_a_run_that_others_train_is_waited_for(task: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert task(TrainedElsewhereError(tmp_path), TrainedElsewhereError(tmp_path), None) == "done"
    assert "waiting: " in capsys.readouterr().out
    assert task(number=1) == "there are fewer runs than tasks"


@pytest.mark.parametrize(
    ("error", "code"),
    [(Interrupted(signal.SIGUSR2), EXIT_REQUEUE), (Interrupted(signal.SIGTERM), 143), (UserError("no data"), 2)],
)
def test_an_exit_code_says_what_becomes_of_the_job(task: Callable[..., str], error: BaseException, code: int) -> None:
    with pytest.raises(SystemExit) as caught:
        task(error)
    assert caught.value.code == code


def test_what_has_failed_is_not_trained_by_the_same_job(task: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    write_json(tmp_path / "run" / "status.json", {"state": "failed"})
    with pytest.raises(SystemExit):
        task()


def test_a_signal_before_the_training_is_not_lost(task: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm.job, "_write_to", lambda log: signal.raise_signal(signal.SIGUSR2))
    with pytest.raises(SystemExit) as caught:
        task()
    assert caught.value.code == EXIT_REQUEUE


def test_children_do_not_hear_the_signals(tmp_path: Path) -> None:
    """SLURM sends them to every process of a job, such as the service of W&B; this one hears them, and writes to its log."""
    code = f"""
import os, signal, subprocess, time
from pathlib import Path
from repro.command import stop_signals
from slurm.job import _SIGNALS, _hide_signals_from_children, _write_to
with stop_signals(_SIGNALS) as received:
    _hide_signals_from_children()
    _write_to(Path({str(tmp_path)!r}) / "logs" / "run.log")
    child = subprocess.Popen(["sleep", "60"])
    for number in _SIGNALS:
        child.send_signal(number)
        os.kill(os.getpid(), number)
    # A loop that never lets go of the interpreter may not hear of a signal that came in another thread.
    while len(received) < 2:
        time.sleep(0.001)
    print(child.poll(), flush=True)
    child.kill()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert (tmp_path / "logs" / "run.log").read_text() == "None\n"
