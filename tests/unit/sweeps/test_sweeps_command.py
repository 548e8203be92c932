import math
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from made_specs import write
from run_folders import done_run, ended_run

import sweeps.__main__
from repro.files import read_json, write_json
from repro.runs.folder import RunFolder
from repro.runs.manifest import seal
from repro.runs.state import read_state, requeue
from sweeps.__main__ import main
from sweeps.local.progress import Outcome
from sweeps.plan.plan import Plan, PlannedRun, make_plan
from sweeps.spec.load import load_spec

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
    return write(tmp_path, SPEC)


@pytest.fixture
def part(tmp_path: Path) -> str:
    return write(tmp_path, ONE_HOT, "part.yaml")


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
    assert lines[:4] == [
        "tried: 2 cells, 4 runs (1 shared with part), 3 missing, 1 done",
        "part: 2 cells (1 left out), 2 runs (1 shared with tried), 1 missing, 1 done",
        "together: 5 runs, 1 of them shared, 4 missing, 1 done",
        "stage 1: 4 runs, stage 2: 1 run",
    ]
    assert "not tuned yet: class_labels for digits, digits_cnn" in lines
    assert any(line.endswith(f"To tune: python -m sweeps tune {spec} {part} --runs {runs}") for line in lines)
    table = [re.split(r" {2,}", line) for line in lines]
    assert ["GPU-hours", "all runs", "not done", "from"] in table
    assert ["model digits_cnn", "< 0.01", "< 0.01", "5 runs by counted steps"] in table
    assert ["spec part", "< 0.01", "< 0.01", "2 runs by counted steps"] in table
    *lines, heading, _, _, disk = lines
    assert re.split(r" {2,}", heading) == ["disk", "all runs", "not done", "of all, label trajectories"]
    assert re.search(rf"are in {runs}, .* more are needed, and .* of checkpoints while one trains; .* are free", disk)
    assert lines[-7:-5] == [
        "GPU: A100 SXM 80GB (assumed; --gpu names another; known: a100, h100, h200, v100, l40s), executed as exec=auto there: "
        "bfloat16, CUDA graphs",
        "counted steps: FLOPs, bytes and launches at 0.5 of the roofline (assumed; --reached changes it)",
    ]
    assert [line[0] for line in table[-9:-5]] == [
        "executed in",
        "float32, one operation after another",
        "TF32, CUDA graphs",
        "bfloat16, CUDA graphs",
    ]
    assert re.fullmatch(
        r"runs_per_gpu for model digits_cnn: 8 \(a run needs up to 1\.0 GiB and keeps the GPU \d%( to \d%)? busy\)", lines[-1]
    )


def test_hours_follow_the_rate_and_the_finished_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, runs = tmp_path / "large.yaml", tmp_path / "runs"
    text = ONE_HOT.replace("digits, optim.epochs: 1, model: digits_cnn, model.width: 4", "cifar10").replace(
        "{label: A}", "{label: A, set: {model: wrn_28_10}}"
    )
    path.write_text(
        text.replace("label: B, set: {model.width: 7}", "label: B, set: {model: vgg16, dataset.side: 4}").partition("cells:")[0]
        + "repeats: {seed: [0, 1]}\nvalue: {metric: test/accuracy, epoch: last}\n"
    )

    def hours(*more: str) -> list[list[str]]:
        assert main(["plan", str(path), "--runs", str(runs), *more]) == 0
        return [re.split(r" {2,}", line) for line in capsys.readouterr().out.splitlines()]

    shown = hours()
    whole = next(line[1] for line in shown if line[0] == "all")
    assert ["all", whole, whole, "2 runs by counted steps, 2 runs without estimate"] in shown
    assert ["bfloat16, CUDA graphs", whole] in shown
    assert any(line[0].startswith("no estimate for 2 runs: the network vgg16 cannot be counted: ") for line in shown)
    [[gpu], [rate]] = [line for line in hours("--gpu", "v100", "--reached", "0.25") if line[0].startswith(("GPU:", "counted"))]
    assert gpu.startswith("GPU: V100 SXM2 32GB (as --gpu says; ")
    assert gpu.endswith(": float32, CUDA graphs")
    assert rate == "counted steps: FLOPs, bytes and launches at 0.25 of the roofline (as --reached says)"
    assert [line[0] for line in hours("--gpu", "v100") if line[0].startswith(("float32", "TF32", "bfloat16"))] == [
        "float32, one operation after another",
        "float32, CUDA graphs",
    ]

    first = next(iter(planned(str(path), runs)))
    done_run(runs / first)
    write_json(runs / first / "cost.json", {"gpu_hours": 2000.0})
    write_json(runs / first / "provenance.json", {"device": "NVIDIA H100 80GB HBM3"})
    seal(runs / first)
    write_json(runs / first / "status.json", {"state": "done", "epoch": 120})
    shown = hours()
    assert ["all", "4,000", "2,000", "2 runs by finished runs, 2 runs without estimate"] in shown
    assert any(line[0].startswith("GPU: H100 SXM (that of 1 finished run; ") for line in shown)
    for option, wrong, why in (
        *(("--reached", wrong, f"'{wrong}' must be a number above 0") for wrong in ("0", "-1", "nan", "fast")),
        ("--reached", "1.1", "'1.1' must be at most 1"),
        ("--gpu", "h10", "there are no numbers of a GPU 'h10'. Did you mean 'h100'? Allowed: a100, h100, h200, v100, l40s."),
    ):
        with pytest.raises(SystemExit):
            main(["plan", str(path), option, wrong])
        assert why in capsys.readouterr().err


