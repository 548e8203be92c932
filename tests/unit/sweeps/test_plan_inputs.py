"""Plans of runs that read other runs: ids, stages, what is shared, and recipes."""

import json
import time
from pathlib import Path

import pytest
from made_specs import check_refused, write

from repro.config.compose import compose
from repro.config.identity import run_id
from sweeps.plan.plan import Plan, make_plan, plan_document, totals, write_plans
from sweeps.spec.load import SpecError, load_spec
from sweeps.spec.scale import load_scale

SPEC = """\
title: A table
kind: table
runs:
  folds:
    set: {method: instance_labels, split: fold}
    each: {split.fold: [0, 1, 2]}
    tuned: rate
  fixed:
    set: {method: fixed_labels, split: full}
    inputs: {labels: folds}
tuning:
  rate:
    set: {method: instance_labels, split: fold, split.fold: 0}
    grid: {method.learning_rate: [5.0, 25.0]}
    otherwise: {method.learning_rate: 50.0}
common: {dataset: digits, model: digits_cnn, optim.epochs: 3}
rows:
  - {label: Replay, set: {method: replay, split: full}, inputs: {labels: folds}}
  - {label: Fixed, use: fixed, epoch: best_test}
  - {label: Taught, set: {method: distillation, split: full}, inputs: {teacher: fixed}}
columns:
  - {label: Small, set: {model.width: 8}}
  - {label: Large, set: {model.width: 16}}
repeats: {seed: [0, 1]}
value: {metric: test/accuracy, epoch: last}
"""


FIXED = """\
  fixed:
    set: {method: fixed_labels, split: full}
    inputs: {labels: folds}
"""


def planned(folder: Path, text: str = SPEC) -> Plan:
    return make_plan([load_spec(write(folder, text))], folder / "runs")


def cell_runs(plan: Plan, row: str, column: str) -> list[str]:
    return [name for cell in plan.cells if (cell.row, cell.column) == (row, column) for name in cell.run_ids]


def test_an_input_is_planned_once_and_before_its_readers(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    # For each of two widths and seeds: three folds, and one run of each row.
    assert len(plan.runs) == 2 * 2 * (3 + 3)
    known: set[str] = set()
    for run in plan.runs.values():
        assert set(run.inputs) <= known
        known.add(run.run_id)
        assert run.specs == ("tried",)
    for run in {run.fields["method.name"]: run for run in plan.runs.values()}.values():
        assert run_id(compose(run.overrides)) == run.run_id
    for column in ("Small", "Large"):
        for repeat in range(2):
            replay, fixed, taught = (plan.runs[cell_runs(plan, row, column)[repeat]] for row in ("Replay", "Fixed", "Taught"))
            assert replay.inputs == fixed.inputs
            assert [plan.runs[name].fields["split.fold"] for name in replay.inputs] == [0, 1, 2]
            assert {plan.runs[name].fields["seed"] for name in replay.inputs} == {repeat}
            assert taught.inputs == (fixed.run_id,)
            assert [plan.runs[replay.inputs[0]].stage, replay.stage, fixed.stage, taught.stage] == [0, 1, 1, 2]
            assert replay.overrides[-1] == f"inputs.labels=[{','.join(replay.inputs)}]"
            assert taught.overrides[-1] == f"inputs.teacher={fixed.run_id}"
    assert next(iter(plan.runs.values())).place == "tried: folds, split.fold=0 (for Replay, Small, seed=0)"


def test_an_inputs_setting_is_part_of_its_readers_id(tmp_path: Path) -> None:
    before, after = (
        planned(tmp_path),
        planned(tmp_path, SPEC.replace("otherwise: {method.learning_rate: 50.0}", "otherwise: {method.learning_rate: 5.0}")),
    )
    for row in ("Replay", "Fixed", "Taught"):
        assert not set(cell_runs(before, row, "Small")) & set(cell_runs(after, row, "Small"))


def test_a_spec_needs_the_inputs_of_its_runs(tmp_path: Path) -> None:
    folds = (
        SPEC.split("runs:")[0]
        + "tuning:"
        + SPEC.split("tuning:")[1].split("rows:")[0]
        + "rows: [{label: Folds, set: {method: instance_labels, split: fold}, tuned: rate}]\n"
    )
    folds += "columns: [{label: Small, set: {model.width: 8}}]\nrepeats: {seed: [0, 1], split.fold: [2]}\n"
    folds += "value: {metric: val/accuracy, epoch: last}\n"
    specs = [load_spec(write(tmp_path, folds, "alone.yaml")), load_spec(write(tmp_path, SPEC))]
    plan = make_plan(specs, tmp_path / "runs")
    assert totals(plan)["shared"] == 2
    assert {run.specs for run in plan.runs.values()} == {("alone", "tried"), ("tried",)}
    assert plan.untuned == ("rate for digits, digits_cnn",)


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        (
            ", inputs: {labels: folds}}\n  - {label: Fixed",
            "}\n  - {label: Fixed",
            18,
            ["in row 'Replay', column 'Small'", "reads other runs"],
        ),
        ("inputs: {teacher: fixed}", "inputs: {labels: fixed}", 20, ["in row 'Taught'", "inputs.labels is set, but method=distillation"]),
        (
            "{method: fixed_labels, split: full}",
            "{method: fixed_lables, split: full}",
            9,
            ["in row 'Fixed'", "Did you mean 'fixed_labels'?"],
        ),
        (
            "split: fold}\n    each",
            "split: fold, split.num_fold: 5}\n    each",
            5,
            ["row 'Replay', column 'Small', folds, split.fold=0: ", "split.num_folds"],
        ),
        ("[0, 1, 2]", "[0, 1, 5]", 6, ["split.fold=5: must be below split.num_folds=5"]),
        (
            "[5.0, 25.0]}\n    otherwise: {method.learning_rate: 50.0}",
            "[5.0]}\n    otherwise: {method.learning_rate: -1.0}",
            15,
            ["method.learning_rate=-1.0: must be at least 0.0"],
        ),
    ],
)
def test_a_mistake_in_an_input_is_named_with_its_line(tmp_path: Path, old: str, new: str, line: int, words: list[str]) -> None:
    assert old in SPEC
    check_refused(lambda: planned(tmp_path, SPEC.replace(old, new)), words, f"tried.yaml:{line}: ")


