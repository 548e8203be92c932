"""Specs that mean nothing, and YAML that Python's stack, memory or a terminal would not survive: one message, like every other mistake."""

from pathlib import Path

import pytest
from made_specs import check_refused, write

from repro.config.schema import NOT_SCIENTIFIC
from slurm.cluster import load_cluster
from sweeps.plan.plan import Plan, make_plan
from sweeps.spec.load import SpecError, expand, find_spec, load_spec
from sweeps.spec.scale import load_scale
from sweeps.spec.settings import NOT_IN_SPECS

TABLE = """\
title: A table
kind: table
common: {dataset: digits, optim.epochs: 3}
rows:
  - {label: One-hot, set: {method: one_hot}}
  - {label: Instance, set: {method: instance_labels}}
columns:
  - {label: Clean, set: {noise: none}}
  - {label: "40%", set: {noise: uniform, noise.rate: 0.4}}
repeats: {seed: [0, 1]}
value: {metric: test/accuracy, epoch: last}
"""

FIGURE = """\
title: A figure
kind: figure
common: {dataset: digits, noise: uniform, noise.rate: 0.4}
rows:
  - {label: One-hot, set: {method: one_hot}}
  - {label: Two, set: {method: co_teaching}}
  - {label: Instance, set: {method: instance_labels}}
repeats: {seed: [0]}
x: epoch
panels:
  - {metric: test/accuracy, label: Accuracy}
  - {metric: peer_test/accuracy, label: Peer, rows: [Two]}
  - {metric: "class_meta_accuracy/{k}", label: Classes, classes: [3, 7]}
  - {type: examples, label: Examples, rows: Instance}
"""


def planned(folder: Path, text: str, scale: str = "paper") -> Plan:
    return make_plan([load_spec(write(folder, text), load_scale(scale))], folder / "runs")


def test_both_mean_something(tmp_path: Path) -> None:
    assert len(planned(tmp_path, TABLE).runs) == 8
    assert len(planned(tmp_path, FIGURE).runs) == 3


