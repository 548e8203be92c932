from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from run_folders import done_run, ended_run

import sweeps.__main__
import sweeps.tuning
from repro.files import read_json, write_json
from repro.manifest import seal
from repro.rundir import RunFolder, read_state, requeue
from sweeps.__main__ import main
from sweeps.local import Outcome
from sweeps.nodes import Place
from sweeps.plan import Plan, PlannedRun, make_plan
from sweeps.scale import PAPER, Scale
from sweeps.settings import Setting
from sweeps.spec import Spec, load_spec
from sweeps.tuned import Chosen, GridPoint


@pytest.fixture(autouse=True)
def announced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a method be announced that is not there."""
    monkeypatch.setattr("sweeps.graph.ANNOUNCED", ("soon",))


SPEC = """\
title: A graph
kind: table
common: {dataset: digits, optim.epochs: 1, model: digits_cnn, model.width: 4}
runs:
  folds:
    set: {method: class_labels, split: fold, split.num_folds: 2}
    each: {split.fold: [0, 1]}
    tuned: class_labels
tuning:
  class_labels:
    set: {method: class_labels, split: fold, split.fold: 0, seed: 0}
    grid: {method.learning_rate: [0.1, 0.3]}
    otherwise: {method.learning_rate: 0.3}
rows:
  - {label: One-hot, set: {method: one_hot, split: full}}
  - {label: Replay, set: {method: replay, split: full}, inputs: {labels: folds}}
  - {label: Focal, set: {method: soon, split: full}}
columns:
  - {label: A}
repeats: {seed: [0]}
value: {metric: test/accuracy, epoch: last}
"""

ONE_HOT = """\
title: A part of it
kind: table
common: {dataset: digits, optim.epochs: 1, model: digits_cnn, model.width: 4, method: one_hot, split: full}
rows:
  - {label: One-hot}
columns:
  - {label: A}
  - {label: B, set: {model.width: 7}}
