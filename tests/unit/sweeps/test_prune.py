import os
import re
from pathlib import Path

import numpy as np
import pytest
from made_inputs import write_trajectory
from made_specs import write
from real_runs import tiny
from run_folders import change, done_run

from analysis.reading.runs import read_run
from repro.errors import UserError
from repro.files import read_json, write_json
from repro.runs.inputs import open_inputs
from repro.runs.lock import hold
from repro.runs.manifest import seal
from repro.runs.pruned import prune, pruned_files
from repro.training.run import execute
from sweeps.__main__ import main
from sweeps.local.progress import Outcome
from sweeps.local.tuning import tune
from sweeps.plan.plan import Plan, PlannedRun, make_plan, write_plans
from sweeps.spec.load import PAPER, load_spec

COMMON = "common: {dataset: digits, optim.epochs: 1, model: digits_cnn, model.width: 4}"
SPEC = f"""\
title: Two stages
kind: table
{COMMON}
runs:
  folds:
    set: {{method: instance_labels, split: fold, split.num_folds: 2}}
    each: {{split.fold: [0, 1]}}
rows:
  - {{label: Replay, set: {{method: replay, split: full}}, inputs: {{labels: folds}}}}
columns: [{{label: A}}]
repeats: {{seed: [0, 1]}}
value: {{metric: test/accuracy, epoch: last}}
"""
#: It reads the same folds, and the final runs' models.
OTHER = (
    SPEC.replace("Two stages", "Others")
    .replace(
        "rows:\n",
        """\
  final: {set: {method: replay, split: full}, inputs: {labels: folds}}
rows:
  - {label: Static, set: {method: fixed_labels, split: full}, inputs: {labels: folds}}
  - {label: Student, set: {method: distillation, split: full}, inputs: {teacher: final}}
""",
    )
    .replace("  - {label: Replay, set: {method: replay, split: full}, inputs: {labels: folds}}\n", "")
)
FIGURE = f"""\
title: Labels
kind: figure
{COMMON}
rows: [{{label: Fold 1, set: {{method: instance_labels, split: fold, split.num_folds: 2, split.fold: 1}}}}]
repeats: {{seed: [0, 1]}}
x: epoch
panels: [{{type: top_classes, label: Labels}}]
"""
TUNED = SPEC.replace("each: {split.fold: [0, 1]}\n", "each: {split.fold: [0, 1]}\n    tuned: rate\n") + (
    "tuning:\n  rate:\n    set: {method: instance_labels, split: fold, split.num_folds: 2, split.fold: 0, seed: 0}\n"
    "    grid: {method.learning_rate: [1.0, 3.0]}\n    otherwise: {method.learning_rate: 1.0}\n"
)
UNREAD = re.sub(
    r"  - {label: Replay.*", "  - {label: Fold, set: {method: instance_labels, split: fold, split.fold: 0}, tuned: rate}", TUNED
)
UNREAD = re.sub(r"runs:\n(  .*\n)+?rows", "rows", UNREAD)


class Suite:
    def __init__(self, folder: Path) -> None:
        self.folder, self.runs = folder, folder / "runs"
        self.spec = write(folder, SPEC)
        self.planned = self.plan(self.spec)

    def plan(self, spec: str) -> dict[str, PlannedRun]:
        plan = make_plan([load_spec(spec)], self.runs)
        write_plans(plan)
        return plan.runs

    def finish(self, *methods: str, runs: dict[str, PlannedRun] | None = None) -> None:
        for name, run in (runs or self.planned).items():
            if run.fields["method.name"] in methods and not (self.runs / name).exists():
                done_run(self.runs / name, fields=run.fields)
                write_json(self.runs / name / "identity.json", {"schema": 1, "run_id": name, "fields": run.fields})
                (self.runs / name / "model.safetensors").write_bytes(b"weights" * 100)
                if run.fields["method.name"] == "instance_labels":
                    write_trajectory(self.runs / name / "labels", "instance", np.full((1, 40, 10), 0.1, np.float32), list(range(40)))
                seal(self.runs / name)

    def folds(self, seed: int) -> list[str]:
        return [name for name, run in self.planned.items() if run.fields["method.name"] == "instance_labels" and run.fields["seed"] == seed]

    def finals(self) -> list[str]:
        return [name for name, run in self.planned.items() if run.fields["method.name"] == "replay"]

    def prune(self, *more: str, spec: str | None = None) -> int:
        return main(["prune", spec or self.spec, "--runs", str(self.runs), *more])

    def has(self, name: str) -> list[str]:
        return [file for file in ("labels/instances.f16", "model.safetensors") if (self.runs / name / file).exists()]


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return Suite(tmp_path)


LABELS, MODEL = "labels/instances.f16", "model.safetensors"


