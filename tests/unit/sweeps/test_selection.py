from __future__ import annotations

from pathlib import Path

import pytest
from run_folders import done_run, ended_run

from repro.errors import UserError
from repro.files import read_json
from sweeps.__main__ import main
from sweeps.plan.plan import Plan, make_plan
from sweeps.plan.selection import check_execution, select
from sweeps.spec.load import load_spec

SPEC = """\
title: A graph
kind: table
common: {dataset: digits, optim.epochs: 1}
runs:
  folds:
    set: {method: class_labels, split: fold, split.num_folds: 2}
    each: {split.fold: [0, 1]}
rows:
  - {label: Labels, set: {method: one_hot, split: full}}
  - {label: Labels of folds, set: {method: replay, split: full}, inputs: {labels: folds}}
columns:
  - {label: Narrow, set: {model: digits_cnn, model.width: 4}}
  - {label: Wide labels, set: {model: digits_cnn, model.width: 8}}
repeats: {seed: [0, 3]}
value: {metric: test/accuracy, epoch: last}
"""


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    path = tmp_path / "tried.yaml"
    path.write_text(SPEC)
    return make_plan([load_spec(str(path))], tmp_path / "runs")


def what(plan: Plan) -> list[str]:
    """The runs in order: method, fold if any, width, seed."""
    keys = ("method.name", "split.fold", "model.width", "seed")
    return [" ".join(str(run.fields[key]) for key in keys if run.fields.get(key) is not None) for run in plan.runs.values()]


def test_cells_are_chosen_by_their_labels_and_come_with_what_they_read(plan: Plan) -> None:
    assert len(plan.runs) == 4 + 4 * 3
    assert select(plan) == plan
    # The whole label of a row, so not the rows and columns that have it as a part.
    assert what(select(plan, only=["labels"])) == ["one_hot 4 0", "one_hot 4 3", "one_hot 8 0", "one_hot 8 3"]
    assert what(select(plan, only=["of FOLDS", "narrow"], seeds=[3])) == ["class_labels 0 4 3", "class_labels 1 4 3", "replay 4 3"]
    assert len(select(plan, only=["wide"]).runs) == 8
    (cell,) = select(plan, only=["folds", "wide"], seeds=[0]).cells
    assert (cell.row, cell.column, cell.repeats) == ("Labels of folds", "Wide labels", ({"seed": 0},))


def test_a_choice_of_nothing_names_what_there_is(plan: Plan) -> None:
    with pytest.raises(UserError, match=r"--only Narow: .* Did you mean 'Narrow'\? Labels: Labels; Narrow; Wide labels; Labels of folds\."):
        select(plan, only=["Narow"])
    with pytest.raises(UserError, match="no such cell"):
        select(plan, only=["Narrow", "Wide"])
    with pytest.raises(UserError, match=r"--seeds 1: .* There are: 0, 3\."):
        select(plan, seeds=[0, 1])


def test_runs_that_have_begun_come_first_each_after_its_inputs(plan: Plan, tmp_path: Path) -> None:
    ids = dict(zip(what(plan), plan.runs, strict=True))
    for name, state in {"one_hot 8 3": "preempted", "one_hot 8 0": "failed", "replay 8 0": "preempted"}.items():
        ended_run(tmp_path / "runs" / ids[name], state)
    turn = what(select(make_plan(plan.specs, plan.folder)))
    assert turn[:5] == ["one_hot 8 3", "class_labels 0 8 0", "class_labels 1 8 0", "replay 8 0", "one_hot 4 0"]
    assert sorted(turn) == sorted(what(plan))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim.epochs=3", "only what changes no result"),
        ("paths.runs=x", "only what changes no result"),
        ("exec.device", "only what changes no result"),
        ("exec.devices=cpu", "no setting 'exec.devices'"),
        ("exec.device=tpu", "exec.device"),
        ("exec=debug", "a debug run keeps no results"),
    ],
)
def test_only_settings_of_the_execution_can_be_set(plan: Plan, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_execution(plan, [text])
    check_execution(plan, ["exec.eval_batch_size=7", "tracker.project=mine", "paths.data=here"])


def test_the_command_runs_the_chosen_cell_with_its_settings_and_plans_the_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tried.yaml").write_text(SPEC)
    command = [
        "run",
        str(tmp_path / "tried.yaml"),
        "--runs",
        str(tmp_path / "runs"),
        "--set",
        "exec.eval_batch_size=7",
        "--set",
        "tracker=none",
    ]
    folders = tmp_path / "runs"
    assert main([*command, "--only", "Labels", "--only", "narrow", "--seeds", "3", "--set", "exec.threads=1", "--minutes", "5"]) == 0
    assert "1 of 1 runs done" in capsys.readouterr().out
    (folder,) = folders.glob("*-digits-*")
    assert read_json(folder / "identity.json")["fields"]["seed"] == 3
    assert "eval_batch_size: 7\n" in (folder / "config.yaml").read_text()
    assert "threads: 1\n" in (folder / "config.yaml").read_text()
    assert len(read_json(folders / "plans" / "tried.json")["cells"]) == 4
    assert main([*command, "--minutes", "0.0001"]) == 124
    written = capsys.readouterr()
    assert "1 of 16 runs done" in written.out
    assert "the time is over: 1 of 16 runs are done; the same command resumes with the 15 that are left." in written.err
    assert main([*command, "--only", "Labell"]) == 2
    for wrong in (["--seeds", "a"], ["--minutes", "0"]):
        with pytest.raises(SystemExit):
            main([*command, *wrong])


def test_finished_runs_are_part_of_a_choice(plan: Plan, tmp_path: Path) -> None:
    for name in plan.runs:
        done_run(tmp_path / "runs" / name)
    again = make_plan(plan.specs, plan.folder)
    assert {run.state for run in select(again, only=["Narrow"]).runs.values()} == {"done"}