cells: [{row: One-hot, column: B, skip: too wide}]
repeats: {seed: [0, 1]}
value: {metric: test/accuracy, epoch: last}
"""


@pytest.fixture
def spec(tmp_path: Path) -> str:
    (tmp_path / "tried.yaml").write_text(SPEC)
    return str(tmp_path / "tried.yaml")


@pytest.fixture
def part(tmp_path: Path) -> str:
    (tmp_path / "part.yaml").write_text(ONE_HOT)
    return str(tmp_path / "part.yaml")


def planned(spec: str, runs: Path) -> dict[str, PlannedRun]:
    """The runs of a spec, by their ids."""
    return {run.run_id: run for run in make_plan([load_spec(spec)], runs).runs.values()}


def test_plan_says_what_is_needed_shared_in_which_stage_and_how_long(
    spec: str, part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    one_hot = next(name for name in planned(spec, runs) if name.startswith("one_hot"))
    done_run(runs / one_hot)
    assert main(["plan", spec, part, "--runs", str(runs)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == [
        "tried: 3 cells (1 not built), 4 runs (1 shared with part), 3 missing, 1 done",
        "- 1 cell not built: soon",
        "part: 2 cells (1 left out), 2 runs (1 shared with tried), 1 missing, 1 done",
        "together: 5 runs, 1 of them shared, 4 missing, 1 done",
        "stage 1: 4 runs, stage 2: 1 run",
    ]
    assert "not tuned yet: class_labels for digits, digits_cnn" in lines
    assert any(line.endswith(f"To tune: python -m sweeps tune {spec} {part} --runs {runs}") for line in lines)
    table = [re.split(r" {2,}", line) for line in lines]
    assert ["GPU-hours", "all runs", "not done", "from"] in table
    assert ["model digits_cnn", "< 0.01", "< 0.01", "5 runs by counted FLOPs"] in table
    assert ["spec part", "< 0.01", "< 0.01", "2 runs by counted FLOPs"] in table
    assert lines[-1] == "counted FLOPs: multiply-accumulates times 2, at 20 TFLOP/s (assumed; --tflops changes it)"


def test_hours_follow_the_rate_and_the_finished_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, runs = tmp_path / "large.yaml", tmp_path / "runs"
    text = ONE_HOT.replace("digits, optim.epochs: 1, model: digits_cnn, model.width: 4", "cifar10, model: wrn_28_10")
    path.write_text(
        text.replace("label: B, set: {model.width: 7}", "label: B, set: {model.widen_factor: 7}").partition("cells:")[0]
        + "repeats: {seed: [0, 1]}\nvalue: {metric: test/accuracy, epoch: last}\n"
    )

    def hours(*more: str) -> list[list[str]]:
        assert main(["plan", str(path), "--runs", str(runs), *more]) == 0
        return [re.split(r" {2,}", line) for line in capsys.readouterr().out.splitlines()]

    at_20 = 2 * 5_243_328_768 * (3 * 50_000 * 120 + 121 * 10_000) / 20e12 / 3600
    shown = hours()
    assert ["all", f"{2 * at_20:.2f}", f"{2 * at_20:.2f}", "2 runs by counted FLOPs, 2 runs without estimate"] in shown
    assert [
        "no estimate for 2 runs: model=wrn_28_10 depth=28 dropout=0.0 widen_factor=7 for cifar10 does not stand in sweeps/macs.yaml"
    ] in shown
    shown = hours("--tflops", "40")
    assert ["all", f"{at_20:.2f}", f"{at_20:.2f}", "2 runs by counted FLOPs, 2 runs without estimate"] in shown
    assert shown[-2] == ["counted FLOPs: multiply-accumulates times 2, at 40 TFLOP/s (as --tflops says)"]

    first = next(iter(planned(str(path), runs)))
    done_run(runs / first)
    write_json(runs / first / "cost.json", {"gpu_hours": 2000.0})
    seal(runs / first)
    write_json(runs / first / "status.json", {"state": "done", "epoch": 120})
    shown = hours()
    assert ["all", "4,000", "2,000", "2 runs by finished runs, 2 runs without estimate"] in shown
    for wrong in ("0", "-1", "nan", "inf", "fast"):
        with pytest.raises(SystemExit):
            main(["plan", str(path), "--tflops", wrong])
        assert f"'{wrong}' must be a number above 0" in capsys.readouterr().err


def test_status_shows_what_is_not_built_and_the_inputs(spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    fold = next(name for name, run in planned(spec, runs).items() if run.fields.get("split.fold") == 1)
    done_run(runs / fold)
    assert main(["status", spec, "--runs", str(runs)]) == 0
    lines = [re.split(r" {2,}", line) for line in capsys.readouterr().out.splitlines()]
    assert lines[2:] == [
        ["One-hot", "0/1"],
        ["Replay", "0/1"],
        ["Focal", "not built"],
        ["- Focal, A: not built: soon"],
        ["their inputs: 1/2"],
    ]


def test_a_scale_stamps_what_is_printed(spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("plan", "status"):
        assert main([command, spec, "--scale", "smoke", "--runs", str(tmp_path / "runs")]) == 0
        assert capsys.readouterr().out.startswith("scale smoke: ")
    assert (tmp_path / "runs" / "plans" / "smoke" / "tried.json").is_file()
    assert main(["plan", spec, "--scale", "smokes"]) == 2
    assert "Did you mean 'smoke'?" in capsys.readouterr().err


def test_retry_queues_failed_and_lost_runs_and_leaves_running_ones_alone(
    spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    failed, lost, held, done = planned(spec, runs)
    ended_run(runs / failed, "failed", "ValueError: no")
    (runs / failed / "checkpoint.pt").write_text("kept")
    (runs / lost).mkdir()
    (runs / lost / "status.json").write_text("{")
    done_run(runs / done)
    with RunFolder(runs / held).hold(heartbeat_s=100, epochs=2) as folder:
        # It looks lost, but its process has the lock.
        status = read_json(runs / held / "status.json")
        write_json(runs / held / "status.json", status | {"heartbeat": "2001-01-01T00:00:00+00:00"})
        assert read_state(runs / held) == "lost"
        assert main(["retry", spec, "--runs", str(runs)]) == 0
        folder.end("failed", error="ValueError: later")
    written = capsys.readouterr().out
    assert written.startswith("2 of 3 failed, lost and damaged runs are queued again; the next `python -m sweeps run` takes them.\n")
    assert f"({held})" in written.splitlines()[1]
    assert [read_state(runs / name) for name in (failed, lost, held, done)] == ["queued", "queued", "failed", "done"]
    assert read_json(runs / failed / "status.json")["attempt"] == 1
    assert read_json(runs / failed / "status.json")["error"] is None
    assert (runs / failed / "checkpoint.pt").read_text() == "kept"
    assert [run.state for run in planned(spec, runs).values()] == ["queued", "queued", "failed", "done"]
    assert main(["retry", spec, "--runs", str(runs)]) == 0
    assert capsys.readouterr().out.startswith("1 of 1 failed")


def test_a_run_that_ends_while_it_is_queued_again_keeps_its_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done_run(tmp_path / "a")
    looks = iter(["lost", "done"])
    monkeypatch.setattr("repro.rundir.read_state", lambda folder: next(looks))
    assert not requeue(tmp_path / "a")
    assert read_json(tmp_path / "a" / "status.json")["state"] == "done"


def test_run_trains_the_inputs_first_and_names_what_it_skips(spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    assert main(["run", spec, "--runs", str(runs), "--jobs", "2", "--set", "tracker=none"]) == 0
    written = capsys.readouterr()
    assert "4 of 4 runs done" in written.out
    (replay,) = [name for name in planned(spec, runs) if name.startswith("replay")]
    assert "[4/4] done in" in written.err.splitlines()[-1]
    assert replay in written.err.splitlines()[-1]
    folds = planned(spec, runs)[replay].inputs
    assert set(read_json(runs / replay / "provenance.json")["inputs"]) == set(folds)

    write_json(runs / folds[0] / "status.json", {"state": "failed", "error": "ValueError: no", "attempt": 1})
    write_json(runs / replay / "status.json", {"state": "preempted", "attempt": 1})
    assert main(["run", spec, "--runs", str(runs), "--set", "tracker=none"]) == 1
    written = capsys.readouterr()
    assert "2 of 4 runs done" in written.out
    assert f"({folds[0]}): ValueError: no (failed before; --retry tries it again)" in written.err
    assert f"skipped: tried: Replay, A, seed=0 ({replay}): its input {folds[0]} failed" in written.err


Execute = Callable[[Plan], Outcome]


def chosen(path: Path) -> Chosen:
    def rate(value: float) -> tuple[Setting, ...]:
        return (Setting("method.learning_rate", value, Place(path, 1)),)

    grid = (GridPoint(rate(0.1), 0.25, "a"), GridPoint(rate(0.3), 0.5, "b"))
    return Chosen("class_labels", "digits", "digits_cnn", rate(0.3), "val/accuracy", "last", 0, grid, Place(path, 1))


@pytest.mark.parametrize(("outcome", "code"), [(Outcome(), 0), (Outcome(failed={}, stopped_by=2), 130), (None, 0)])
def test_tune_prints_what_was_chosen(
    spec: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    outcome: Outcome | None,
    code: int,
) -> None:
    def tune(specs: Sequence[Spec], scale: Scale, runs: Path, folder: Path, execute: Execute) -> list[Chosen]:
        assert ([item.name for item in specs], scale, runs, folder) == (["tried"], PAPER, tmp_path / "runs", tmp_path / "tuned")
        if outcome is None:
            return []
        return [] if execute(make_plan(specs, runs)).stopped_by else [chosen(folder)]

    asked: list[int] = []

    def run_missing(plan: Plan, *, jobs: int, changed_code: str, **_: Any) -> Outcome:
        asked.append(jobs)
        assert outcome is not None
        return outcome

    monkeypatch.setattr(sweeps.tuning, "tune", tune)
    monkeypatch.setattr(sweeps.__main__, "run_missing", run_missing)
    command = ["tune", spec, "--runs", str(tmp_path / "runs"), "--tuned", str(tmp_path / "tuned"), "--jobs", "3"]
    assert main(command) == code
    lines = capsys.readouterr().out.splitlines()
    if outcome is None:
        assert lines == ["there is nothing to tune"]
        return
    assert asked == [3]
    if code == 0:
        assert lines[1:] == [
            "class_labels for digits, digits_cnn: method.learning_rate=0.3 (val/accuracy 0.5000 at last, the best of 2 points)",
            f"chosen values: {tmp_path / 'tuned' / 'paper.yaml'}",
        ]
    else:
        assert lines[1:] == []


def test_tune_ends_with_1_when_a_run_of_a_grid_failed(
    spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_missing(plan: Plan, *, jobs: int, changed_code: str, **_: Any) -> Outcome:
        return Outcome(failed={next(iter(plan.runs)): "ValueError: no"})

    monkeypatch.setattr(sweeps.__main__, "run_missing", run_missing)
    assert main(["tune", spec, "--runs", str(tmp_path / "runs"), "--tuned", str(tmp_path / "tuned")]) == 1
    written = capsys.readouterr().err
    assert "ValueError: no" in written
    assert "error: " in written


def test_tune_takes_no_score_that_other_code_has_made(
    spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_missing(plan: Plan, *, jobs: int, changed_code: str, **_: Any) -> Outcome:
        for name in plan.runs:
            done_run(plan.folder / name)
            write_json(plan.folder / name / "final.json", {"val/accuracy": {"last": 0.5}})
            seal(plan.folder / name)
        return Outcome(changed={next(iter(plan.runs)): "repro/step.py"})

    monkeypatch.setattr(sweeps.__main__, "run_missing", run_missing)
    assert main(["tune", spec, "--runs", str(tmp_path / "runs"), "--tuned", str(tmp_path / "tuned")]) == 1
    assert "(made by other code: repro/step.py)" in capsys.readouterr().err
    assert not (tmp_path / "tuned").exists()


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sweeps", "status", "demo_tuning", "--runs", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.wait(timeout=300) == 128 + signal.SIGPIPE
    assert process.stderr.read() == b""
    process.stderr.close()