IN_TABLES = {
    "no such metric": ("test/accuracy", "test/acuracy", 11, ["no metric 'test/acuracy'", "Did you mean 'test/accuracy'?", "val/loss"]),
    "metric of W&B": ("test/accuracy", "job/attempt", 11, ["W&B only"]),
    "metric of noise without noise": ("test/accuracy", "noise/label_error", 11, ["row 'One-hot', column 'Clean'", "noise=none"]),
    "metric of a second network": ("test/accuracy", "peer_test/accuracy", 11, ["method=one_hot trains no second network"]),
    "metric of a meta set": ("digits, optim", "digits, split: full, optim", 11, ["meta/loss is never logged: split=full"]),
    "quantile at the end": ("test/accuracy", "label/entropy_q50", 11, ["single epochs", "'epoch N'"]),
    "class beyond the last": ("test/accuracy, epoch: last", "class_meta_accuracy/010, epoch: epoch 1", 11, ["has the classes 0 to 9"]),
    "epoch beyond the last": ("epoch: last", "epoch: epoch 4", 11, ["epoch 4 is beyond the last", "optim.epochs=3", "N from 1 to 3"]),
    "a row's epoch beyond the last": ("one_hot}}", "one_hot}, epoch: epoch 9}", 5, ["epoch 9 is beyond"]),
    "best_val without a validation set": ("one_hot}}", "one_hot, split: full}, epoch: best_val}", 5, ["no best_val epoch: split=full"]),
    "same rows": ("instance_labels", "one_hot", 6, ["the row 'Instance' is the same as 'One-hot' (line 5)"]),
    "same rows by a default": ("method: instance_labels", "method: one_hot, noise.seed: null", 6, ["the same as 'One-hot'"]),
    "same columns": ("{noise: uniform, noise.rate: 0.4}", "{noise: none}", 9, ["the column '40%' is the same as 'Clean' (line 8)"]),
    "number as a choice": ("optim.epochs: 3", "model: 1.5", 3, ["model=1.5: there is no model of that name", "digits_cnn"]),
    "list as a choice": ("optim.epochs: 3", "model: [1.5]", 3, ["model=[1.5]: there is no model of that name"]),
    "exec": ("optim.epochs: 3", "exec.threads: 3", 3, ["'exec.threads' is no part of a run", "--set"]),
    "tracker": ("optim.epochs: 3", "tracker: none", 3, ["'tracker' is no part of a run"]),
    "paths": ("optim.epochs: 3", "paths.runs: /tmp", 3, ["'paths.runs' is no part of a run"]),
    "hydra": ("optim.epochs: 3", "hydra.run.dir: x", 3, ["'hydra.run.dir' is no part of a run"]),
    "exec in repeats": ("seed: [0, 1]", "seed: [0], exec.threads: [1, 2]", 10, ["'exec.threads' is no part of a run"]),
    "interpolation": ("optim.epochs: 3", 'optim.epochs: "${oc.env:EPOCHS}"', 3, ["${oc.env:EPOCHS}", "elsewhere"]),
    "interpolation in repeats": ("seed: [0, 1]", 'seed: [0, "${seed}"]', 10, ["elsewhere"]),
    "one seed in two notations": ("[0, 1]", "[0, 1, 1.0]", 10, ["the value 1.0 is given twice"]),
    "cells left out twice": (
        "value:",
        "cells:\n  - {row: One-hot, skip: a}\n  - {column: Clean, skip: b}\nvalue:",
        13,
        ["cells[1]: row 'One-hot', column 'Clean' is left out already, in line 12"],
    ),
    "settings of cells that are left out": (
        "value:",
        "cells:\n  - {row: One-hot, set: {noise.seed: 1}}\n  - {row: One-hot, skip: b}\nvalue:",
        12,
        ["cells[0] has no effect"],
    ),
    "a label twice": ("value:", "cells:\n  - {row: [One-hot, One-hot], skip: a}\nvalue:", 12, ["'One-hot' is given twice"]),
    "a run that nothing uses": ("common:", "runs: {spare: {set: {method: focal}}}\ncommon:", 3, ["runs.spare", "uses this run"]),
    "a tuning that nothing uses": (
        "common:",
        "tuning: {rate: {grid: {method.learning_rate: [1.0, 2.0]}, otherwise: {method.learning_rate: 1.0}}}\ncommon:",
        3,
        ["tuning.rate", "uses this tuning"],
    ),
    "a tuning twice": (
        "instance_labels}}",
        "instance_labels}, tuned: [rate, rate]}",
        6,
        ["tuned[1]: 'rate' is given twice"],
    ),
    "shared names that nothing uses": ("common:", "shared: paper\ncommon:", 3, ["shared: nothing of it is used"]),
    "a number twice in a grid": (
        "common:",
        "tuning:\n  rate:\n    grid: {method.learning_rate: [1, 2.0, 1.0]}\n    otherwise: {method.learning_rate: 1.0}\ncommon:",
        5,
        ["is given twice, so one run"],
    ),
}


@pytest.mark.parametrize("name", IN_TABLES)
def test_what_means_nothing_in_a_table(tmp_path: Path, name: str) -> None:
    old, new, line, words = IN_TABLES[name]
    assert old in TABLE
    text = TABLE.replace("test/accuracy", "meta/loss") if "meta set" in name else TABLE
    text = text.replace("instance_labels", "focal") if "split: full" in new else text
    check_refused(lambda: planned(tmp_path, text.replace(old, new, 1)), words, f"tried.yaml:{line}: ")
    assert not (tmp_path / "runs").exists()


