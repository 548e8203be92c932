import json
from pathlib import Path

import pytest
from fake_workers import begin, finish
from made_specs import RECIPE, SCALE, TABLE, spec_of, write

from repro.config.compose import compose
from repro.config.identity import run_id
from repro.errors import UserError
from repro.files import read_json, write_json
from sweeps.expand import digest, expand
from sweeps.plan import Plan, make_plan, override, plan_document, with_evidence, write_plans
from sweeps.scales import load_scale
from sweeps.selection import select
from sweeps.spec import load_spec

PAPER = load_scale("paper")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def plan_of(folder: Path, old: str = "", new: str = "", text: str = TABLE) -> Plan:
    return make_plan([spec_of(folder.parent, text, old, new)], PAPER, folder)


def ids(plan: Plan, row: str, column: str) -> list[str]:
    return next(cell.run_ids for cell in plan.cells if (cell.row, cell.column) == (row, column))


def test_runs_have_the_ids_that_their_command_lines_give(folder: Path) -> None:
    plan = plan_of(folder)
    assert len(plan.runs) == 26
    for name, run in plan.runs.items():
        config = compose(run.overrides)
        assert (run_id(config), run.fields["seed"]) == (name, config.seed)
        assert all(list(plan.runs).index(read) < list(plan.runs).index(name) for read in run.inputs)
    final = plan.runs[ids(plan, "Final", "Clean")[1]]
    assert [plan.runs[name].fields["split.fold"] for name in final.inputs] == [0, 1, 2]
    assert final.fields["inputs.labels"] == list(final.inputs)
    assert (final.stage, final.specs, final.place) == (1, ("tried",), "tried: Final, Clean, seed=1")
    assert plan.runs[final.inputs[2]].place == "tried: folds, split.fold=2 (for Final, Clean, seed=1)"
    assert plan.runs[ids(plan, "Taught", "Clean")[0]].stage == 2
    assert ids(plan, "One-hot, last", "Clean") == ids(plan, "One-hot, best", "Clean")


def test_specs_share_runs_and_two_of_one_name_are_refused(folder: Path, tmp_path: Path) -> None:
    one = load_spec(write(tmp_path, TABLE, "one.yaml"))
    two = load_spec(write(tmp_path, TABLE.replace("seed: [0, 1]", "seed: [1, 2]"), "two.yaml"))
    plan = make_plan([one, two], PAPER, folder)
    assert {run.fields["seed"]: run.specs for run in plan.runs.values()} == {0: ("one",), 1: ("one", "two"), 2: ("two",)}
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="have one name"):
        make_plan([one, load_spec(write(tmp_path / "other", TABLE, "one.yaml"))], PAPER, folder)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("optim.epochs: 3", "optim.epoch: 3", "Did you mean 'optim.epochs'?"),
        ("method: one_hot", "method: onehot", "one_hot"),
        ("optim.epochs: 3", "optim.epochs: many", "optim.epochs"),
        ("optim.epochs: 3", "optim.epochs: -3", "optim.epochs"),
        ("inputs: {teacher: first}", "inputs: {labels: first}", "inputs.labels is set, but method=distillation"),
        ("use: final", "set: {method: replay, split: full}", "method=replay"),
        ("seed: [0, 1]", 'seed: [0, "0"]', "this run is in the cell already"),
    ],
)
def test_a_setting_that_means_nothing_is_told_with_its_place(old: str, new: str, message: str, folder: Path) -> None:
    with pytest.raises(UserError) as raised:
        plan_of(folder, old, new)
    assert message in str(raised.value)
    assert "tried.yaml: " in str(raised.value)
    assert str(raised.value).count("\n") < 5


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("{drop: [augmnt]}", "there is no setting 'augmnt'. Did you mean 'augment'?"),
        ("{where: {modle: resnet18}}", "there is no setting 'modle'. Did you mean 'model'?"),
        ("{where: {model: resnet81}}", "model=resnet81: there is no such model. Did you mean 'resnet18'?"),
        ("{where: {model.dpeth: 32}}", "there is no setting 'model.dpeth'. Did you mean 'model.depth'?"),
        ("{drop: [optim.epoch]}", "there is no setting 'optim.epoch'. Did you mean 'optim.epochs'?"),
    ],
)
def test_a_rule_that_never_applies_is_refused(rule: str, message: str, folder: Path) -> None:
    scale = load_scale(write(folder.parent, f"title: tiny\ndisclaimer: Tiny.\nrules: [{rule}]", "tiny.yaml"))
    with pytest.raises(UserError) as raised:
        make_plan([spec_of(folder.parent)], scale, folder)
    assert f"tiny.yaml: rules: {message}" in str(raised.value)


def test_a_run_without_a_seed_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="seed"):
        plan_of(folder, "repeats: {seed: [0, 1]}", "repeats: {split.num_folds: [3, 4]}")


def test_a_recipe_shows_what_its_settings_are(folder: Path) -> None:
    plan = plan_of(folder, text=RECIPE)
    assert (plan.runs, [cell.value for cell in plan.cells]) == ({}, [60, 0.1])
    with pytest.raises(UserError, match="there is no setting 'optim.epoch'. Did you mean 'optim.epochs'?"):
        plan_of(folder, "setting: optim.epochs", "setting: optim.epoch", RECIPE)


