"""The steps of the command for a rented GPU, without training."""

from __future__ import annotations

import importlib
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import filelock
import psutil
import pytest
import torch
from run_folders import ended_run

from benchmarks import rent, rent_steps
from benchmarks.rent_evidence import project
from benchmarks.rent_steps import Ended, divide, run_for
from repro.files import read_json
from sweeps.plan import make_plan
from sweeps.spec import load_spec

MACHINE = {"gpu": "Abacus", "gpus": 1, "torch": "2.15.0", "cuda": "13.2", "cores": 2, "git": {"sha": "a" * 40, "dirty_sha256": None}}

SPEC = """\
title: Two models
kind: table
common: {dataset: digits, method: one_hot, split: full, optim.epochs: 1}
rows:
  - {label: Narrow, set: {model: digits_cnn, model.width: 4}}
columns: [{label: A}]
repeats: {seed: [0, 1]}
value: {metric: test/accuracy, epoch: last}
"""


def test_the_shares_leave_most_of_the_time_to_training() -> None:
    for minutes in (0.1, 1.0, 10.0, 600.0):
        shares = divide(minutes, ())
        assert 0.4 * shares.total < shares.total - shares.numerics - shares.measure - shares.reserve
        assert shares.reserve >= 0.03 * min(shares.total, 6000)
        assert divide(minutes, ("numerics", "measure")).numerics == divide(minutes, ("measure",)).measure == 0.0


def never() -> bool:
    return False


class Clock:
    """The module :mod:`time`, whose time is over when a test says so."""

    over = False
    sleep = staticmethod(time.sleep)

    def monotonic(self) -> float:
        return time.monotonic() + (1e6 if self.over else 0.0)


def test_a_command_that_takes_too_long_ends_with_all_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rent_steps, "GRACE_S", 0.3)
    code = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)'])\n"
        "print(child.pid, flush=True); time.sleep(600)"
    )
    out, errors = tmp_path / "out", tmp_path / "errors"

    def asked_when_the_child_is_there() -> bool:
        """Say that nobody asks to stop, and make the time over as soon as the child has said its number."""
        if out.read_text().endswith("\n"):
            clock.over = True
        return False

    clock = Clock()
    with monkeypatch.context() as patch:
        patch.setattr(rent_steps, "time", clock)
        ended = run_for([sys.executable, "-c", code], 1000.0, out=out, errors=errors, stopped=asked_when_the_child_is_there)
    assert (ended.state, ended.code) == ("out of time", None)
    child = int(out.read_text())
    began = time.monotonic()
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() - began < 300
        time.sleep(0.02)
    assert run_for([sys.executable, "-c", "1"], 600, out=out, errors=errors, stopped=never).state == "ok"
    failed = run_for([sys.executable, "-c", "raise SystemExit('no')"], 600, out=out, errors=errors, stopped=never)
    assert (failed.state, failed.code, errors.read_text()) == ("failed", 1, "no\n")
    assert run_for([sys.executable, "-c", code], 60, out=out, errors=errors, stopped=lambda: True).state == "stopped"