IN_FIGURES = {
    "no such metric": ("test/accuracy", "test/accurac", 11, ["no metric 'test/accurac'", "Did you mean 'test/accuracy'?"]),
    "no such family": ("class_meta_accuracy", "class_metaaccuracy", 13, ["Did you mean 'class_meta_accuracy/{k}'?"]),
    "nothing in a row": (
        ", rows: [Two]",
        "",
        12,
        ["panel 'Peer' draws nothing in row 'One-hot'", "method=one_hot trains no second network"],
    ),
    "classes beyond the last": ("[3, 7]", "[10, 12]", 13, ["has the classes 0 to 9"]),
    "labels that nobody learns": ("rows: Instance", "rows: [Two]", 14, ["method=co_teaching has no instance labels"]),
    "labels that nobody records": ("method: instance_labels", "method: instance_labels, trajectory.record: false", 14, ["keeps no labels"]),
    "repairs without noise": (", noise: uniform, noise.rate: 0.4", "", 14, ["noise=none leaves no label wrong"]),
    "a row that nothing draws": ("label: Accuracy}", "label: Accuracy, rows: [Two]}", 5, ["'One-hot' is drawn by no panel"]),
}


@pytest.mark.parametrize("name", IN_FIGURES)
def test_what_means_nothing_in_a_figure(tmp_path: Path, name: str) -> None:
    old, new, line, words = IN_FIGURES[name]
    assert old in FIGURE
    text = FIGURE.replace("classes: [3, 7]}", "classes: [3, 7], rows: [Two]}") if "row that" in name else FIGURE
    text = text.replace("[Two]", "[Two, Instance]") if "row that" in name else text
    check_refused(lambda: planned(tmp_path, text.replace(old, new, 1)), words, f"tried.yaml:{line}: ")
    assert not (tmp_path / "runs").exists()


def test_lines_that_differ_in_one_thing_are_two(tmp_path: Path) -> None:
    twin = TABLE.replace("instance_labels}}", "one_hot}, epoch: best_val}")
    assert len(planned(tmp_path, twin).runs) == 4
    # The value that a tuning says until it is done may be the one that another row sets.
    tuning = "tuning: {alpha: {grid: {method.alpha: [0.1, 0.2]}, otherwise: {method.alpha: 0.1}}}\ncommon: {model: digits_cnn, "
    rows = TABLE.replace("one_hot", "label_smoothing, method.alpha: 0.1").replace("instance_labels}}", "label_smoothing}, tuned: alpha}")
    assert len(planned(tmp_path, rows.replace("common: {", tuning)).runs) == 4


def test_a_scale_may_make_lines_the_same(tmp_path: Path) -> None:
    text = TABLE.replace("set: {noise: none}", "set: {model: vgg16}").replace(
        "{noise: uniform, noise.rate: 0.4}", "{model: vgg16, augment: crop_flip}"
    )
    assert len(planned(tmp_path, text, "smoke").runs) == 4


def test_the_same_lines_of_a_recipe(tmp_path: Path) -> None:
    recipe = (
        "title: Recipes\nkind: recipe\ncommon: {dataset: cifar100}\nrows:\n  - {label: Rate, setting: optim.learning_rate}\n"
        "  - {label: Epochs, setting: optim.epochs}\n"
        "columns:\n  - {label: A, set: {model: resnet18}}\n  - {label: B, set: {model: vgg16}}\n"
    )
    assert [cell.value for cell in planned(tmp_path, recipe).cells][:2] != [None, None]
    for old, new, said in (
        ("optim.epochs", "optim.learning_rate", "tried.yaml:6: the row 'Epochs' is the same as 'Rate'"),
        ("vgg16", "resnet18", "tried.yaml:9: the column 'B' is the same as 'A'"),
    ):
        check_refused(lambda old=old, new=new: planned(tmp_path, recipe.replace(old, new)), [said])


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("drop: [augmnt]", ["augmnt", "Did you mean 'augment'?"]),
        ("drop: [optim.epoch]", ["optim.epoch", "Did you mean 'optim.epochs'?"]),
        ("{where: {dataset: cifar1000}, set: {dataset: digits}}", ["dataset=cifar1000", "Allowed: cifar10"]),
        ("{where: {dataset: cifar10}, set: {dataset: digit}}", ["dataset=digit:", "Did you mean 'digits'?"]),
        ("{where: {model.deph: 3}, set: {dataset: digits}}", ["model.deph", "Did you mean 'model.depth'?"]),
    ],
)
def test_a_rule_of_a_scale_that_never_applies(tmp_path: Path, rule: str, words: list[str]) -> None:
    (tmp_path / "own.yaml").write_text(f"title: own\nstamp: Mine.\nrules:\n  - {rule}\n")
    check_refused(lambda: planned(tmp_path, TABLE, str(tmp_path / "own.yaml")), words, "own.yaml:4: ")


