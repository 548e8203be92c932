from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from run_folders import done_run, ended_run

import sweeps.composer
from repro.compose import compose
from repro.config import Config
from repro.errors import UserError
from repro.identity import run_id
from sweeps.__main__ import main
from sweeps.composer import Composer
from sweeps.plan import Plan, PlannedCell, PlannedRun, make_plan, plan_document, totals, write_plans
from sweeps.spec import SpecError, expand, load_spec

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


def write(folder: Path, text: str, name: str = "tried") -> str:
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return str(path)


@pytest.fixture
def spec_path(tmp_path: Path) -> str:
    return write(tmp_path, SPEC)


def test_planned_runs_are_those_that_the_command_line_makes(spec_path: str, tmp_path: Path) -> None:
    plan = make_plan([load_spec(spec_path)], tmp_path / "runs")
    assert len(plan.runs) == 8
    for run in plan.runs.values():
        assert run_id(compose(run.overrides)) == run.run_id


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("noise.name: flip", "Write noise=flip"),
        ("optim.lr: 0.1", "Did you mean 'optim.learning_rate'"),
        ("optim.weight_decay: -0.0", "must be written 0"),
        ("optim.nesterov: 1", "must be true or false"),
    ],
)
def test_a_spec_is_held_to_what_the_command_line_is(tmp_path: Path, setting: str, message: str) -> None:
    text = SPEC.replace("noise.rate: 0.4", f"noise.rate: 0.4, {setting}")
    wanted = [(cell, variant) for cell in expand(load_spec(write(tmp_path, text))) for variant in cell.variants]
    with pytest.raises(UserError, match=r"tried\.yaml:\d+: ") as caught:
        Composer().compose_all(wanted)
    assert message in str(caught.value)


def test_hydra_is_asked_twice_for_each_set_of_choices(spec_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def counting(overrides: Any) -> Config:
        asked.append(tuple(overrides))
        return compose(overrides)

    monkeypatch.setattr(sweeps.composer, "compose", counting)
    Composer().compose_all([(cell, variant) for cell in expand(load_spec(spec_path)) for variant in cell.variants])
    assert len(asked) == 4


def test_a_name_is_tried_once_for_each_choice_and_not_for_each_set_of_choices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def counting(overrides: Any) -> Config:
        asked.append(tuple(overrides))
        return compose(overrides)

    monkeypatch.setattr(sweeps.composer, "compose", counting)
    text = SPEC.replace("{noise: uniform, noise.rate: 0.2}", "{noise: flip, noise.rate: 0.2}")
    Composer().compose_all([(cell, variant) for cell in expand(load_spec(write(tmp_path, text))) for variant in cell.variants])
    # One-hot with each noise, instance labels with uniform noise: those have a new choice. Instance labels with flips have none.
    assert len(asked) == 3 * 2 + 1


def test_what_a_name_hides_is_tried_where_it_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deriving(overrides: Any) -> Config:
        config = compose(overrides)
        if not any(override.startswith("optim.batch_size=") for override in overrides):
            config.optim.batch_size = 10 + config.seed
        return config

    monkeypatch.setattr(sweeps.composer, "compose", deriving)
    text = SPEC.replace('{label: "20%", set: {', '{label: "20%", set: {optim.batch_size: 32, ')
    wanted = [(cell, variant) for cell in expand(load_spec(write(tmp_path, text))) for variant in cell.variants]
    assert [config.optim.batch_size for config in Composer().compose_all(wanted)] == [32, 32, 10, 11] * 2


def test_a_setting_that_follows_from_another_one_is_left_to_hydra(spec_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def deriving(overrides: Any) -> Config:
        config = compose(overrides)
        config.optim.batch_size = 10 + config.seed
        return config

    monkeypatch.setattr(sweeps.composer, "compose", deriving)
    wanted = [(cell, variant) for cell in expand(load_spec(spec_path)) for variant in cell.variants]
    assert [config.optim.batch_size for config in Composer().compose_all(wanted)] == [10, 11] * 4


@pytest.mark.parametrize("value", ["1", "true", "[1, 2]", "null"])
def test_values_that_hydra_converts_or_refuses_go_to_hydra(tmp_path: Path, value: str) -> None:
    # 1 becomes 1.0 in a field of floats; a truth value, a list and null are refused there.
    text = SPEC.replace("noise.rate: 0.4", f"noise.rate: {value}")
    wanted = [(cell, variant) for cell in expand(load_spec(write(tmp_path, text))) for variant in cell.variants]
    if value == "1":
        rates = [config.noise.rate for config in Composer().compose_all(wanted)]  # type: ignore[attr-defined]
        assert rates == [0.2, 0.2, 1.0, 1.0] * 2
        assert all(isinstance(rate, float) for rate in rates)
    else:
        with pytest.raises(UserError):
            Composer().compose_all(wanted)


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("optim.epochs: 3", "optim.epoch: 3", 3, ["optim.epoch=3", "Did you mean 'optim.epochs'?"]),
        ("noise.rate: 0.4", "noise.rate: 1.5", 9, ["row 'One-hot', column '40%'", "noise.rate=1.5", "at most 1.0"]),
        ("method: instance_labels", "method: instance_lables", 6, ["row 'Instance'", "Did you mean 'instance_labels'?"]),
        ("seed: [0, 1]", "noise.seed: [1, 2]}\n# {", 5, ["seed"]),
    ],
)
def test_a_setting_that_does_not_exist_is_named_with_its_line(tmp_path: Path, old: str, new: str, line: int, words: list[str]) -> None:
    with pytest.raises(SpecError) as raised:
        make_plan([load_spec(write(tmp_path, SPEC.replace(old, new)))], tmp_path)
    assert f"tried.yaml:{line}: " in str(raised.value)
    for word in words:
        assert word in str(raised.value)


