import json
import re
from pathlib import Path

import pytest
from made_specs import check_refused, write
from run_folders import done_run, ended_run

from repro.config.compose import compose
from repro.config.identity import run_id
from repro.errors import UserError
from repro.files import read_json
from sweeps.__main__ import main
from sweeps.plan.plan import Plan, PlannedRun, make_plan, plan_document, totals, write_plans
from sweeps.plan.selection import check_execution, select
from sweeps.spec.data import Place
from sweeps.spec.expansion import Cell
from sweeps.spec.load import load_spec

SPEC = """\
title: A table
kind: table
common: {dataset: digits, optim.epochs: 3}
rows:
  - {label: One-hot, set: {method: one_hot}}
  - {label: Instance, set: {method: instance_labels}}
columns:
  - {label: "20%", set: {noise: uniform, noise.rate: 0.2}}
  - {label: "40%", set: {noise: uniform, noise.rate: 0.4}}
repeats: {seed: [0, 1]}
value: {metric: test/accuracy, epoch: last}
"""


def plan_of(folder: Path, text: str) -> Plan:
    return make_plan([load_spec(write(folder, text))], folder / "runs")


@pytest.fixture
def spec_path(tmp_path: Path) -> str:
    return write(tmp_path, SPEC)


def test_planned_runs_are_those_that_the_command_line_makes(spec_path: str, tmp_path: Path) -> None:
    plan = make_plan([load_spec(spec_path)], tmp_path / "runs")
    assert len(plan.runs) == 8
    for run in plan.runs.values():
        assert run_id(compose(run.overrides)) == run.run_id


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("optim.epochs: 3", "optim.epoch: 3", 3, ["optim.epoch=3", "Did you mean 'optim.epochs'?"]),
        ("noise.rate: 0.4", "noise.rate: 1.5", 9, ["row 'One-hot', column '40%'", "noise.rate=1.5", "at most 1.0"]),
        # Neither the first nor the last run.
        ("noise.rate: 0.2", "noise.rate: 1.5", 8, ["row 'One-hot', column '20%'", "noise.rate=1.5", "at most 1.0"]),
        ("method: instance_labels", "method: instance_lables", 6, ["row 'Instance'", "Did you mean 'instance_labels'?"]),
        ("seed: [0, 1]", "noise.seed: [1, 2]}\n# {", 5, ["seed"]),
        ("noise.rate: 0.4", "noise.rate: 0.4, noise.name: flip", 9, ["Write noise=flip"]),
        ("noise.rate: 0.4", "noise.rate: 0.4, optim.weight_decay: -0.0", 9, ["must be written 0"]),
        ("noise.rate: 0.4", "noise.rate: 0.4, optim.nesterov: 1", 9, ["must be true or false"]),
        ("noise.rate: 0.4", "noise.rate: true", 9, ["noise.rate"]),
        ("noise.rate: 0.4", "noise.rate: [1, 2]", 9, ["noise.rate"]),
        ("noise.rate: 0.4", "noise.rate: null", 9, ["noise.rate"]),
        ("[0, 1]", '[0, "1"]', 10, ["seed='1'", "must be a whole number, not text"]),
    ],
)
def test_a_spec_is_held_to_what_the_command_line_is(tmp_path: Path, old: str, new: str, line: int, words: list[str]) -> None:
    check_refused(lambda: plan_of(tmp_path, SPEC.replace(old, new)), words, f"tried.yaml:{line}: ")


def test_runs_are_shared_between_specs(spec_path: str, tmp_path: Path) -> None:
    half = SPEC.replace('  - {label: "20%", set: {noise: uniform, noise.rate: 0.2}}\n', "")
    plan = make_plan([load_spec(spec_path), load_spec(write(tmp_path, half, "half.yaml"))], tmp_path / "runs")
    assert totals(plan)["runs"] == 8
    assert totals(plan)["shared"] == 4
    assert totals(plan)["cells"] == 6
    assert {run.specs for run in plan.runs.values()} == {("tried",), ("tried", "half")}


def test_two_specs_of_one_name_are_refused(spec_path: str, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="tried is named twice"):
        make_plan([load_spec(spec_path), load_spec(write(tmp_path / "other", SPEC))], tmp_path)