def test_what_is_no_part_of_a_run_is_known_here_too() -> None:
    assert (*NOT_SCIENTIFIC, "hydra") == NOT_IN_SPECS


GOOD = """\
title: A table
kind: table
common: {dataset: digits}
rows:
  - {label: One-hot, set: {method: one_hot}}
columns:
  - {label: Clean}
repeats: {seed: [0, 1]}
value: {metric: test/accuracy, epoch: last}
"""


def refused(folder: Path, content: bytes) -> str:
    (folder / "tried.yaml").write_bytes(content)
    with pytest.raises(SpecError) as raised:
        expand(load_spec(str(folder / "tried.yaml")))
    assert len(str(raised.value)) < 600
    return str(raised.value)


BAD = {
    "deep lists": ("caption: " + "[" * 3000, 3, "nested more than 20 deep"),
    "deep mappings": ("caption: " + "{a: " * 3000, 3, "nested more than 20 deep"),
    "deep blocks": ("caption:\n" + "".join(" " * depth + "- \n" for depth in range(1, 3)) + "   - " * 50, 6, "nested more than 20 deep"),
    "unknown tag of a list": ("caption: !!set {a, b}", 3, "tag:yaml.org,2002:set means nothing here"),
    "object": ("caption: !!python/object:os.system {}", 3, "means nothing here"),
    "truth value that is none": ("caption: !!bool maybe", 3, "caption must be a text"),
    "integer of nothing": ("caption: !!int ''", 3, "caption must be a text"),
    "sixties without end": ("common: {seed: " + ":".join(["59"] * 300) + ".5}", 3, "common.seed must be"),
    "digits without end": ("common: {seed: " + "9" * 5000 + "}", 3, "common.seed must be"),
    "NUL": ("caption: a\0b", 3, "the character U+0000 is not allowed"),
    "NUL as an escape": ('caption: "a\\0b"', 3, "without NUL"),
    "half a character": ('caption: "\\ud800"', 3, "half of a character"),
    "no character": ('caption: "\\UFFFFFFFF"', 3, "not YAML"),
    "line break in a label": ('rows: [{label: "a\\rb"}]', 3, "a text of one line"),
    "escape sequence in a label": ('rows: [{label: "\\e[31mred"}]', 3, "a text of one line"),
    "line break in a setting": ('common: {dataset: "a\\nb"}', 3, "a text of one line"),
    "tab": ("caption:\n\t- a", 4, "not YAML"),
    "line break in a key": ('"a\\nb": 1', 3, "must be a word"),
    "long key": ("a" * 900 + ": 1", 3, "there is no such key"),
    "long label": ("rows: [{label: a, use: " + "b" * 10_000 + "}]", 3, "there is no run"),
    "null as key": ("~: 1", 3, "~: there is no such key"),
    "truth value as key": ("yes: 1", 3, "yes: there is no such key"),
    "date as key": ("2020-01-01: 1", 3, "2020-01-01: there is no such key"),
    "list as key": ("? [a]\n: 1", 3, "must be a word"),
    "merged mapping": ("common: {<<: {seed: 1}}", 3, "'<<' is no name of a setting"),
    "recursive list": ("common: {seed: &a [*a]}", 3, "common.seed[0] must be"),
    "published numbers in no file": ('reported: {file: "a\\nb.csv"}', 3, "a text of one line"),
    "shared names in a folder": ("shared: ../x.yaml", 3, "there is no such file"),
    "more runs than anybody trains": (
        "repeats: {seed: &a [0,1,2,3,4,5,6,7,8,9], noise.seed: *a, split.seed: *a, split.fold: *a, meta.interval: *a}",
        3,
        "100000 combinations",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, name: str) -> None:
    line, number, words = BAD[name]
    start, rest = GOOD[: GOOD.index("common:")], GOOD[GOOD.index("common:") :]
    key = line.partition(":")[0]
    rest = "\n".join(text for text in rest.split("\n") if not text.startswith(f"{key}:")) if key in ("common", "repeats") else rest
    if key == "rows":
        rest = rest.replace("rows:\n  - {label: One-hot, set: {method: one_hot}}\n", "")
    message = refused(tmp_path, (start + line + "\n" + rest).encode("utf-8", "surrogatepass"))
    assert f"tried.yaml:{number}: " in message
    assert words in message


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    assert "tried.yaml:3: not YAML in UTF-8: the byte 0xff" in refused(tmp_path, b"title: a\nkind: table\ncaption: \xff\n")
    assert "tried.yaml:1: not YAML" in refused(tmp_path, GOOD.encode("utf-16"))
    assert "tried.yaml:1: the file is empty" in refused(tmp_path, b"")
    assert "tried.yaml:1: the file must be a mapping" in refused(tmp_path, b"- a\n")


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "loop.yaml").symlink_to(tmp_path / "loop.yaml")
    for load in (find_spec, load_spec, load_scale, load_cluster):
        with pytest.raises(SpecError, match=r"folder\.yaml: this is a folder"):
            load(str(tmp_path / "folder.yaml"))
        with pytest.raises(SpecError, match=r"nowhere\.yaml: there is no such file"):
            load(str(tmp_path / "nowhere.yaml"))
        with pytest.raises(SpecError, match="this cannot be a file"):
            load("a" * 5000 + ".yaml")
        with pytest.raises(SpecError, match=r"loop\.yaml: "):
            load(str(tmp_path / "loop.yaml"))
        with pytest.raises(SpecError) as raised:
            load("a" * 5000)
        assert len(str(raised.value)) < 1500


