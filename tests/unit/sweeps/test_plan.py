from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from made_specs import check_refused, write
from run_folders import done_run, ended_run

from repro.config.compose import compose
from repro.config.identity import run_id
from repro.config.schema import Config
from repro.errors import UserError
from sweeps.__main__ import main
from sweeps.plan.plan import Plan, PlannedRun, make_plan, plan_document, totals, write_plans
from sweeps.spec.data import Place
from sweeps.spec.expansion import Cell
from sweeps.spec.load import SpecError, known_specs, load_spec

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


def test_no_run_of_a_spec_needs_hydra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a quarter of a second a run, and there are thousands."""

    def never(overrides: Any) -> Config:
        raise AssertionError(overrides)

    monkeypatch.setattr("repro.config.compose.compose", never)
    plan = make_plan([load_spec(name) for name in known_specs()], tmp_path / "runs")
    assert len(plan.runs) > 1000


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
    ],
)
def test_a_spec_is_held_to_what_the_command_line_is(tmp_path: Path, old: str, new: str, line: int, words: list[str]) -> None:
    check_refused(lambda: plan_of(tmp_path, SPEC.replace(old, new)), words, f"tried.yaml:{line}: ")


def test_a_whole_number_in_a_field_of_fractions_is_one(tmp_path: Path) -> None:
    rates = [run.fields["noise.rate"] for run in plan_of(tmp_path, SPEC.replace("noise.rate: 0.4", "noise.rate: 1")).runs.values()]
    assert [repr(rate) for rate in rates] == ["0.2", "0.2", "1.0", "1.0"] * 2


def test_repeats_that_would_be_one_run_are_refused(tmp_path: Path) -> None:
    text = SPEC.replace("optim.epochs: 3", "seed: 0").replace("{seed: [0, 1]}", '{optim.batch_size: [32, "32"]}')
    with pytest.raises(SpecError, match=r"optim.batch_size='32': must be a whole number, not text"):
        plan_of(tmp_path, text)


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