def test_what_a_run_that_is_not_done_reads_stays(suite: Suite, capsys: pytest.CaptureFixture[str]) -> None:
    suite.finish("instance_labels")
    assert suite.prune("--yes") == 0
    assert {tuple(suite.has(name)) for seed in (0, 1) for name in suite.folds(seed)} == {(LABELS,)}
    assert "of labels stay: runs that are not done read them" in capsys.readouterr().out


def test_what_nothing_reads_goes_but_what_the_report_shows(suite: Suite, capsys: pytest.CaptureFixture[str]) -> None:
    suite.finish("instance_labels", "replay")
    (suite.runs / suite.finals()[0] / "checkpoint.previous.pt").write_bytes(b"left by a kill")
    before = {path: path.stat().st_mtime_ns for path in suite.runs.rglob("*")}
    assert suite.prune() == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    told = capsys.readouterr().out
    assert "labels that nothing reads any more: 0.0 MB in 3 files" in told
    assert "checkpoints that nothing reads any more: 0.0 MB in 1 files" in told
    assert "nothing was removed; --yes removes it" in told
    assert suite.prune("--yes", "--keep", "models") == 0
    shown, *others = [*suite.folds(0), *suite.folds(1)]
    assert suite.has(shown) == [LABELS, MODEL]
    assert [suite.has(name) for name in others] == [[MODEL]] * 3
    assert not (suite.runs / suite.finals()[0] / "checkpoint.previous.pt").exists()
    assert suite.prune("--yes") == 0
    assert suite.has(shown) == [LABELS]
    assert [suite.has(name) for name in suite.finals()] == [[], []]


def test_pruned_files_are_named_as_such_and_the_runs_stay_done(suite: Suite, capsys: pytest.CaptureFixture[str]) -> None:
    suite.finish("instance_labels", "replay")
    assert suite.prune("--yes") == 0
    name = suite.folds(1)[0]
    manifest = read_json(suite.runs / name / "manifest.json")
    assert {LABELS, MODEL} & manifest["files"].keys() == set()
    assert manifest["pruned"][MODEL]["size"] == 700
    capsys.readouterr()
    assert main(["verify", "--runs", str(suite.runs)]) == 0
    told = capsys.readouterr().out
    assert "every file is what its run wrote" in told
    assert "9 files are not there, since they were pruned" in told
    assert {run.state for run in suite.plan(suite.spec).values()} == {"done"}
    with pytest.raises(UserError, match=rf"{name}.*instances\.f16 was pruned \(.*trains it again"):
        read_run(suite.runs / name).labels()
    assert read_run(suite.runs / name).done


def test_of_another_plan_in_the_folder_what_is_still_to_be_read_stays(suite: Suite) -> None:
    suite.finish("instance_labels", "replay")
    others = suite.plan(write(suite.folder, OTHER, "others.yaml"))
    suite.finish("distillation", runs=others)
    assert suite.prune("--yes") == 0
    assert {tuple(suite.has(name)) for seed in (0, 1) for name in suite.folds(seed)} == {(LABELS,)}
    assert {tuple(suite.has(name)) for name in suite.finals()} == {()}


def test_the_model_of_a_teacher_stays_while_its_student_is_to_come(suite: Suite) -> None:
    suite.finish("instance_labels", "replay")
    suite.finish("fixed_labels", runs=suite.plan(write(suite.folder, OTHER, "others.yaml")))
    assert suite.prune("--yes") == 0
    assert {tuple(suite.has(name)) for name in suite.finals()} == {(MODEL,)}


def test_labels_that_a_figure_draws_stay(suite: Suite) -> None:
    suite.finish("instance_labels", "replay")
    suite.plan(write(suite.folder, FIGURE, "labels.yaml"))
    assert suite.prune("--yes") == 0
    assert [suite.has(name) for name in [*suite.folds(0), *suite.folds(1)]] == [[LABELS], [LABELS], [], [LABELS]]


def test_what_an_unfinished_run_of_no_plan_reads_stays(suite: Suite, capsys: pytest.CaptureFixture[str]) -> None:
    suite.finish("instance_labels", "replay")
    mine = suite.runs / "fixed_labels-digits-mine"
    mine.mkdir()
    write_json(mine / "status.json", {"state": "preempted"})
    write_json(mine / "identity.json", {"fields": {"inputs.labels": [suite.folds(1)[1]]}})
    assert suite.prune("--yes") == 0
    assert [suite.has(name) for name in [*suite.folds(0), *suite.folds(1)]] == [[LABELS], [], [], [LABELS]]
    (mine / "identity.json").unlink()
    status = {"state": "running", "heartbeat": "2999-01-01T00:00:00Z", "heartbeat_s": 15.0, "host": "elsewhere", "pid": 7}
    write_json(mine / "status.json", status)
    capsys.readouterr()
    assert suite.prune("--yes") == 2
    assert "has just begun" in capsys.readouterr().err