def test_states_are_those_of_the_folders(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = list(plan_of(folder).runs)
    folder.mkdir()
    for name in names[1:4]:
        finish(folder / name)
    begin(folder / names[4])
    changed = {names[2], names[4]}
    monkeypatch.setattr("sweeps.plan.differs", lambda path: path.name in changed)
    runs = plan_of(folder).runs
    assert [runs[name].state for name in names[:5]] == ["missing", "done", "changed", "done", "running"]
    assert {name for name, run in runs.items() if run.changed} == changed


def test_what_only_finished_runs_read_is_not_needed(folder: Path) -> None:
    plan = plan_of(folder)
    assert not plan.spared
    folder.mkdir()
    (student,), (final,) = ids(plan, "Taught", "Clean")[:1], ids(plan, "Final", "Clean")[:1]
    finish(folder / student)
    (teacher,) = plan.runs[student].inputs
    assert plan_of(folder).spared == {teacher, *plan.runs[teacher].inputs}, "the teacher, and the fold that only it reads"
    finish(folder / final)
    assert set(plan.runs[final].inputs) <= plan_of(folder).spared


def test_a_part_of_a_plan(folder: Path) -> None:
    plan = plan_of(folder)
    part = select(plan, only=["final", "40%"], seeds=[1])
    assert [(cell.row, cell.column) for cell in part.cells] == [("Final", "40%")]
    assert list(part.runs) == [*plan.runs[name := ids(plan, "Final", "40%")[1]].inputs, name]
    assert len(select(plan, only=["One-hot"]).cells) == 4, "a part of a label"
    folder.mkdir()
    begun = ids(plan, "One-hot, last", "40%")[0]
    begin(folder / begun)
    assert next(iter(select(plan_of(folder)).runs)) == begun
    with pytest.raises(UserError, match="--only Finel: there is no such cell. Did you mean 'Final'?"):
        select(plan, only=["Finel"])
    with pytest.raises(UserError, match="--seeds 7: none of these cells has a run with that seed. There are: 0, 1"):
        select(plan, seeds=[7])


def test_plan_files_say_which_runs_make_up_each_cell(folder: Path, tmp_path: Path) -> None:
    plan = plan_of(folder)
    (path,) = write_plans(plan)
    assert path == folder / "plans" / "tried.json"
    document = read_json(path)
    assert document["spec_sha256"] == digest(expand(plan.specs[0], PAPER))
    assert document["spec_file"] == str(plan.specs[0].path)
    skipped = next(cell for cell in document["cells"] if cell["skip"])
    assert skipped == {"row": "Taught", "column": "40%", "skip": "makes no sense", "runs": [], "epoch": "best_val"}
    names = ids(plan, "Final", "Clean")
    runs = [{"run_id": name, "repeat": {"seed": seed}} for seed, name in enumerate(names)]
    untuned = ["rate for digits, digits_cnn"]
    assert document["cells"][0] == {"row": "Final", "column": "Clean", "skip": None, "runs": runs, "untuned": untuned}
    scale = load_scale(write(tmp_path, SCALE, "tiny.yaml"))
    (path,) = write_plans(make_plan(plan.specs, scale, folder))
    assert (path, read_json(path)["scale"]) == (folder / "plans" / "tiny" / "tried.json", "tiny")
    (folder / "plans" / "tiny" / "tried.json").unlink()
    (folder / "plans" / "tiny").rmdir()
    write_json(folder / "plans" / "tiny", {})
    with pytest.raises(UserError, match="cannot be written"):
        write_plans(make_plan(plan.specs, scale, folder))


def test_the_plan_as_json(folder: Path) -> None:
    plan = plan_of(folder)
    document = json.loads(json.dumps(plan_document(plan)))
    cell = document["cells"][0]
    assert (cell["spec"], cell["row"], cell["column"], cell["runs"]) == ("tried", "Final", "Clean", ids(plan, "Final", "Clean"))
    run = next(run for run in document["runs"] if run["run_id"] == cell["runs"][0])
    assert (run["stage"], run["state"], run["fields"]["method.name"]) == (1, "missing", "replay")
    assert run["inputs"] == run["fields"]["inputs.labels"]


@pytest.mark.parametrize("value", ["/a b/ü=1,[x]", "plain", "it's", 'a "word"', 1e-05, True, None, [30, 38], ["a", "b c"]])
def test_settings_keep_their_value_on_the_command_line(value: object) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_override(override("key", value)).value()
    text = [getattr(item, "text", item) for item in parsed] if isinstance(parsed, list) else getattr(parsed, "text", parsed)
    assert text == value or str(text).replace('\\"', '"') == value


def test_what_a_missing_run_reads_is_trained_although_evidence_holds_it(folder: Path, tmp_path: Path) -> None:
    plan = plan_of(folder)
    reader = next(run for run in plan.runs.values() if run.inputs)
    for known, state in ((plan.runs.keys() - {reader.run_id}, "missing"), (plan.runs.keys(), "done")):
        (tmp_path / "runs.jsonl").write_text("".join(json.dumps({"run_id": name}) + "\n" for name in known))
        runs = with_evidence(plan, tmp_path).runs
        assert {runs[name].state for name in (reader.run_id, *reader.inputs)} == {state}
        assert len([run for run in runs.values() if run.state == "missing"]) == (state == "missing") * (1 + len(reader.inputs))


def test_runs_that_evidence_holds_are_done_unless_their_folder_says_otherwise(folder: Path, tmp_path: Path) -> None:
    plan = plan_of(folder)
    known, failed, other = list(plan.runs)[:3]
    (folder / failed).mkdir(parents=True)
    write_json(folder / failed / "status.json", {"state": "failed", "error": "x"})
    (tmp_path / "runs.jsonl").write_text("".join(json.dumps({"run_id": name}) + "\n" for name in plan.runs if name != other))
    runs = with_evidence(plan_of(folder), tmp_path).runs
    assert [runs[name].state for name in (known, failed, other)] == ["done", "failed", "missing"]
    with pytest.raises(UserError, match="--evidence .*nowhere"):
        with_evidence(plan, tmp_path / "nowhere")