def test_inputs_that_are_one_run_are_refused(tmp_path: Path) -> None:
    # The scale takes away what told them apart.
    (tmp_path / "same.yaml").write_text("title: same\nstamp: All folds are one.\nrules: [{where: {split: fold}, set: {split.fold: 0}}]\n")
    with pytest.raises(SpecError, match=r"tried\.yaml:18: in row 'Replay', column 'Small': inputs\.labels=.*a run is given twice"):
        make_plan([load_spec(write(tmp_path, SPEC), load_scale(str(tmp_path / "same.yaml")))], tmp_path)


def test_the_json_and_the_plan_file(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    document = json.loads(json.dumps(plan_document(plan)))
    assert [run["stage"] for run in document["runs"][:4]] == [0, 0, 0, 1]
    assert document["runs"][3]["inputs"] == [run["run_id"] for run in document["runs"][:3]]
    assert document["runs"][3]["config"]["inputs.labels"] == document["runs"][3]["inputs"]
    (path,) = write_plans(plan)
    cells = json.loads(path.read_text())["cells"]
    assert [cell.get("epoch") for cell in cells] == [None, None, "best_test", "best_test", None, None]


def test_a_recipe_shows_settings_and_needs_no_run(tmp_path: Path) -> None:
    text = (
        "title: Recipes\nkind: recipe\ncommon: {dataset: cifar100}\nrows:\n  - {label: Learning rate, setting: optim.learning_rate}\n"
        "  - {label: Drops, setting: optim.milestones}\ncolumns:\n  - {label: ResNet18, set: {model: resnet18}}\n"
        "  - {label: VGG16, set: {model: vgg16, optim.learning_rate: 0.7}}\n"
    )
    plan = planned(tmp_path, text)
    assert plan.runs == {}
    assert [cell.value for cell in plan.cells] == [0.4, 0.7, [82, 123], [150, 225]]
    assert json.loads(write_plans(plan)[0].read_text())["cells"][2]["value"] == [82, 123]
    for wrong in ("optim.learning_rat", "optim", "dataset.width"):
        with pytest.raises(SpecError, match=rf"tried\.yaml:5: in row 'Learning rate', column 'ResNet18': there is no setting '{wrong}'"):
            planned(tmp_path, text.replace("setting: optim.learning_rate", f"setting: {wrong}"))


def many(rows: int, columns: int) -> str:
    """Return a spec of ``columns`` times five times as many runs as ``rows``, and six more for one that reads five others."""
    lines = "".join(f"  - {{label: A{i}, set: {{method: label_smoothing, method.alpha: {0.1 + i / 1000}}}}}\n" for i in range(rows))
    text = SPEC.split("rows:")[0].replace("[0, 1, 2]", "[0, 1, 2, 3, 4]").replace(FIXED, "")
    text += f"rows:\n{lines}  - {{label: Replay, set: {{method: replay, split: full}}, inputs: {{labels: folds}}}}\ncolumns:\n"
    text += "".join(f"  - {{label: C{i}, set: {{optim.learning_rate: {0.1 + i / 1000}}}}}\n" for i in range(columns))
    return text + "repeats: {seed: [0, 1, 2, 3, 4]}\nvalue: {metric: test/accuracy, epoch: last}\n"


@pytest.mark.slow
def test_ten_thousand_runs_cost_no_more_a_run_than_a_thousand(tmp_path: Path) -> None:
    seconds = []
    for seeds in (10, 100):
        # The processor's time, which others on this machine do not change; how long it is says the processor, its growth the code.
        started = time.process_time()
        assert len(planned(tmp_path, many(14, seeds)).runs) == seeds * 5 * (14 + 6)
        seconds.append(time.process_time() - started)
    assert seconds[1] < 20 * seconds[0], seconds