def test_a_value_between_right_ones_is_checked_too(tmp_path: Path) -> None:
    # Hydra composes the first and the last run of a set of choices; this one is neither.
    text = SPEC.replace("noise.rate: 0.2", "noise.rate: 1.5").replace(
        "columns:\n", "columns:\n  - {label: 10%, set: {noise: uniform, noise.rate: 0.1}}\n"
    )
    with pytest.raises(SpecError, match=r"tried\.yaml:9: in row 'One-hot', column '20%': noise\.rate=1\.5: must be"):
        make_plan([load_spec(write(tmp_path, text))], tmp_path)


def test_repeats_that_would_be_one_run_are_refused(tmp_path: Path) -> None:
    text = SPEC.replace("optim.epochs: 3", "seed: 0").replace("{seed: [0, 1]}", '{optim.batch_size: [32, "32"]}')
    with pytest.raises(SpecError, match=r"optim.batch_size='32': must be a whole number, not text"):
        make_plan([load_spec(write(tmp_path, text))], tmp_path)


def test_runs_are_shared_between_specs(spec_path: str, tmp_path: Path) -> None:
    half = SPEC.replace('  - {label: "20%", set: {noise: uniform, noise.rate: 0.2}}\n', "")
    plan = make_plan([load_spec(spec_path), load_spec(write(tmp_path, half, "half"))], tmp_path / "runs")
    assert totals(plan)["runs"] == 8
    assert totals(plan)["shared"] == 4
    assert totals(plan)["cells"] == 6
    assert {run.specs for run in plan.runs.values()} == {("tried",), ("tried", "half")}


def test_two_specs_of_one_name_are_refused(spec_path: str, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="tried is named twice"):
        make_plan([load_spec(spec_path), load_spec(write(tmp_path / "other", SPEC))], tmp_path)


def test_the_demo_figure_needs_no_run_of_its_own(tmp_path: Path) -> None:
    plan = make_plan([load_spec("demo"), load_spec("demo_curves")], tmp_path)
    assert totals(plan)["runs"] == 48
    assert totals(plan)["shared"] == 12


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
    cell = {"spec": "tried", "row": "One-hot", "column": "20%", "runs": names[:2], "not_built": None, "value": None}
    assert document["cells"][0] == cell
    assert document["scale"] == "paper"
    assert document["totals"]["done"] == 1
    assert document["totals"]["missing"] == 4

    assert main(["status", spec_path, "--runs", str(runs)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["20%", "40%"]
    assert re.split(r" {2,}", lines[2]) == ["One-hot", "1/2 1 failed", "0/2 1 preempted 1 damaged"]
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
    cells = (PlannedCell("s", "row", "column", ("d", "e"), ({}, {}), None),)
    # f is read by nobody: a point of a grid is such a run.
    assert Plan(tmp_path, (), runs, cells).spared == {"a", "c"}
    shown = (PlannedCell("s", "row", "column", ("c", "e"), ({}, {}), None),)
    assert Plan(tmp_path, (), runs, shown).spared == frozenset()
