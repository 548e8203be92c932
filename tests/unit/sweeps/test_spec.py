from pathlib import Path

import pytest
from made_specs import FIGURE, RECIPE, SCALE, TABLE, spec_of, write

from repro.errors import UserError
from sweeps.scales import known_scales, load_scale
from sweeps.spec import known_specs, load_spec
from sweeps.tuned_values import Chosen, Point, read_tuned, tuned_folder
from sweeps.yaml_files import SpecError, find

EXTRA = "cells:"
REFUSED = [
    ("kind: table", "kind: tabel", "kind: Input should be 'table', 'figure' or 'recipe'"),
    ("common:", "comon:", "there is no key 'comon'. Did you mean 'common'?"),
    ("{label: Final, use", "{lable: Final, use", "rows[0]: there is no key 'lable'. Did you mean 'label'?"),
    ("optim.epochs: 3", "optim.epochs: {a: 1}", "common: optim.epochs must be a text, a number"),
    ("optim.epochs: 3", "optim.epochs: 2020-01-01", "common: optim.epochs must be a text, a number"),
    ("optim.epochs: 3", "exec.device: cuda", "common: exec.device says how runs are executed"),
    ("optim.epochs: 3", 'noise.seed: "${seed}"', "common: noise.seed must be"),
    ("optim.epochs: 3", "inputs.labels: folds", "common: write inputs: {labels: NAME} beside set"),
    ("seed: [0, 1]", "seed: [0, 1, 0]", "repeats: seed has 0 twice"),
    ("seed: [0, 1]", "seed: []", "repeats.seed: List should have at least 1 item"),
    ("seed: [0, 1]", "seed: 0", "repeats.seed: Input should be a valid list"),
    ("epoch: best_val", "epoch: best_vale", "rows[1].epoch: there is no epoch rule 'best_vale'. Did you mean 'best_val'?"),
    ("epoch: best_val", "epoch: epoch 0", "rows[1].epoch: there is no epoch rule 'epoch 0'"),
    ("label: Taught", "label: Final", "the label 'Final' is given twice"),
    ("row: Taught", "row: Tought", "there is no row 'Tought'. Did you mean 'Taught'?"),
    ('column: "40%", skip', "column: clean, skip", "there is no column 'clean'. Did you mean 'Clean'?"),
    ("value: {metric: test/accuracy, epoch: last}", "", "a table needs value"),
    ("epoch: last}", "epoch: last, decimals: one}", "value.decimals: Input should be a valid integer"),
    ("- set: {split: full}", "- set: {split: full, method: one_hot}", "method is set by its group and by 'One-hot'"),
    ("rows: [{label: One-hot, set: {method: one_hot}}]", "use: first\n    rows: [{label: One-hot, use: final}]", "use is set by its group"),
    ("kind: table", "kind: table\nkind: table", "kind is given twice, in the mapping that begins in line 1"),
    ("kind: table", "kind: table\nlike: [demmo]", "like: there is no spec '['demmo']'"),
    ("kind: table", "kind: [table", "expected ',' or ']'"),
    ("title: A table", "title: *unknown", "undefined alias"),
    ("title: A table", "- A table", "tried.yaml: "),
    ("title: A table", "title: 40", "title: Input should be a valid string"),
    ("kind: table", "kind: table\nshared: papre", "there is no shared file 'papre'. Did you mean 'paper'?"),
    ("kind: table", "kind: table\nshared: ./absent.yaml", "it cannot be read: No such file"),
]


@pytest.mark.parametrize(("old", "new", "message"), REFUSED)
def test_a_mistake_is_named_in_one_line(old: str, new: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError) as raised:
        spec_of(tmp_path, TABLE, old, new)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "tried.yaml" in str(raised.value) or "absent.yaml" in str(raised.value) or "papre" in str(raised.value)


def test_a_spec_like_another_says_what_differs(tmp_path: Path) -> None:
    (tmp_path / "tried.yaml").write_text("like: demo\ntitle: Another\nrepeats: {seed: [7]}")
    other, spec = load_spec("demo"), load_spec(str(tmp_path / "tried.yaml"))
    assert (spec.title, spec.repeats) == ("Another", {"seed": [7]})
    assert (spec.name, spec.rows, spec.tuning) == ("tried", other.rows, other.tuning)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"[1, 2]", b"a: \x00", b"[" * 5000])
