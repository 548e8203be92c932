import json
from pathlib import Path
from typing import Any

import pytest
from made_specs import RECIPE, SCALE, TABLE, spec_of, write

from sweeps.expand import Cell, Variant, digest, expand, on_top
from sweeps.scales import Scale, load_scale
from sweeps.yaml_files import SpecError

PAPER = load_scale("paper")


def cells_of(folder: Path, old: str = "", new: str = "", scale: Scale = PAPER, text: str = TABLE) -> dict[tuple[str, str], Cell]:
    return {(cell.row, cell.column): cell for cell in expand(spec_of(folder, text, old, new), scale)}


def first(cell: Cell) -> Variant:
    return cell.variants[0]


def tuned(folder: Path, chosen: dict[str, Any], scale: str = "paper") -> None:
    """Keep ``chosen`` as the best of three values for the tuning of the table."""
    grid = [{"values": {"method.learning_rate": rate}, "score": rate / 100, "run_id": "x"} for rate in (5.0, 25.0, 50.0)]
    entry = {"name": "rate", "dataset": "digits", "model": "digits_cnn", "chosen": chosen, "grid": grid}
    entry |= {"metric": "val/accuracy", "epoch": "last", "seed": 7}
    (folder / "tuned").mkdir(exist_ok=True)
    (folder / "tuned" / f"{scale}.yaml").write_text(json.dumps({"schema": 1, "scale": scale, "tuned": [entry]}))


def test_a_cell_has_what_its_row_its_column_and_its_rules_say(tmp_path: Path) -> None:
    cells = cells_of(tmp_path)
    noisy = cells["One-hot, last", "40%"]
    assert [variant.repeat for variant in noisy.variants] == [{"seed": 0}, {"seed": 1}]
    common = {"dataset": "digits", "optim.epochs": 3, "model": "digits_cnn", "split": "full", "method": "one_hot"}
    assert noisy.variants[1].settings == common | {"optim.momentum": 0.4, "optim.batch_size": 32, "seed": 1}
    assert "optim.batch_size" not in first(cells["One-hot, last", "Clean"]).settings
    assert cells["One-hot, best", "Clean"].epoch == "best_test"
    skipped = cells["Taught", "40%"]
    assert (skipped.skip, skipped.variants) == ("makes no sense", [])


def test_an_input_takes_over_what_its_reader_trains_on(tmp_path: Path) -> None:
    taught = first(cells_of(tmp_path)["Taught", "Clean"])
    (teacher,) = taught.inputs["teacher"]
    assert teacher.settings == taught.settings | {"method": "fixed_labels"}
    (fold,) = teacher.inputs["labels"]
    own = {"method": "instance_labels", "split": "fold", "split.fold": 1, "trajectory.dtype": "float32", "method.learning_rate": 50.0}
    assert fold.settings == teacher.settings | own
    assert fold.name == "folds, trajectory.dtype=float32, split.fold=1"
    without = cells_of(tmp_path, "{method: fixed_labels, split: full}", "{method: fixed_labels}")
    assert "split" not in first(without["Taught", "Clean"]).inputs["teacher"][0].settings


def test_an_input_with_a_model_of_its_own_brings_its_own_recipe(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, "{method: fixed_labels, split: full}", "{method: fixed_labels, split: full, model: resnet18}")
    teacher = first(cells["Taught", "Clean"]).inputs["teacher"][0].settings
    assert teacher["model"] == "resnet18"
    assert not {"optim.epochs", "model.width"} & teacher.keys()


def test_runs_that_several_read_are_made_once(tmp_path: Path) -> None:
    spec = TABLE.replace("optim.momentum: 0.0", "optim.momentum: 0.0, split.num_folds: 3").replace(
        "rows:\n", "rows:\n  - {label: Again, use: final}\n"
    )
    cells = cells_of(tmp_path, text=spec)
    assert first(cells["Final", "Clean"]).inputs["labels"] == first(cells["Again", "Clean"]).inputs["labels"]
    assert len(first(cells["Final", "Clean"]).inputs["labels"]) == 3


