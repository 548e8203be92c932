"""Tables of settings, the panels of figures, and published numbers, as specs write them."""

from pathlib import Path

import pytest
from made_specs import TWO_STAGES, check_refused, write

from sweeps.spec.load import Sample, SpecError, expand, load_spec

RECIPE = """\
title: Recipes
kind: recipe
common: {dataset: cifar100}
rows:
  - {label: Learning rate, setting: optim.learning_rate}
  - {label: Epochs, setting: optim.epochs}
columns:
  - {label: ResNet18, set: {model: resnet18}}
  - {label: VGG16, set: {model: vgg16}}
cells: [{row: Epochs, column: VGG16, skip: not said}]
"""


def test_a_recipe_has_settings_and_no_runs(tmp_path: Path) -> None:
    spec = load_spec(write(tmp_path, RECIPE))
    cells = expand(spec)
    assert [(cell.row, cell.column, cell.setting, cell.variants, cell.skip) for cell in cells] == [
        ("Learning rate", "ResNet18", "optim.learning_rate", (), None),
        ("Learning rate", "VGG16", "optim.learning_rate", (), None),
        ("Epochs", "ResNet18", "optim.epochs", (), None),
        ("Epochs", "VGG16", "optim.epochs", (), "not said"),
    ]
    assert cells[0].recipe is not None
    assert cells[0].recipe.overrides == ("dataset=cifar100", "method=one_hot", "model=resnet18", "seed=0")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (", setting: optim.epochs", "", ["tried.yaml:6: rows[1].setting is missing"]),
        ("optim.epochs", "+optim.epochs", ["tried.yaml:6: ", "'+optim.epochs' is no name of a setting"]),
        ("columns:", "repeats: {seed: [0]}\ncolumns:", ["tried.yaml:7: repeats: there is no such key"]),
        ("Epochs, setting: optim.epochs", "Epochs, setting: optim.epochs, epoch: last", ["rows[1].epoch: there is no such key"]),
    ],
)
def test_a_mistake_in_a_recipe(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    check_refused(lambda: load_spec(write(tmp_path, RECIPE.replace(old, new))), words)


FIGURE = TWO_STAGES.split("value:")[0].replace("kind: table", "kind: figure").replace(", epoch: best_val", "")
FIGURE += """\
x: epoch
panels:
  - {metric: test/accuracy, label: Accuracy, scale: percent}
  - {metric: "class_meta_accuracy/{k}", label: Classes, rows: [Taught], classes: [3, 17]}
  - {metric: "class_target_probability/{k}", label: Targets, classes: {count: 3, seed: 1}}
  - {type: top_classes, label: Top, instances: [4, 2]}
  - {type: examples, label: Examples, instances: {count: 2, seed: 0}}
"""


def test_panels(tmp_path: Path) -> None:
    spec = load_spec(write(tmp_path, FIGURE))
    curve, family, targets, top, examples = spec.panels
    assert (curve.type, curve.metric, curve.rows, curve.classes) == ("curve", "test/accuracy", ("Final", "Taught"), None)
    assert (family.metric, family.rows, family.classes) == ("class_meta_accuracy/{k}", ("Taught",), (3, 17))
    assert targets.classes == Sample(count=3, seed=1)
    assert (top.type, top.metric, top.instances) == ("top_classes", "", (4, 2))
    assert (examples.type, examples.instances) == ("examples", Sample(count=2, seed=0))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("type: examples", "type: exampels", ["panels[4].type: 'exampels' does not exist", "'examples'"]),
        ("{metric: test/accuracy, label", "{label", ["panels[0].metric is missing"]),
        ("rows: [Taught]", "rows: [Tought]", ["'Tought' does not exist", "'Taught'"]),
        ("{count: 3, seed: 1}", "{count: 0, seed: 1}", ["panels[2].classes.count must be an integer from 1"]),
        ("{count: 3, seed: 1}", "{count: 3}", ["panels[2].classes.seed is missing"]),
        ("[4, 2]", "[4, 4]", ["panels[3].instances[1]: '4' is given twice"]),
        ("[4, 2]", "[-1]", ["panels[3].instances[0] must be an integer from 0"]),
        ("rows: [Taught], classes", "rows: [Taught, Taught], classes", [":30: panels[1].rows[1]: 'Taught' is given twice"]),
        ("label: Accuracy, scale: percent", "label: Accuracy, classes: [1]", [":29: panels[0].classes has no effect"]),
        ("label: Accuracy, scale: percent", "label: Accuracy, instances: [1]", [":29: panels[0].instances has no effect"]),
        ("type: examples, label", "type: examples, metric: test/loss, label", [":33: panels[4].metric has no effect"]),
        ("type: examples, label", "type: examples, classes: [1], label", [":33: panels[4].classes has no effect"]),
        (
            "  - {type: examples",
            "  - {metric: test/accuracy, label: Again, scale: percent}\n  - {type: examples",
            [":33: panels[4] draws the same"],
        ),
        ("inputs: {teacher: big}}", "inputs: {teacher: big}, epoch: last}", ["rows[1].epoch: there is no such key"]),
    ],
)
def test_a_mistake_in_a_panel(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    assert old in FIGURE
    check_refused(lambda: load_spec(write(tmp_path, FIGURE.replace(old, new))), words)


HEADER = "row,column,mean,sd,unit,own_run,source\n"


def reporting(folder: Path, lines: str, text: str = TWO_STAGES) -> str:
    (folder / "numbers").mkdir(exist_ok=True)
    write(folder / "numbers", lines, "published.csv")
    return write(folder, text + "reported: {file: numbers/published.csv}\n")


def test_published_numbers(tmp_path: Path) -> None:
    spec = load_spec(reporting(tmp_path, HEADER + 'Final,Wide,78.8,0.2,%,yes,"Table 1, here"\nTaught,Wide,1e-3,,,no,x\n'))
    assert [(item.row, item.column, item.mean, item.sd, item.unit, item.own_run, item.source) for item in spec.reported] == [
        ("Final", "Wide", 78.8, 0.2, "%", True, "Table 1, here"),
        ("Taught", "Wide", 0.001, None, "", False, "x"),
    ]


def test_published_numbers_of_a_figure_are_those_of_its_panels(tmp_path: Path) -> None:
    spec = load_spec(reporting(tmp_path, HEADER + "Final,Accuracy,33,,%,yes,text\n", FIGURE))
    assert [item.column for item in spec.reported] == ["Accuracy"]
    with pytest.raises(SpecError, match=r"published\.csv:2: the spec has no column 'Wide'\. .*It has: Accuracy"):
        load_spec(reporting(tmp_path, HEADER + "Final,Wide,33,,%,yes,text\n", FIGURE))


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (HEADER + "Finale,Wide,1,,,yes,x\n", ["published.csv:2: the spec has no row 'Finale'. Did you mean 'Final'?"]),
        (HEADER + "Final,Wide,1,,,yes,x\nTaught,Wilde,1,,,yes,x\n", ["published.csv:3: the spec has no column 'Wilde'", "'Wide'"]),
        (HEADER + "Final,Wide,1,,,yes,x\nFinal,Wide,1,,,yes,x\n", ["published.csv:3: row 'Final', column 'Wide' is given twice", "line 2"]),
        (HEADER + "Final,Wide,about 1,,,yes,x\n", ["published.csv:2: mean must be a number, found 'about 1'"]),
        (HEADER + "Final,Wide,1,nan,,yes,x\n", ["published.csv:2: sd must be a number"]),
        (HEADER + "Final,Wide,1,,,perhaps,x\n", ["published.csv:2: own_run must be yes or no"]),
        (HEADER + "Final,Wide,1,,,yes,x,y\n", ["published.csv:2: 8 fields"]),
        ("row,column,mean\nFinal,Wide,1\n", ["published.csv:1: the header must be row,column,mean,sd,unit,own_run,source"]),
        (HEADER, ["published.csv:1: the file has no published number"]),
    ],
)
def test_a_mistake_in_the_published_numbers(tmp_path: Path, lines: str, words: list[str]) -> None:
    check_refused(lambda: load_spec(reporting(tmp_path, lines)), words, "published.csv:")


def test_published_numbers_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"tried\.yaml:28: reported\.file: .*nowhere\.csv cannot be read: No such file"):
        load_spec(write(tmp_path, TWO_STAGES + "reported: {file: nowhere.csv}\n"))