@pytest.mark.parametrize("order", [1, -1])
def test_a_chain_of_a_thousand_inputs(tmp_path: Path, order: int) -> None:
    runs = [f"  r{index}: {{set: {{method: replay}}, inputs: {{labels: r{index + 1}}}}}\n" for index in range(1000)]
    text = "runs:\n" + "".join(runs[::order]) + "  r1000: {set: {method: instance_labels}}\n"
    text = GOOD.replace("common:", text + "common:").replace("set: {method: one_hot}", "use: r0")
    message = refused(tmp_path, text.encode())
    assert "more than 40 deep" in message
    assert "tried.yaml:" in message


def test_runs_that_multiply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeps.spec.expansion.MOST_RUNS", 2_000)
    each = f"each: {{split.seed: {list(range(20))}}}"
    runs = [f"  r{index}: {{set: {{method: replay}}, {each}, inputs: {{labels: r{index + 1}}}}}\n" for index in range(6)]
    text = "runs:\n" + "".join(runs) + "  r6: {set: {method: instance_labels}, each: {noise.seed: [1, 2]}}\n"
    text = GOOD.replace("common:", text + "common:").replace("set: {method: one_hot}", "set: {method: replay}, inputs: {labels: r0}")
    # Each level has a setting of its own, which the levels below take over.
    for name in "abcdef":
        text = text.replace("split.seed", f"noise.{name}", 1)
    assert "tried.yaml:1: more than 2000 runs" in refused(tmp_path, text.encode())