def test_hours_of_runs_on_cpus_say_nothing_of_a_gpu(part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    name = next(iter(planned(part, runs)))
    done_run(runs / name, fields=planned(part, runs)[name].fields)
    write_json(runs / name / "cost.json", {"gpu_hours": 0.0, "wall_s": 3600.0})
    write_json(runs / name / "provenance.json", {"device": "cpu (made)", "threads": 2})
    seal(runs / name)
    write_json(runs / name / "status.json", {"state": "done", "epoch": 1})
    assert main(["plan", part, "--runs", str(runs)]) == 0
    shown = capsys.readouterr().out
    assert "GPU" not in shown
    assert ["all", "4.00", "2.00", "2 runs by finished runs"] in [re.split(r" {2,}", line) for line in shown.splitlines()]
    assert main(["plan", part, "--runs", str(runs), "--gpu", "h100"]) == 0
    heads = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith(("CPU-hours ", "GPU-hours "))]
    assert heads == ["CPU-hours", "GPU-hours"]


def test_status_shows_the_grid_and_the_inputs(spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    fold = next(name for name, run in planned(spec, runs).items() if run.fields.get("split.fold") == 1)
    done_run(runs / fold)
    assert main(["status", spec, "--runs", str(runs)]) == 0
    written = capsys.readouterr()
    assert written.err == f"composing the runs of tried, reading their states in {runs}\n"
    lines = [re.split(r" {2,}", line) for line in written.out.splitlines()]
    assert lines[2:] == [
        ["One-hot", "0/1"],
        ["Replay", "0/1"],
        ["their inputs: 1/2"],
    ]


def test_status_shows_the_values_of_runs_that_are_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, runs = tmp_path / "tried.yaml", tmp_path / "runs"
    path.write_text(
        "title: T\nkind: table\ncolumns: [{label: Digits, set: {dataset: digits}}]\ncommon: {method: one_hot}\nrepeats: {seed: [0, 1, 2]}\n"
        "rows: [{label: A, set: {optim.epochs: 2}}, {label: B, set: {optim.epochs: 3}}, {label: C, set: {optim.epochs: 4}}]\n"
        "value: {metric: test/accuracy, epoch: best_val, scale: percent, decimals: 2}\n"
    )
    names = list(planned(str(path), runs))
    for name, accuracy in zip(names, (0.9, 0.92, 0.94, 0.5, math.nan, 0.1, 0.1), strict=False):
        done_run(runs / name, accuracy=0.0, best_val=accuracy)
    final = runs / names[6] / "final.json"
    final.write_text(final.read_text().replace("0", "1"))
    assert main(["status", str(path), "--runs", str(runs)]) == 0
    lines = [re.split(r" {2,}", line) for line in capsys.readouterr().out.splitlines()]
    assert lines[2:] == [["A", "3/3", "92.00 ± 2.00"], ["B", "3/3", "diverged"], ["C", "1/3", "damaged"]]


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
    monkeypatch.setattr("repro.runs.state.read_state", lambda folder: next(looks))
    assert not requeue(tmp_path / "a")
    assert read_json(tmp_path / "a" / "status.json")["state"] == "done"


def test_run_trains_the_inputs_first(spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    assert main(["run", spec, "--runs", str(runs), "--jobs", "2", "--set", "tracker=none"]) == 0
    written = capsys.readouterr()
    assert "4 of 4 runs done" in written.out
    (replay,) = [name for name in planned(spec, runs) if name.startswith("replay")]
    assert "[4/4] done in" in written.err.splitlines()[-1]
    assert replay in written.err.splitlines()[-1]
    folds = planned(spec, runs)[replay].inputs
    assert set(read_json(runs / replay / "provenance.json")["inputs"]) == set(folds)


@pytest.mark.parametrize(
    ("ended", "code", "said"),
    [
        ("done", 0, "class_labels for digits, digits_cnn: method.learning_rate=0.3 (val/accuracy 0.5000 at last, the best of 2 points)"),
        ("stopped", 130, "stopped; the same command resumes."),
        ("failed", 1, "ValueError: no"),
        ("changed", 1, "(made by other code: repro/engine/step.py)"),
    ],
)
def test_tune_prints_what_was_chosen_or_why_nothing_was(
    spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ended: str, code: int, said: str
) -> None:
    def run_missing(plan: Plan, *, jobs: int, **_: Any) -> Outcome:
        assert jobs == 3
        first, *others = plan.runs
        if ended == "stopped":
            return Outcome(stopped_by=signal.SIGINT)
        for name in others if ended == "failed" else plan.runs:
            done_run(plan.folder / name)
            write_json(plan.folder / name / "final.json", {"val/accuracy": {"last": 0.5}})
            seal(plan.folder / name)
        return Outcome(
            failed={first: "ValueError: no"} if ended == "failed" else {},
            changed={first: "repro/engine/step.py"} if ended == "changed" else {},
        )

    monkeypatch.setattr(sweeps.__main__, "run_missing", run_missing)
    file = tmp_path / "tuned" / "paper.yaml"
    assert main(["tune", spec, "--runs", str(tmp_path / "runs"), "--tuned", str(file.parent), "--jobs", "3"]) == code
    written = capsys.readouterr()
    assert said in (written.out if ended == "done" else written.err)
    assert (f"chosen values: {file}" in written.out) == file.exists() == (ended == "done")


def test_a_spec_without_tunings_has_nothing_to_tune(part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", part, "--runs", str(tmp_path / "runs"), "--tuned", str(tmp_path / "tuned")]) == 0
    assert capsys.readouterr().out == "there is nothing to tune\n"
