from pathlib import Path

import pytest
from made_specs import check_mistake, write

from analysis.tables.table import make_table
from repro.config.compose import compose
from repro.errors import UserError
from sweeps.__main__ import main as sweep
from sweeps.local.tuning import tunings_of
from sweeps.plan.plan import make_plan, write_plans
from sweeps.spec.data import Place
from sweeps.spec.expansion import walk
from sweeps.spec.load import SpecError, expand, load_spec
from sweeps.spec.scale import PAPER, Scale, load_scale
from sweeps.spec.settings import Setting

SMALL = """\
title: small
stamp: Not the paper's numbers.
rules:
  - drop: [augment, optim.milestones]
  - {where: {dataset: cifar100}, set: {dataset: digits, optim.epochs: 2}}
  - {where: {dataset: digits, seed: 1}, set: {model: digits_cnn, model.width: 4}}
  - {where: {noise: uniform}, drop: [noise]}
numbered_epochs: best_val
grid_points: 2
"""

SPEC = """\
title: A table
kind: table
common: {dataset: cifar100, model: vgg16, split: clean_meta, split.meta_size: 1000, optim.epochs: 9}
rows:
  - {label: One-hot, set: {method: one_hot}, epoch: epoch 84}
  - {label: Smoothing, set: {method: label_smoothing}}
columns: [{label: "40%", set: {noise: uniform, noise.rate: 0.4, augment: crop_flip, augment.padding: 2}}]
repeats: {seed: [0, 1]}
value: {metric: test/accuracy, epoch: epoch 3}
"""


def scaled(folder: Path, **settings: str | int | float) -> set[str]:
    here = Place(folder, 1)
    given = {key: Setting(key, value, here) for key, value in ((key.replace("__", "."), value) for key, value in settings.items())}
    return {setting.override for setting in load_scale(write(folder, SMALL, "small.yaml")).apply(given).values()}


def test_rules_drop_and_set_in_their_order(tmp_path: Path) -> None:
    assert scaled(tmp_path, dataset="cifar10", augment="x", augment__padding=2, optim="y", optim__milestones=1) == {
        "dataset=cifar10",
        "optim=y",
    }
    assert scaled(tmp_path, dataset="cifar100", dataset__part=3, optim__epochs=9) == {"dataset=digits", "optim.epochs=2"}
    # The third rule sees what the second has set; a model replaces the recipe.
    assert scaled(tmp_path, dataset="cifar100", seed=1, model="vgg16", model__width=64) == {
        *("dataset=digits", "seed=1", "model=digits_cnn", "model.width=4")
    }
    assert scaled(tmp_path, dataset="cifar10", seed=1) == {"dataset=cifar10", "seed=1"}
    assert scaled(tmp_path, noise="uniform", noise__rate=0.4) == set()
    assert scaled(tmp_path, noise="patrini", noise__rate=0.4) == {"noise=patrini", "noise.rate=0.4"}


def test_what_is_tuned_of_a_recipe_stays_where_a_rule_replaces_the_model(tmp_path: Path) -> None:
    rules = "rules: [{where: {model: vgg16}, set: {model: small_cnn, optim: small_cnn_momentum}}]"
    scale = load_scale(write(tmp_path, f"title: own\nstamp: Mine.\n{rules}\n", "own.yaml"))
    grid = "tuning: {rate: {set: {seed: 0}, grid: {optim.learning_rate: [0.3, 0.5]}, otherwise: {optim.learning_rate: 0.7}}}\ncommon: {"
    text = SPEC.replace("common: {", grid).replace("epoch: epoch 84}", "tuned: rate}").replace("epoch: epoch 3", "epoch: last")
    spec = load_spec(write(tmp_path, text), scale)
    tuned, plain = (cell.variants[0].overrides for cell in expand(spec))
    assert {"model=small_cnn", "optim=small_cnn_momentum", "optim.learning_rate=0.7"} <= set(tuned)
    assert not [override for override in (*tuned, *plain) if override.startswith("optim.epochs")]
    ((needed,),) = tunings_of([spec])
    assert ["optim.learning_rate=0.3" in variant.overrides for _, variant in needed.grid] == [True, False]