def test_a_run_that_a_process_holds_is_left_alone(suite: Suite, capsys: pytest.CaptureFixture[str]) -> None:
    suite.finish("instance_labels", "replay")
    with hold(suite.runs / suite.folds(1)[0] / ".lock"):
        assert suite.prune("--yes") == 0
    assert suite.has(suite.folds(1)[0]) == [LABELS, MODEL]
    assert suite.has(suite.folds(1)[1]) == []
    assert f"left alone: {suite.runs / suite.folds(1)[0]}: another process is training this run" in capsys.readouterr().out


def test_a_kill_in_the_middle_leaves_files_that_the_next_call_removes(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    suite.finish("instance_labels", "replay")
    name = suite.folds(1)[0]

    def killed(path: Path, missing_ok: bool = False) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            prune(suite.runs / name, [LABELS])
    assert suite.has(name) == [LABELS, MODEL]
    assert main(["verify", "--runs", str(suite.runs)]) == 0
    assert prune(suite.runs / name, [MODEL]) == 800 + 700
    assert suite.has(name) == []
    assert sorted(pruned_files(suite.runs / name)) == [LABELS, MODEL]


def test_after_a_tuning_the_points_that_were_not_chosen_go_and_before_it_nothing(
    suite: Suite, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REPRO_TUNED", str(suite.folder / "tuned"))
    tuned = write(suite.folder, TUNED, "tuned.yaml")
    (suite.runs / "plans" / "tried.json").unlink()
    suite.plan(tuned)
    assert suite.prune(spec=tuned) == 2
    assert "not tuned yet" in capsys.readouterr().err
    # What reads nothing keeps nothing, tuned or not.
    suite.plan(write(suite.folder, UNREAD, "unread.yaml"))
    assert suite.prune(spec=str(suite.folder / "unread.yaml")) == 2
    (suite.runs / "plans" / "tuned.json").unlink()
    assert suite.prune(spec=str(suite.folder / "unread.yaml")) == 0
    points: dict[float, str] = {}

    def execute(plan: Plan) -> Outcome:
        suite.finish("instance_labels", runs=plan.runs)
        for name, run in plan.runs.items():
            points[run.fields["method.learning_rate"]] = name
            change(suite.runs / name, "final.json", {"val/accuracy": {"last": run.fields["method.learning_rate"]}})
        return Outcome()

    tune([load_spec(tuned)], PAPER, suite.runs, suite.folder / "tuned", execute)
    suite.plan(tuned)
    assert suite.prune("--yes", spec=tuned) == 0
    assert {rate: suite.has(name) for rate, name in points.items()} == {1.0: [], 3.0: [LABELS]}


def test_a_plan_whose_spec_is_gone_is_named(suite: Suite, capsys: pytest.CaptureFixture[str]) -> None:
    suite.plan(write(suite.folder, OTHER, "others.yaml"))
    os.unlink(suite.folder / "others.yaml")
    assert suite.prune("--yes") == 2
    assert "others.json: which runs this plan needs cannot be told" in capsys.readouterr().err


def test_a_pruned_run_that_is_wanted_again_is_named_and_trains_to_the_same_bytes(tmp_path: Path) -> None:
    folds = ("method=instance_labels", "split=fold", "split.num_folds=2")
    configs = [tiny(tmp_path, *folds, f"split.fold={fold}") for fold in (0, 1)]
    first, second = (execute(config) for config in configs)
    replay = tiny(tmp_path, "method=replay", "split=full", f"inputs.labels=[{first.name},{second.name}]")
    pupil = tiny(tmp_path, "method=distillation", "split=full", f"inputs.teacher={first.name}")
    assert len(open_inputs(replay).labels) == 2
    written = read_json(first / "manifest.json")["files"]
    assert prune(first, [LABELS, MODEL]) == sum(written[name]["size"] for name in (LABELS, MODEL))
    assert sorted(pruned_files(first)) == [LABELS, MODEL]
    for config, file in ((replay, "labels/instances.f16"), (pupil, "model.safetensors")):
        with pytest.raises(UserError, match=rf"run {first.name}: .*{file} was pruned .*python -m sweeps run"):
            open_inputs(config)
    (tmp_path / "aside").mkdir()
    first.rename(tmp_path / "aside" / first.name)
    execute(configs[0])
    again = read_json(first / "manifest.json")["files"]
    assert {name: again[name] for name in (LABELS, MODEL)} == {name: written[name] for name in (LABELS, MODEL)}
    assert open_inputs(pupil).teacher is not None
