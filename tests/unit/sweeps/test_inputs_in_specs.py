"""Runs that read other runs, and tuned values, as specs write them."""

import hashlib
from pathlib import Path

import pytest
from made_specs import TWO_STAGES, check_mistake, write

from sweeps.spec.expansion import Variant
from sweeps.spec.load import SpecError, expand, load_spec


def first_run(folder: Path, text: str, *, row: int = 0) -> Variant:
    return expand(load_spec(write(folder, text)))[row].variants[0]


def test_an_input_trains_on_what_its_reader_trains_on(tmp_path: Path) -> None:
    final = first_run(tmp_path, TWO_STAGES)
    inherited = ("model=wrn_28_10", "noise=none")
    assert final.overrides == (
        *("dataset=cifar10", "method=replay", *inherited, "seed=0", "split=full"),
        *("model.dropout=0.3", "optim.epochs=3"),
    )
    ((role, folds),) = final.inputs
    assert role == "labels"
    assert [fold.overrides for fold in folds] == [
        (
            *("dataset=cifar10", "method=instance_labels", *inherited, "seed=0", "split=fold"),
            *("method.learning_rate=50.0", "model.dropout=0.3", "optim.epochs=3", f"split.fold={fold}"),
        )
        for fold in range(3)
    ]
    assert all(fold.repeat == () and fold.inputs == () for fold in folds)


def test_a_model_of_its_own_brings_its_own_recipe(tmp_path: Path) -> None:
    ((role, (big,)),) = first_run(tmp_path, TWO_STAGES, row=1).inputs
    assert role == "teacher"
    # Neither model.dropout nor optim.epochs of the reader.
    assert big.overrides == ("dataset=cifar10", "method=fixed_labels", "model=vgg16", "noise=none", "seed=0", "split=full")
    ((_, (fold,)),) = big.inputs
    assert fold.overrides == (
        *("dataset=cifar10", "method=instance_labels", "model=vgg16", "noise=none", "seed=0", "split=fold"),
        *("method.learning_rate=50.0", "split.fold=1", "trajectory.dtype=float32"),
    )


def test_settings_of_a_reference_win_over_those_of_the_run_and_each_over_both(tmp_path: Path) -> None:
    text = TWO_STAGES.replace(
        "inputs: {labels: folds}", "inputs: {labels: {from: folds, set: {split.fold: 9, split.seed: 4, method: class_labels}}}"
    )
    folds = first_run(
        tmp_path, text.replace("split: fold}\n    each", "split: fold, split.seed: 3, method.momentum: 0.9}\n    each")
    ).inputs[0][1]
    assert all("split.seed=4" in fold.overrides and "method=class_labels" in fold.overrides for fold in folds)
    assert ["split.fold=0" in fold.overrides for fold in folds] == [True, False, False]
    assert not any("method.momentum" in override for fold in folds for override in fold.overrides)


def test_two_readers_of_the_same_runs_share_them(tmp_path: Path) -> None:
    text = TWO_STAGES.replace("columns:", "  - {label: Again, set: {method: fixed_labels, split: full}, inputs: {labels: folds}}\ncolumns:")
    cells = expand(load_spec(write(tmp_path, text)))
    assert cells[0].variants[0].inputs[0][1] is cells[2].variants[0].inputs[0][1]
    assert cells[0].variants[0].inputs[0][1] is not cells[0].variants[1].inputs[0][1]


def test_columns_and_cells_can_say_what_rows_can(tmp_path: Path) -> None:
    text = TWO_STAGES.replace(
        "{label: Wide, set: {model: wrn_28_10, model.dropout: 0.3, noise: none}}",
        "{label: Wide, use: net, tuned: rate}",
    ).replace("runs:", "runs:\n  net: {set: {model: resnet18, noise: none}}")
    text = text.replace("Final, use: final", "Final, set: {method: class_labels}")
    text = text.replace("  final:\n    set: {method: replay, split: full}\n    inputs: {labels: folds}\n", "")
    text += "cells: [{row: Final, inputs: {labels: {from: folds, set: {seed: 5}}}}]\n"
    final = first_run(tmp_path, text)
    assert {"model=resnet18", "noise=none", "method.learning_rate=50.0"} <= set(final.overrides)
    assert all("seed=5" in fold.overrides for fold in final.read)


def test_a_row_has_an_epoch_of_its_own(tmp_path: Path) -> None:
    cells = expand(load_spec(write(tmp_path, TWO_STAGES)))
    assert [str(cell.epoch) for cell in cells] == ["None", "best_val"]


TUNED = """\
schema: 1
scale: paper
tuned:
  - name: rate
    dataset: cifar10
    model: wrn_28_10
    chosen: {method.learning_rate: 25.0}
    metric: val/accuracy
    epoch: last
    seed: 7
    grid: [{values: {method.learning_rate: 25.0}, score: 0.5, run_id: some}]
"""