class Call:
    """Calls of the command on a machine that is said to have a GPU; its golden tests end as told, and no run is trained."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.scripts = folder / "scripts"
        self.scripts.mkdir()
        self.machine: dict[str, Any] = dict(MACHINE)
        self.golden = "ok"
        self.called: list[str] = []
        self.trained = 0
        (folder / "tried.yaml").write_text(SPEC)
        monkeypatch.setattr(rent, "describe_machine", lambda device: self.machine)
        monkeypatch.setattr(rent, "run_for", self.run_for)
        monkeypatch.setattr(rent.Rent, "_train", self.train)

    def run_for(self, command: Sequence[str], seconds: float, **more: Any) -> Ended:
        self.called.append(" ".join(command[1:]).replace(f"{self.scripts}/", ""))
        if "pytest" in command:
            assert more["more"] == {"REPRO_TEST_DEVICE": "cuda"}
            return Ended(self.golden, 0, 1.0)
        return run_for(command, seconds, **more)

    def train(self, *_: object) -> None:
        self.trained += 1

    def __call__(self, *more: str, minutes: str = "2") -> int:
        self.called.clear()
        self.trained = 0
        words = ["--minutes", minutes, "--spec", str(self.folder / "tried.yaml"), "--runs", str(self.folder / "runs")]
        return rent.main([*words, "--out", str(self.folder / "rent"), "--scripts", str(self.scripts), *more])

    @property
    def summary(self) -> dict[str, Any]:
        return dict(read_json(self.folder / "rent" / "summary.json"))


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    return Call(tmp_path, monkeypatch)


GOLDEN = "-m pytest -q -p no:cacheprovider tests/golden"
STEP = "step.py --model digits_cnn --device cuda --json"
THROUGHPUT = "throughput.py --model digits_cnn --device cuda --json"


def test_the_measurements_know_their_command_lines() -> None:
    for name, words in ((name, words.split()[1:]) for name, words in (("step", STEP), ("throughput", THROUGHPUT))):
        options = importlib.import_module(f"benchmarks.{name}")._parser().parse_args(words)
        assert (options.model, options.device, options.json) == ("digits_cnn", "cuda", True)


def test_measurements_are_kept_and_their_failures_stop_nothing(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    (call.scripts / "step.py").write_text("print('[1, 2]')")
    assert call() == 0
    assert call.called == [GOLDEN, STEP]
    assert read_json(call.folder / "rent" / "measure" / "step-digits_cnn.json") == [1, 2]
    found = call.summary["measurements"]
    assert (found["step-digits_cnn"]["state"], found["throughput"]["state"]) == ("ok", "not there")
    assert call.trained == 1

    # What has been measured on this machine is not measured again; what has not, is.
    (call.scripts / "throughput.py").write_text("print('fast')")
    assert call() == 1
    assert call.called == [THROUGHPUT]
    assert call.summary["measurements"]["throughput"]["state"] == "failed: what it printed is no JSON"
    assert call.summary["measurements"]["step-digits_cnn"] == found["step-digits_cnn"]
    assert call.summary["numerics"]["state"] == "ok"
    assert (call.trained, call.summary["wrong"]) == (1, True)
    assert "numerics: ok in an earlier call" in capsys.readouterr().out

    (call.scripts / "throughput.py").write_text("raise SystemExit('no memory')")
    assert call("--again") == 1
    assert call.called == [GOLDEN, STEP, THROUGHPUT]
    assert call.summary["measurements"]["throughput"] | {"seconds": 0} == {"state": "failed", "code": 1, "seconds": 0}
    assert "no memory" in (call.folder / "rent" / "measure" / "throughput.log").read_text()
    call.machine["git"] = {"sha": "b" * 40, "dirty_sha256": None}
    assert call("--skip", "measure") == 0
    assert call.called == [GOLDEN]
    assert len(list((call.folder / "rent" / "earlier").iterdir())) >= 1


def test_a_measurement_that_takes_too_long_leaves_the_time_to_the_others(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    (call.scripts / "step.py").write_text("import time; time.sleep(600)")
    (call.scripts / "throughput.py").write_text("print('{}')")
    monkeypatch.setattr(rent, "divide", lambda minutes, skip: rent_steps.Shares(1200.0, 0.0, 600.0, 1.0, 1.0))
    shares = []

    def impatient(command: Sequence[str], seconds: float, **more: Any) -> Ended:
        shares.append(seconds)
        return run_for(command, 0.3 if command[1].endswith("step.py") else seconds, **more)

    monkeypatch.setattr(rent, "run_for", impatient)
    assert call("--skip", "numerics") == 1
    states = {name: item["state"] for name, item in call.summary["measurements"].items()}
    assert states == {"step-digits_cnn": "out of time", "throughput": "ok"}
    assert shares[0] <= 300.0 < 400.0 < shares[1]
    assert call.trained == 1


def test_no_training_where_the_golden_tests_fail(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    call.golden = "failed"
    assert call() == 1
    assert call.trained == 0
    assert call.summary["training"] == {"state": "left out: numerics"}
    assert "NO TRAINING" in capsys.readouterr().out
    assert call("--train-anyway") == 1
    assert (call.trained, call.called[0]) == (1, GOLDEN)
    call.golden = "out of time"
    assert call() == 1
    assert (call.trained, call.summary["numerics"]["state"]) == (1, "out of time")


def test_mistakes_are_named_before_anything_begins(call: Call, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def error(*more: str) -> str:
        assert call(*more) == 2
        assert (call.called, call.trained) == ([], 0)
        return capsys.readouterr().err

    call.machine["gpu"] = None
    assert "PyTorch finds no CUDA GPU here. Check the driver with nvidia-smi; --device cpu rehearses" in error()
    call.machine["gpu"] = "Abacus"
    assert "--set optim.epochs=2: only what changes no result" in error("--overrides", "optim.epochs=2")
    assert "there is no setting 'exec.compiled'" in error("--overrides", "exec.compiled=true")
    assert "--only Wide: there is no such cell" in error("--only", "Wide")
    (tmp_path / "tried.yaml").write_text(
        SPEC.replace("digits, method", "cifar100, method").replace("digits_cnn, model.width: 4", "resnet18")
    )
    assert "python -m repro.data download cifar100" in error("--overrides", f"paths.data={tmp_path / 'nothing'}")
    with filelock.FileLock(tmp_path / "rent" / ".lock"):
        assert "another call writes there" in error()
    for wrong in (["--skip", "training"], ["--jobs", "0"], ["--seeds", "x"], ["--minutes", "-1"]):
        with pytest.raises(SystemExit):
            call(*wrong)


def test_what_pytorch_says_is_asked_elsewhere_and_its_failure_named(monkeypatch: pytest.MonkeyPatch) -> None:
    here = rent_steps.describe_machine("cpu")
    assert here["torch"] == torch.__version__
    assert rent_steps.describe_machine("cuda") == here
    monkeypatch.setattr(rent_steps.sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="no message"):
        rent_steps.describe_machine("cuda")


def test_the_signals_are_given_back(call: Call) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert call("--skip", "numerics,measure") == 0
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_projection_is_by_measured_epochs(tmp_path: Path) -> None:
    (tmp_path / "tried.yaml").write_text(SPEC.replace("optim.epochs: 1", "optim.epochs: 60"))
    plan = make_plan([load_spec(str(tmp_path / "tried.yaml"))], tmp_path)
    assert project(plan, 1) == []
    first, _ = plan.runs
    ended_run(tmp_path / first, "preempted")
    rows = [{"epoch": 0}, {"epoch": 1, "time/epoch_s": 9.0}, {"epoch": 2, "time/epoch_s": 2.0}, {"epoch": 3, "time/epoch_s": 1.0}]
    (tmp_path / first / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (found,) = project(plan, 1)
    expected = {"kind": "one_hot digits digits_cnn full", "epochs_measured": 3, "epoch_s": 2.0, "minutes_per_run": 2.0, "runs_left": 2}
    assert found == expected | {"minutes_left": 3.9}
    # The run that has not begun takes its two minutes, however many run beside it.
    assert project(plan, 8)[0]["minutes_left"] == 2.0