def test_chosen_values_stand_in_the_place_of_otherwise(tmp_path: Path) -> None:
    before = cells_of(tmp_path)["Final", "Clean"]
    assert (before.untuned, before.at_end) == (["rate for digits, digits_cnn"], [])
    tuned(tmp_path, {"method.learning_rate": 50.0})
    assert cells_of(tmp_path)["Final", "Clean"].at_end == ["method.learning_rate=50.0 (rate for digits, digits_cnn)"]
    tuned(tmp_path, {"method.learning_rate": 25.0})
    after = cells_of(tmp_path)["Final", "Clean"]
    assert (after.untuned, after.at_end) == ([], [])
    assert {fold.settings["method.learning_rate"] for fold in first(after).inputs["labels"]} == {25.0}
    assert cells_of(tmp_path)["One-hot, last", "Clean"].untuned == []
    tuned(tmp_path, {"method.momentum": 0.9})
    with pytest.raises(SpecError, match="has not the keys of its grid"):
        cells_of(tmp_path)


def test_two_tunings_of_one_setting_are_refused(tmp_path: Path) -> None:
    grid = "grid: {method.learning_rate: [1.0]}, otherwise: {method.learning_rate: 1.0}"
    text = TABLE.replace("tuned: rate", "tuned: [rate, also]").replace("tuning:\n", f"tuning:\n  also: {{{grid}}}\n")
    with pytest.raises(SpecError, match="method.learning_rate is tuned by 'also' and also set"):
        cells_of(tmp_path, text=text)


def test_a_recipe_shows_settings_without_runs_of_its_own(tmp_path: Path) -> None:
    cell = cells_of(tmp_path, text=RECIPE)["Epochs", "Small"]
    assert cell.setting == "optim.epochs"
    assert first(cell).settings == {"method": "one_hot", "seed": 0, "dataset": "digits", "model": "digits_cnn"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("use: final", "use: finale", "in row 'Final', column 'Clean': use: there is no run 'finale'. Did you mean 'final'?"),
        ("use: final", "use: folds", "'folds' is several runs, one for each split.fold"),
        ("{labels: folds}", "{labels: fold}", "inputs.labels: there is no run 'fold'. Did you mean 'folds'?"),
        ("{labels: folds}", "{labels: final}", "recursion"),
        ("split: fold}\n    each", "split: fold, split.fold: 1}\n    each", "split.fold is set by set and by each"),
        ("where: {split.fold: 1}, set: {", "where: {split.fold: 1}, set: {split.fold: 2, ", "split.fold is set by set and by each"),
        ("teacher: first", "teacher: folds", "inputs.teacher: 3 runs of 'folds' match where"),
        ("where: {split.fold: 1}", "where: {split.fold: 9}", "inputs.labels: 0 runs of 'folds' match where"),
        (
            "otherwise: {method.learning_rate: 50.0}",
            "otherwise: {method.momentum: 0.9}",
            "otherwise has not the keys of its grid",
        ),
        ("tuned: rate", "tuned: rat", "tuned: there is no tuning 'rat'. Did you mean 'rate'?"),
        ("optim.momentum: 0.0", "optim.momentum: 0.0, split: full", "split is set by run 'final' and by its column"),
        ("optim.momentum: 0.0", "optim.momentum: 0.0, seed: 3", "seed is set by its row, column or cell and by repeats"),
        ("use: final", "use: final, inputs: {labels: first}", "labels is set by run 'final' and by its row"),
        (
            "split: fold}\n    each",
            "split: fold, method.learning_rate: 1.0}\n    each",
            "method.learning_rate is tuned by 'rate' and also set",
        ),
        ("dataset: digits, ", "", "tuned: 'rate' is looked up by dataset and model"),
    ],
)
def test_a_mistake_between_lines_is_refused(old: str, new: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError) as raised:
        cells_of(tmp_path, old, new)
    assert "tried.yaml: in row" in str(raised.value)
    assert message in str(raised.value)


def test_a_scale_changes_every_run_after_tuned_values_were_looked_up(tmp_path: Path) -> None:
    scale = load_scale(write(tmp_path, SCALE, "tiny.yaml"))
    tuned(tmp_path, {"method.learning_rate": 5.0}, "tiny")
    cells = cells_of(tmp_path, scale=scale)
    fold = first(cells["Final", "40%"]).inputs["labels"][0].settings
    assert fold["method.learning_rate"] == 5.0
    assert {key: fold.get(key) for key in ("model", "model.width", "optim", "optim.epochs")} == {
        "model": "digits_cnn",
        "model.width": 2,
        "optim": "digits_cnn",
        "optim.epochs": 1,
    }
    assert "optim.momentum" not in fold