def test_every_run_and_every_epoch_of_a_spec_is_retargeted(tmp_path: Path) -> None:
    spec = load_spec(write(tmp_path, SPEC), load_scale(write(tmp_path, SMALL, "small.yaml")))
    cells = expand(spec)
    assert str(spec.value.epoch) == "best_val"
    assert [str(cell.epoch) for cell in cells] == ["best_val", "None"]
    assert cells[0].variants[0].overrides == (
        *("dataset=digits", "method=one_hot", "model=vgg16", "seed=0", "split=clean_meta", "optim.epochs=2", "split.meta_size=1000"),
    )
    paper = load_spec(str(tmp_path / "tried.yaml"))
    assert str(paper.value.epoch) == "epoch 3"
    assert paper.sha256 != spec.sha256
    with pytest.raises(UserError, match="of the scales small and paper"):
        make_plan([spec, paper], tmp_path)


def test_cells_that_a_scale_makes_one_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The scale drops what tells the first two rows and the columns from each other; the last row is read at another epoch."""
    rows = """rows:
  - {label: Early drop, set: {method: one_hot, optim.milestones: [4]}, epoch: last}
  - {label: Late drop, set: {method: one_hot, optim.milestones: [8]}, epoch: last}
"""
    columns = "columns: [{label: Clean, set: {}}, "
    path = write(tmp_path, SPEC.replace("rows:\n", rows).replace("columns: [", columns))
    scale = write(tmp_path, SMALL, "small.yaml")
    spec = load_spec(path, load_scale(scale))
    write_plans(make_plan([spec], tmp_path / "runs"))
    same = [
        "'Early drop, Clean' and 'Early drop, 40%' and 'Late drop, Clean' and 'Late drop, 40%'",
        "'Clean' and '40%' (One-hot; Smoothing)",
    ]
    said = "the same runs, so that nothing is compared between them: "
    assert sweep(["plan", path, "--scale", scale, "--runs", str(tmp_path / "runs")]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if said in line] == [f"tried: {said}{cells}" for cells in same]
    page = make_table(spec, tmp_path / "runs").page.splitlines()
    assert [line for line in page if "same runs" in line] == [
        f"- **The same runs**, so that nothing is compared between them: {cells}." for cells in same
    ]


@pytest.mark.parametrize(
    ("count", "points", "kept"),
    [(5, 2, [0, 4]), (5, 3, [0, 2, 4]), (6, 3, [0, 3, 5]), (4, 3, [0, 2, 3]), (3, 3, [0, 1, 2]), (2, 5, [0, 1]), (4, 1, [0])],
)
def test_a_thinned_grid_keeps_its_ends(count: int, points: int, kept: list[int]) -> None:
    assert list(Scale(title="x", grid_points=points).thinned(range(count))) == kept
    assert list(PAPER.thinned(range(count))) == list(range(count))


def test_the_smoke_scale_runs_everything_on_digits(tmp_path: Path) -> None:
    smoke = load_scale("smoke")
    assert smoke.stamp
    assert (smoke.numbered_epochs, smoke.grid_points) == ("last", 2)
    names = {"resnet18": 8, "vgg16": 12, "wrn_28_10": 16, "alexnet": 4}
    columns = "".join(f"  - {{label: {name}, set: {{model: {name}}}}}\n" for name in names)
    text = f"columns:\n{columns}repeats: "
    text = SPEC.replace(
        'columns: [{label: "40%", set: {noise: uniform, noise.rate: 0.4, augment: crop_flip, augment.padding: 2}}]\nrepeats: ', text
    )
    text = text.replace(" model: vgg16,", "").replace("dataset: cifar100", "dataset: cifar10, meta.interval: 2")
    plan = make_plan([load_spec(write(tmp_path, text), smoke)], tmp_path / "runs")
    assert len(plan.runs) == 2 * 4 * 2
    for run in plan.runs.values():
        config = compose(run.overrides)
        assert (config.dataset.name, config.model.name, config.optim.name, config.optim.epochs) == ("digits", "digits_cnn", "digits_cnn", 2)
        assert (config.split.meta_size, config.meta.interval, run.fields["dataset.num_classes"]) == (100, 1, 8)
    assert {run.fields["model.width"] for run in plan.runs.values()} == set(names.values())
    assert write_plans(plan) == [tmp_path / "runs" / "plans" / "smoke" / "tried.json"]


MISTAKES = {
    "unknown key": (("grid_points: 2", "grid_point: 2"), 9, ["grid_point", "'grid_points'"]),
    "unknown key of a rule": (("{where: {noise: uniform}, drop: [noise]}", "{were: {}, drop: [noise]}"), 7, ["rules[3].were", "'where'"]),
    "empty rule": (("{where: {noise: uniform}, drop: [noise]}", "{where: {noise: uniform}}"), 7, ["needs drop", "or set"]),
    "no name": (("drop: [augment,", "drop: [+augment,"), 4, ["'+augment' is no name of a setting"]),
    "no title": (("title: small\n", ""), 1, ["title is missing"]),
    "title": (("title: small", "title: very/small"), 1, ["title must be a word"]),
    "no stamp": (("stamp: Not the paper's numbers.\n", ""), 1, ["stamp is missing"]),
    "changed paper": (("title: small", "title: paper"), 1, ["changes nothing and has no stamp"]),
    "epoch rule": (("numbered_epochs: best_val", "numbered_epochs: best"), 8, ["numbered_epochs: 'best' does not exist", "best_val"]),
    "points": (("grid_points: 2", "grid_points: 0"), 9, ["must be an integer from 1"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_with_its_file_and_line(tmp_path: Path, name: str) -> None:
    check_mistake(load_scale, tmp_path, SMALL, MISTAKES[name])


def test_a_scale_that_is_not_there() -> None:
    with pytest.raises(SpecError, match=r"'smok': there is no scale of that name\. Did you mean 'smoke'\? Known: paper, small, smoke"):
        load_scale("smok")
    with pytest.raises(SpecError, match=r"nowhere\.yaml: there is no such file"):
        load_scale("nowhere.yaml")


def test_a_scale_gives_tunings_of_a_shared_file_other_grids(tmp_path: Path) -> None:
    grid = "focal: {grid: {method.gamma: [3.0, 4.0]}, otherwise: {method.gamma: 4.0}}"
    scale = load_scale(write(tmp_path, f"title: small\nstamp: Not the paper's.\ntuning: {{paper: {{{grid}}}}}\n"))
    spec = load_spec("table6", scale)
    assert [setting.value for setting in spec.tunings["focal"].axes[0]] == [3.0, 4.0]
    assert spec.tunings["focal"].otherwise[0].value == 4.0
    assert spec.tunings["label_smoothing"] == load_spec("table6").tunings["label_smoothing"]
    assert spec.sha256 != load_spec("table6").sha256


@pytest.mark.parametrize(
    ("grids", "message"),
    [
        ("focul: {grid: {method.gamma: [3.0]}, otherwise: {method.gamma: 4.0}}", r"there is no tuning 'focul'. Did you mean 'focal'"),
        (
            "focal: {grid: {method.beta: [3.0]}, otherwise: {method.beta: 4.0}}",
            r"must have the keys of tuning 'focal' .*, method.gamma; it has method.beta",
        ),
        (
            "focal: {grid: {method.gamma: [3.0]}, otherwise: {method.beta: 4.0}}",
            r"otherwise must have the keys of grid, method.gamma; it has method.beta",
        ),
        ("focal: {grid: {method.gamma: [3.0]}}", r"otherwise is missing"),
    ],
)
def test_grids_that_fit_no_tuning(tmp_path: Path, grids: str, message: str) -> None:
    path = write(tmp_path, f"title: small\nstamp: Not the paper's.\ntuning:\n  paper:\n    {grids}\n")
    with pytest.raises(SpecError, match=rf"tried.yaml:5: .*{message}"):
        load_spec("table6", load_scale(path))


@pytest.mark.parametrize("name", [f"table{number}" for number in range(1, 9)] + ["figure2", "figure3", "figure4", "sanity"])
def test_at_the_scale_small_no_meta_image_chooses_under_noise(name: str) -> None:
    """Validation accuracy chooses; where labels are noisy, on images apart from those that move the labels."""
    spec = load_spec(name, load_scale("small"))
    for cell in expand(spec):
        for run in (item for variant in cell.variants for item in walk(variant)):
            settings = {setting.key: setting.value for setting in run.settings}
            assert settings["dataset.side"] == 16
            assert (settings["split"] == "clean_meta") == (settings.get("split.validation_size") == 1000)