def test_chosen_values_are_looked_up_by_dataset_and_model(tmp_path: Path) -> None:
    (tmp_path / "tuned").mkdir()
    write(tmp_path / "tuned", TUNED, "paper.yaml")
    cells = expand(load_spec(write(tmp_path, TWO_STAGES)))
    fold = cells[0].variants[0].read[0]
    assert "method.learning_rate=25.0" in fold.overrides
    assert [(str(use), use.chosen) for use in fold.uses] == [("rate for cifar10, wrn_28_10", True)]
    vgg_fold = cells[1].variants[0].read[0].read[0]
    assert "method.learning_rate=50.0" in vgg_fold.overrides
    assert [(str(use), use.chosen) for use in vgg_fold.uses] == [("rate for cifar10, vgg16", False)]


_POINT = TUNED[TUNED.index("chosen") :]
TUNED_MISTAKES = {
    "other keys": (
        (_POINT, _POINT.replace("method.learning_rate: 25.0", "method.momentum: 0.9")),
        4,
        ["keys of the grid of 'rate'", "momentum"],
    ),
    "no point": (("chosen: {method.learning_rate: 25.0}", "chosen: {method.learning_rate: 26.0}"), 7, ["chosen is no point of the grid"]),
    "no value": (("chosen: {method.learning_rate: 25.0}", "chosen: {method.learning_rate: {}}"), 7, ["must be a text, a number"]),
    "missing": (("    seed: 7\n", ""), 4, ["tuned[0].seed is missing"]),
    "score": (("score: 0.5", "score: high"), 11, ["tuned[0].grid[0].score must be a number"]),
    "scale": (("scale: paper", "scale: smoke"), 2, ["scale must be 'paper'"]),
    "schema": (("schema: 1", "schema: 2"), 1, ["schema must be an integer from 1 to 1"]),
    "no YAML": (("tuned:\n", "tuned: [\n"), 4, ["not YAML"]),
    "twice": (("tuned:\n", "tuned:\n" + TUNED.split("tuned:\n")[1]), 12, ["rate, cifar10, wrn_28_10 is given twice, first in line 4"]),
}


@pytest.mark.parametrize("name", TUNED_MISTAKES)
def test_a_damaged_file_of_chosen_values_is_named_with_its_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "tuned").mkdir()
    spec = write(tmp_path, TWO_STAGES)
    check_mistake(lambda _: load_spec(spec), tmp_path / "tuned", TUNED, TUNED_MISTAKES[name], "paper.yaml")