def test_a_tuned_recipe_stays_where_a_rule_replaces_the_model(tmp_path: Path) -> None:
    scale = load_scale(write(tmp_path, SCALE, "tiny.yaml"))
    grid = "grid: {optim.learning_rate: [0.1]}\n    otherwise: {optim.learning_rate: 0.1}"
    text = TABLE.replace("grid: {method.learning_rate: [5.0, 25.0, 50.0]}\n    otherwise: {method.learning_rate: 50.0}", grid)
    settings = first(cells_of(tmp_path, text=text, scale=scale)["Final", "Clean"]).inputs["labels"][0].settings
    assert settings["optim.learning_rate"] == 0.1
    said = load_scale(write(tmp_path, SCALE.replace("rules:\n", "rules:\n  - set: {optim.learning_rate: 0.5}\n"), "said.yaml"))
    settings = first(cells_of(tmp_path, text=text, scale=said)["Final", "Clean"]).inputs["labels"][0].settings
    assert "optim.learning_rate" not in settings, "a rule says it, and a later one brings another recipe"
    settings = first(cells_of(tmp_path, "optim.epochs: 3", "optim.learning_rate: 0.2", scale)["Final", "Clean"]).settings
    assert "optim.learning_rate" not in settings


def test_a_rule_needs_the_very_value(tmp_path: Path) -> None:
    scale = load_scale(
        write(tmp_path, SCALE.replace("model: digits_cnn}, set: {model: digits_cnn,", "optim.epochs: 3.0}, set: {"), "tiny.yaml")
    )
    assert "model.width" not in first(cells_of(tmp_path, scale=scale)["Final", "Clean"]).settings


def test_a_scale_repeats_a_spec_more_often(tmp_path: Path) -> None:
    scale = load_scale("paper").model_copy(update={"repeats": {"tried": {"seed": [4, 5, 6]}}})
    assert [variant.repeat["seed"] for variant in cells_of(tmp_path, scale=scale)["Final", "Clean"].variants] == [4, 5, 6]
    with pytest.raises(SpecError, match="repeats.tried must have the keys that the spec repeats: seed"):
        cells_of(tmp_path, scale=scale.model_copy(update={"repeats": {"tried": {"split.fold": [0]}}}))


def test_a_scale_with_a_grid_of_its_own(tmp_path: Path) -> None:
    head, _, rest = TABLE.partition("tuning:\n")
    shared, _, rows = rest.partition("common:")
    write(tmp_path, f"tuning:\n{shared}", "shared.yaml")
    text = f"{head}shared: ./shared.yaml\ncommon:{rows}"
    right = "rate: {grid: {method.learning_rate: [1.0]}, otherwise: {method.learning_rate: 1.0}}"
    scale = load_scale(write(tmp_path, f"{SCALE}tuning: {{shared: {{{right}}}}}", "tiny.yaml"))
    fold = first(cells_of(tmp_path, text=text, scale=scale)["Final", "Clean"]).inputs["labels"][0]
    assert fold.settings["method.learning_rate"] == 1.0
    scale = load_scale(write(tmp_path, f"{SCALE}tuning: {{shared: {{{right.replace('rate:', 'rat:', 1)}}}}}", "tiny.yaml"))
    with pytest.raises(SpecError, match="tiny.yaml: tuning.shared: there is no tuning 'rat'"):
        cells_of(tmp_path, text=text, scale=scale)


def test_the_digest_changes_with_whatever_decides_which_runs_there_are(tmp_path: Path) -> None:
    def of(old: str = "", new: str = "", scale: Scale = PAPER) -> str:
        return digest(list(cells_of(tmp_path, old, new, scale).values()))

    before = of()
    assert of("title: A table", "title: Another  # only words") == before
    changed = [of("seed: [0, 1]", "seed: [0]"), of("label: Clean", "label: Cleaner"), of("skip: makes", "skip: does make")]
    changed += [of("split.fold: 1}", "split.fold: 2}"), of(scale=load_scale(write(tmp_path, SCALE, "tiny.yaml")))]
    tuned(tmp_path, {"method.learning_rate": 25.0})
    assert len({before, of(), *changed}) == 7


def test_a_choice_takes_what_was_set_below_the_one_before_with_it() -> None:
    base = {"noise": "uniform", "noise.rate": 0.4, "optim.epochs": 3, "seed": 0}
    assert on_top(base, {"noise": "none"}) == {"noise": "none", "optim.epochs": 3, "seed": 0}
    assert on_top(base, {"model": "small_cnn", "noise.rate": 0.2}) == {
        "noise": "uniform",
        "noise.rate": 0.2,
        "seed": 0,
        "model": "small_cnn",
    }