def test_states_and_the_json(spec_path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    names = list(make_plan([load_spec(spec_path)], runs).runs)
    done_run(runs / names[0])
    ended_run(runs / names[1], "failed", "ValueError: no")
    ended_run(runs / names[2], "preempted")
    (runs / names[3]).mkdir()
    (runs / names[3] / "status.json").write_text("{")
    assert main(["plan", spec_path, "--json", "--runs", str(runs)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [run["run_id"] for run in document["runs"]] == names
    assert [run["state"] for run in document["runs"]] == ["done", "failed", "preempted", "damaged"] + ["missing"] * 4
    assert document["runs"][0]["config"]["optim.epochs"] == 3
    assert document["runs"][0]["inputs"] == []
    assert document["runs"][0]["specs"] == ["tried"]
    assert document["runs"][0]["stage"] == 0
    cell = {"spec": "tried", "row": "One-hot", "column": "20%", "runs": names[:2], "value": None}
    assert document["cells"][0] == cell
    assert document["scale"] == "paper"
    assert document["totals"]["done"] == 1
    assert document["totals"]["missing"] == 4

    assert main(["status", spec_path, "--runs", str(runs)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["20%", "40%"]
    assert re.split(r" {2,}", lines[2]) == ["One-hot", "1/2 1 failed", "0.9000", "0/2 1 preempted 1 damaged"]
    assert lines[3].split() == ["Instance", "0/2", "0/2"]


def test_the_plan_file_is_the_same_every_time(spec_path: str, tmp_path: Path) -> None:
    plan = make_plan([load_spec(spec_path)], tmp_path / "runs")
    (path,) = write_plans(plan)
    first = path.read_bytes()
    write_plans(make_plan([load_spec(spec_path)], tmp_path / "runs"))
    assert path.read_bytes() == first
    stored = json.loads(first)
    assert path == tmp_path / "runs" / "plans" / "tried.json"
    assert stored["cells"][0]["runs"][1] == {"run_id": list(plan.runs)[1], "repeat": {"seed": 1}}


def test_a_cell_that_is_left_out_has_no_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, SPEC + "cells: [{row: One-hot, column: '40%', skip: makes no sense}]\n")
    plan = make_plan([load_spec(path)], tmp_path / "runs")
    assert len(plan.runs) == 6
    assert plan_document(plan)["cells"][1]["runs"] == []
    assert main(["status", path, "--runs", str(tmp_path / "runs")]) == 0
    assert "- One-hot, 40%: makes no sense" in capsys.readouterr().out


def test_a_users_mistake_ends_in_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "dmo", "--runs", str(tmp_path)]) == 2
    written = capsys.readouterr()
    assert written.err.startswith("error: 'dmo': there is no spec of that name. Did you mean 'demo'?")
    assert written.out == ""
    (tmp_path / "plans").write_text("in the way")
    assert main(["plan", "demo_curves", "--runs", str(tmp_path)]) == 2
    assert "cannot be written" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["run", "demo", "--jobs", "0"])
    assert "'0' must be a whole number from 1" in capsys.readouterr().err


def test_inputs_that_only_finished_runs_read_are_not_needed(tmp_path: Path) -> None:
    runs = {
        "a": PlannedRun("a", (), {}, "missing", (), ("s",), "a"),
        "b": PlannedRun("b", (), {}, "missing", (), ("s",), "b"),
        "c": PlannedRun("c", (), {}, "missing", ("a",), ("s",), "c", 1),
        "d": PlannedRun("d", (), {}, "done", ("c",), ("s",), "d", 2),
        "e": PlannedRun("e", (), {}, "missing", ("b",), ("s",), "e", 1),
        "f": PlannedRun("f", (), {}, "missing", (), ("s",), "f"),
    }
    cells = (Cell("row", "column", (), None, Place(tmp_path, 1), run_ids=("d", "e")),)
    # f is read by nobody: a point of a grid is such a run.
    assert Plan(tmp_path, (), runs, cells).spared == {"a", "c"}
    shown = (Cell("row", "column", (), None, Place(tmp_path, 1), run_ids=("c", "e")),)
    assert Plan(tmp_path, (), runs, shown).spared == frozenset()


GRAPH = """\
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
    path.write_text(GRAPH)
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
    (tmp_path / "tried.yaml").write_text(GRAPH)
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