MISTAKES = {
    "runs that read each other": (
        ("tuned: rate", "inputs: {labels: final}"),
        10,
        ["a cycle", "run 'folds' -> run 'final' -> run 'folds'"],
    ),
    "tuning that needs itself": (
        ("    grid:", "    inputs: {labels: final}\n    grid:"),
        10,
        ["a cycle", "run 'folds' -> tuning 'rate' -> run 'final' -> run 'folds'"],
    ),
    "selector of nothing": (("where: {split.fold: 1}", "where: {split.fold: 5}"), 13, ["no run of 'folds' matches", "split.fold=2"]),
    "selector of another key": (("where: {split.fold: 1}", "where: {split.fld: 1}"), 13, ["no each over split.fld", "'split.fold'"]),
    "two teachers": (
        ("inputs: {teacher: big}", "inputs: {teacher: folds}"),
        22,
        ["one run is needed, 3 of 'folds' match", "split.fold=0; split.fold=1", "Add where"],
    ),
    "use of several runs": (("use: final", "use: folds"), 21, ["'folds' is 3 runs", "a cell needs one"]),
    "used run and column": (
        ("{model: wrn_28_10,", "{split: full, model: wrn_28_10,"),
        24,
        ["split is set by column 'Wide' and by row 'Final'"],
    ),
    "used run and row": (("use: final", "use: final, set: {split: full}"), 21, ["split is set by row 'Final' and by run 'final'"]),
    "input of row and column": (
        ("noise: none}}", "noise: none}, inputs: {labels: folds}}"),
        24,
        ["inputs.labels is set by column 'Wide' and by row 'Final'", ":10"],
    ),
    "run that is not there": (
        ("use: final", "use: finl"),
        21,
        ["there is no run 'finl'. Did you mean 'final'?", "Known: big, final, folds"],
    ),
    "input that is not there": (("labels: folds", "labels: fold"), 10, ["inputs.labels: there is no run 'fold'", "'folds'"]),
    "tuning that is not there": (("tuned: rate", "tuned: rat"), 7, ["there is no tuning 'rat'. Did you mean 'rate'?"]),
    "unknown role": (("inputs: {labels: folds}", "inputs: {label: folds}"), 10, ["runs.final.inputs.label", "Did you mean 'labels'?"]),
    "unknown key of a run": (("each: {split.fold: [0, 1, 2]}", "eech: {}"), 6, ["runs.folds.eech", "'each'"]),
    "unknown key of a reference": (("{from: folds, where:", "{from: folds, were:"), 13, ["inputs.labels.were", "'where'"]),
    "unknown key of a tuning": (("    grid:", "    grd: {}\n    grid:"), 17, ["tuning.rate.grd", "'grid'"]),
    "no otherwise": (("    otherwise: {method.learning_rate: 50.0}\n", ""), 16, ["tuning.rate.otherwise is missing"]),
    "otherwise of other keys": (
        ("otherwise: {method.learning_rate: 50.0}", "otherwise: {method.momentum: 0.9}"),
        18,
        ["must have the keys of grid, method.learning_rate; it has method.momentum"],
    ),
    "grid and set": (("seed: 7}", "seed: 7, method.learning_rate: 1.0}"), 17, ["method.learning_rate is set by grid and by set"]),
    "tuning by the test set": (
        ("    otherwise:", "    value: {metric: test/accuracy}\n    otherwise:"),
        18,
        ["tuning.rate.value: there is no such key"],
    ),
    "tuned and set": (
        ("split: fold}\n", "split: fold, method.learning_rate: 1.0}\n"),
        7,
        ["method.learning_rate is tuned by 'rate' and also set in run 'folds'", ":5"],
    ),
    "tuned without a model": (("model: wrn_28_10, model.dropout: 0.3, ", ""), 7, ["looked up by dataset and model, but model is not set"]),
    "each and set": (("split: fold}\n", "split: fold, split.fold: 3}\n"), 6, ["split.fold is set by each and by set"]),
    "id as a setting": (
        ("{method: distillation,", "{inputs.teacher: some-run, method: distillation,"),
        22,
        ["no setting here", "inputs: {labels: NAME}"],
    ),
    "epoch rule": (("epoch: best_val", "epoch: best_vall"), 22, ["rows[1].epoch: there is no epoch rule 'best_vall'", "'best_val'"]),
    "column with an epoch": (("noise: none}}", "noise: none}, epoch: last}"), 24, ["columns[0].epoch: there is no such key"]),
    "shared": (("runs:\n", "shared: nowhere\nruns:\n"), 3, ["shared: 'nowhere': there is no shared file of that name. Known: paper"]),
    "shared file": (("runs:\n", "shared: nowhere.yaml\nruns:\n"), 3, ["3: shared: ", ": there is no such file"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_with_its_file_and_line(tmp_path: Path, name: str) -> None:
    check_mistake(load_spec, tmp_path, TWO_STAGES, MISTAKES[name])


def split_in_two(folder: Path) -> tuple[str, Path]:
    """Write the runs and tunings of TWO_STAGES to a file of their own, and return the paths of both."""
    head, rest = TWO_STAGES.split("runs:\n")
    names, rest = rest.split("common:")
    shared = folder / "names.yaml"
    shared.write_text("runs:\n" + names)
    return write(folder, f"{head}shared: names.yaml\ncommon:{rest}", "apart.yaml"), shared


def test_shared_names_are_those_of_the_spec(tmp_path: Path) -> None:
    together = expand(load_spec(write(tmp_path, TWO_STAGES)))
    path, shared = split_in_two(tmp_path)
    apart = expand(load_spec(path))

    def overrides(variant: Variant) -> object:
        return variant.overrides, [overrides(item) for item in variant.read]

    assert [[overrides(variant) for variant in cell.variants] for cell in together] == [
        [overrides(variant) for variant in cell.variants] for cell in apart
    ]
    shared.write_text(shared.read_text().replace("tuned: rate", "tuned: rat"))
    with pytest.raises(SpecError, match=r"names\.yaml:5: tuned: there is no tuning 'rat'"):
        load_spec(path)


def test_a_name_stands_in_one_file(tmp_path: Path) -> None:
    path, _ = split_in_two(tmp_path)
    text = Path(path).read_text().replace("common:", "runs: {final: {}}\ncommon:")
    with pytest.raises(SpecError, match=r"apart\.yaml:4: runs\.final is given twice, first in .*names\.yaml:7"):
        load_spec(write(tmp_path, text, "apart.yaml"))


def test_a_plan_is_of_the_spec_and_of_all_that_decides_its_runs(tmp_path: Path) -> None:
    plain = TWO_STAGES.split("runs:")[0] + "rows: [{label: A, set: {method: one_hot}}]\ncolumns: [{label: B}]\nrepeats: {seed: [0]}\n"
    path = write(tmp_path, plain + "value: {metric: test/accuracy, epoch: last}\n", "plain.yaml")
    assert load_spec(path).sha256 == hashlib.sha256(Path(path).read_bytes()).hexdigest()

    path, shared = split_in_two(tmp_path)
    seen = [load_spec(path).sha256]
    (tmp_path / "tuned").mkdir()
    for name, text in (
        ("other.yaml", TUNED.replace("name: rate", "name: other")),
        ("paper.yaml", TUNED.replace("name: rate", "name: other")),
    ):
        write(tmp_path / "tuned", text, name)
        assert load_spec(path).sha256 == seen[0]
    write(tmp_path / "tuned", TUNED, "paper.yaml")
    seen.append(load_spec(path).sha256)
    shared.write_text(shared.read_text() + "# changed\n")
    seen.append(load_spec(path).sha256)
    assert len(set(seen)) == 3
