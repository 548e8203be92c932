from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from label_runs import FIELDS
from run_folders import done_run, plan_by_hand

from analysis.figures import make_figure
from analysis.page import Files
from analysis.panels import drawn
from repro.files import write_json
from repro.manifest import seal
from sweeps.spec import FigureSpec, Sample, load_spec

SPEC = """\
title: Classes
kind: figure
rows:
  - {label: Class labels, set: {method: class_labels}}
repeats: {seed: [0, 1]}
x: epoch
panels:
  - {metric: "class_meta_accuracy/{k}", label: Meta accuracy (%), scale: percent, rows: [Class labels], classes: CHOICE}
  - {metric: "class_target_probability/{k}", label: Target probability, rows: [Class labels], classes: CHOICE}
"""
ONE_HOT = "  - {label: One-hot, set: {method: one_hot}}\n"
SIX = range(6)


class Suite:
    def __init__(self, folder: Path, choice: str = "{count: 3, seed: 1}", text: str = SPEC) -> None:
        path = folder / "classes.yaml"
        path.write_text(text.replace(", classes: CHOICE", "" if choice == "" else f", classes: {choice}"))
        spec = load_spec(str(path))
        assert isinstance(spec, FigureSpec)
        self.spec, self.runs = spec, folder / "runs"
        self.names = plan_by_hand(spec, self.runs)

    def done(self, seed: int, *, row: str = "Class labels", accuracy: range = SIX, probability: range = SIX) -> None:
        curve = {f"class_meta_accuracy/{k:03d}": [0.1 * k, 0.1 * k + 0.02 * seed] for k in accuracy}
        curve |= {f"class_target_probability/{k:03d}": [0.9, 0.9 - 0.01 * k] for k in probability}
        curve |= {"test/accuracy": [0.1, 0.2]}
        folder = self.runs / self.names[row, "", seed]
        done_run(folder, curve=curve)
        write_json(folder / "identity.json", {"schema": 1, "run_id": folder.name, "fields": FIELDS})
        seal(folder)

    def make(self) -> Files:
        return make_figure(self.spec, self.runs)


def lines(files: Files) -> dict[tuple[str, int, int], dict[str, str]]:
    rows = csv.DictReader(files.contents["classes.csv"].decode().splitlines())
    return {(row["metric"].partition("/")[0], int(row["class"]), int(row["epoch"])): row for row in rows}


def shown(files: Files) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for metric, number, epoch in lines(files):
        if epoch == 1:
            found.setdefault(metric, []).append(number)
    return found


def test_the_rule_of_drawing_is_the_stated_one() -> None:
    numbers = np.random.PCG64(7).random_raw(5)
    smallest = sorted(np.array([2, 3, 5, 8, 9])[np.argsort(numbers)[:2]].tolist())
    # Neither order nor repetition of the candidates matters.
    assert list(drawn([9, 8, 2, 3, 5, 5], Sample(2, 7))) == smallest
    assert drawn([4, 1], Sample(3, 0)) == (1, 4)
    assert drawn([], Sample(3, 0)) == ()
    assert len({drawn(range(50), Sample(3, seed)) for seed in range(10)}) == 10


def test_a_line_for_each_drawn_class_of_all_runs(tmp_path: Path) -> None:
    suite = Suite(tmp_path)
    suite.done(0, accuracy=range(1, 6))
    suite.done(1, probability=range(5))
    files = suite.make()
    # Class 0 and class 5 each lack one series of one run; both panels show the same classes.
    expected = list(drawn(range(1, 5), Sample(3, 1)))
    assert shown(files) == {"class_meta_accuracy": expected, "class_target_probability": expected}
    point = lines(files)["class_meta_accuracy", expected[0], 1]
    assert float(point["mean"]) == pytest.approx(0.1 * expected[0] + 0.01)
    assert float(point["sd"]) == pytest.approx(0.02 / 2**0.5)
    assert point["metric"] == f"class_meta_accuracy/{expected[0]:03d}"
    assert point["class_name"] == f"class {expected[0]}"
    assert f"Classes of Meta accuracy (%): {', '.join(f'class {k}' for k in expected)}; 3 drawn with seed 1 among" in files.page
    assert "numpy's PCG64 with the seed" in files.page
    panels = json.loads(files.contents["classes.provenance.json"])["drawn"]
    assert [(panel["panel"], panel["classes"]) for panel in panels] == [
        ("Meta accuracy (%)", expected),
        ("Target probability", expected),
    ]


def test_more_classes_than_there_are(tmp_path: Path) -> None:
    suite = Suite(tmp_path, "{count: 30, seed: 1}")
    suite.done(0)
    assert shown(suite.make())["class_meta_accuracy"] == list(SIX)


def test_listed_classes(tmp_path: Path) -> None:
    suite = Suite(tmp_path, "[5, 2]")
    suite.done(0)
    files = suite.make()
    assert shown(files)["class_meta_accuracy"] == [5, 2]
    assert "class 5, class 2; as the figure lists them." in files.page


def test_a_listed_class_that_is_not_there_has_no_line(tmp_path: Path) -> None:
    suite = Suite(tmp_path, "[5, 200]")
    suite.done(0)
    files = suite.make()
    assert shown(files)["class_meta_accuracy"] == [5]
    assert "class 5, class 200; as the figure lists them." in files.page


def test_without_a_choice_the_first_ten(tmp_path: Path) -> None:
    suite = Suite(tmp_path, "")
    suite.done(0, accuracy=range(12), probability=range(12))
    assert shown(suite.make())["class_meta_accuracy"] == list(range(10))


def test_a_row_without_such_a_series_hides_no_class(tmp_path: Path) -> None:
    suite = Suite(tmp_path, text=SPEC.replace("rows: [Class labels], ", "").replace("repeats:", f"{ONE_HOT}repeats:"))
    suite.done(0)
    suite.done(0, row="One-hot", accuracy=range(0), probability=range(0))
    files = suite.make()
    assert len(shown(files)["class_meta_accuracy"]) == 3
    assert {row["row"] for row in lines(files).values()} == {"Class labels"}


def test_nothing_done_has_no_classes_yet(tmp_path: Path) -> None:
    page = Suite(tmp_path).make().page
    assert "Classes of Meta accuracy (%): none yet;" in page
    assert "Filled: 0 of 2 runs are done" in page