def test_a_file_that_is_no_mapping(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tried.yaml").write_bytes(content)
    with pytest.raises(SpecError, match=r"tried\.yaml"):
        load_spec(str(tmp_path / "tried.yaml"))


def test_a_spec_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no spec 'demmo'. Did you mean 'demo'?"):
        load_spec("demmo")
    with pytest.raises(UserError, match="absent.yaml: it cannot be read: No such file"):
        load_spec(str(write(tmp_path, TABLE)).replace("tried", "absent"))
    assert find("demo", known_specs(), "spec") == known_specs()["demo"]


def test_groups_and_their_epochs_become_rows(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    assert [(line.label, line.epoch) for line in spec.row_lines] == [
        ("Final", None),
        ("Taught", "best_val"),
        ("One-hot, last", None),
        ("One-hot, best", "best_test"),
    ]
    assert spec.row_lines[2].settings == {"split": "full", "method": "one_hot"}
    assert [line.label for line in spec.column_lines] == ["Clean", "40%"]
    assert (spec.name, spec.value.decimals) == ("tried", 4)


def test_a_figure_has_one_column_without_a_label_and_knows_its_rows(tmp_path: Path) -> None:
    assert [line.label for line in spec_of(tmp_path, FIGURE).column_lines] == [""]
    with pytest.raises(SpecError, match="there is no row 'Label'. Did you mean 'Labels'?"):
        spec_of(tmp_path, FIGURE, "classes: [1]", "rows: [Label]")


def test_numbers_with_an_exponent_are_numbers(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, RECIPE, "common: {dataset: digits}", "common: {dataset: digits, optim.weight_decay: 1e-4, optim.name: 1e}")
    assert spec.common == {"dataset": "digits", "optim.weight_decay": 1e-4, "optim.name": "1e"}


def test_shared_runs_join_those_of_the_spec(tmp_path: Path) -> None:
    write(tmp_path, "runs: {other: {set: {method: one_hot}}}", "shared.yaml")
    spec = spec_of(tmp_path, TABLE, "kind: table", "kind: table\nshared: shared.yaml")
    assert set(spec.runs) == {"other", "folds", "final", "first"}
    write(tmp_path, "runs: {first: {set: {method: one_hot}}}", "shared.yaml")
    with pytest.raises(SpecError, match="first is set by .*shared.yaml and by runs"):
        load_spec(str(tmp_path / "tried.yaml"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title: tiny", "title: paper", "the scale paper is the paper's own"),
        ("disclaimer: These numbers mean nothing.", "", "disclaimer is missing"),
        ("title: tiny", "title: a/b", "title: String should match pattern"),
        ("numbered_epochs: last", "repeats: {tabel1: {seed: [0]}}", "repeats: there is no spec 'tabel1'. Did you mean 'table1'?"),
        ("numbered_epochs: last", "repeats: {table1: {seed: []}}", "repeats.table1.seed: List should have at least 1 item"),
        ("numbered_epochs: last", "repeats: {table1: {seed: [1, 1]}}", "repeats.table1: seed has 1 twice"),
        ("where:", "were:", "rules[1]: there is no key 'were'. Did you mean 'where'?"),
    ],
)
def test_a_mistake_in_a_scale(old: str, new: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError) as raised:
        load_scale(write(tmp_path, SCALE.replace(old, new)))
    assert f"tried.yaml: {message}" in str(raised.value)


def test_a_scale_reads_other_epochs_and_fewer_points(tmp_path: Path) -> None:
    scale = load_scale(write(tmp_path, SCALE))
    assert (scale.name, scale.epoch("epoch 84"), scale.epoch("best_val")) == ("tiny", "last", "best_val")
    assert scale.subsampled([1, 2, 3, 4, 5]) == [1, 5]
    assert load_scale("paper").epoch("epoch 84") == "epoch 84"
    assert load_scale("paper").subsampled([1, 2, 3]) == [1, 2, 3]


def test_everything_that_comes_with_the_suite_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REPRO_TUNED")
    for name in known_scales():
        scale = load_scale(name)
        assert all(key == chosen.key for key, chosen in read_tuned(scale).items())
    assert all(load_spec(name).title for name in known_specs())
    assert tuned_folder() == known_specs()["demo"].parents[1] / "tuned"


@pytest.mark.parametrize(
    ("best", "told"), [([5, 8], ["optim.milestones=[5, 8]"]), ([10, 15], []), ([40, 50], ["optim.milestones=[40, 50]"])]
)
def test_lists_have_an_order_too_so_that_one_at_an_end_of_its_grid_is_told(best: list[int], told: list[str]) -> None:
    grid = [
        Point(values={"optim.milestones": drops, "optim.name": "sgd"}, score=float(drops == best), run_id="run")
        for drops in ([5, 8], [10, 15], [20, 25], [40, 50])
    ]
    values = {"optim.milestones": best, "optim.name": "sgd"}
    chosen = Chosen(name="own", dataset="digits", model="mlp", chosen=values, metric="val/accuracy", epoch="last", seed=0, grid=grid)
    assert chosen.at_end == told
