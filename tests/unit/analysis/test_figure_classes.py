"""Figures with a line for each class."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_runs import FIELDS
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure
from run_folders import Suite, csv_rows, done_run

from analysis.figures.panels import drawn
from analysis.tables.page import Files
from sweeps.spec.load import Sample

CLASSES = """\
title: Classes
kind: figure
rows:
  - {label: Class labels, set: {method: class_labels}}
repeats: {seed: [0, 1]}
x: epoch
panels:
  - {metric: "class_meta_accuracy/{k}", label: Meta accuracy (%), scale: percent, rows: [Class labels], classes: {count: 3, seed: 1}}
  - {metric: "class_target_probability/{k}", label: Target probability, rows: [Class labels], classes: {count: 3, seed: 1}}
"""
ONE_HOT = "  - {label: One-hot, set: {method: one_hot}}\n"
SIX = range(6)


def done_classes(suite: Suite, seed: int, *, row: str = "Class labels", accuracy: range = SIX, probability: range = SIX) -> None:
    curve = {f"class_meta_accuracy/{k:03d}": [0.1 * k, 0.1 * k + 0.02 * seed] for k in accuracy}
    curve |= {f"class_target_probability/{k:03d}": [0.9, 0.9 - 0.01 * k] for k in probability}
    done_run(suite.folder(row, "", seed), curve=curve | {"test/accuracy": [0.1, 0.2]}, fields=FIELDS)


def lines_of(files: Files) -> dict[tuple[str, int, int], dict[str, str]]:
    return {(row["metric"].partition("/")[0], int(row["class"]), int(row["epoch"])): row for row in csv_rows(files)}


def shown(files: Files) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for metric, number, epoch in lines_of(files):
        if epoch == 1:
            found.setdefault(metric, []).append(number)
    return found


def test_the_rule_of_drawing_is_the_stated_one() -> None:
    numbers = np.random.PCG64(7).random_raw(5)
    smallest = sorted(np.array([2, 3, 5, 8, 9])[np.argsort(numbers)[:2]].tolist())
    # Neither order nor repetition of the candidates matters.
    assert list(drawn([9, 8, 2, 3, 5, 5], Sample(count=2, seed=7))) == smallest
    assert drawn([4, 1], Sample(count=3, seed=0)) == (1, 4)
    assert drawn([], Sample(count=3, seed=0)) == ()
    assert len({drawn(range(50), Sample(count=3, seed=seed)) for seed in range(10)}) == 10


def test_a_line_for_each_drawn_class_of_all_runs(tmp_path: Path) -> None:
    suite = Suite(tmp_path, CLASSES)
    done_classes(suite, 0, accuracy=range(1, 6))
    done_classes(suite, 1, probability=range(5))
    files = suite.make()
    # Class 0 and class 5 each lack one series of one run; both panels show the same classes.
    expected = list(drawn(range(1, 5), Sample(count=3, seed=1)))
    assert shown(files) == {"class_meta_accuracy": expected, "class_target_probability": expected}
    point = lines_of(files)["class_meta_accuracy", expected[0], 1]
    assert float(point["mean"]) == pytest.approx(0.1 * expected[0] + 0.01)
    assert float(point["sd"]) == pytest.approx(0.02 / 2**0.5)
    assert point["metric"] == f"class_meta_accuracy/{expected[0]:03d}"
    assert point["class_name"] == f"class {expected[0]}"
    assert f"Classes of Meta accuracy (%): {', '.join(f'class {k}' for k in expected)}; 3 drawn with seed 1 among" in files.page
    assert "numpy's PCG64 with the seed" in files.page
    panels = json.loads(files.contents["tried.provenance.json"])["drawn"]
    assert [(panel["panel"], panel["classes"]) for panel in panels] == [
        ("Meta accuracy (%)", expected),
        ("Target probability", expected),
    ]


@pytest.mark.parametrize(
    ("choice", "count", "expected", "words"),
    [
        (", classes: {count: 30, seed: 1}", 6, list(SIX), "class 4, class 5; 30 drawn with seed 1"),
        (", classes: [5, 2]", 6, [5, 2], "class 5, class 2; as the figure lists them."),
        # A listed class that is not there has no line.
        (", classes: [5, 200]", 6, [5], "class 5, class 200; as the figure lists them."),
        ("", 12, list(range(10)), "class 9; the first 10 that all done runs have."),
    ],
)
def test_which_classes_are_shown(tmp_path: Path, choice: str, count: int, expected: list[int], words: str) -> None:
    suite = Suite(tmp_path, CLASSES.replace(", classes: {count: 3, seed: 1}", choice))
    done_classes(suite, 0, accuracy=range(count), probability=range(count))
    files = suite.make()
    assert shown(files)["class_meta_accuracy"] == expected
    assert words in files.page


def test_a_row_without_such_a_series_hides_no_class(tmp_path: Path) -> None:
    suite = Suite(tmp_path, CLASSES.replace("rows: [Class labels], ", "").replace("repeats:", f"{ONE_HOT}repeats:"))
    done_classes(suite, 0)
    done_classes(suite, 0, row="One-hot", accuracy=range(0), probability=range(0))
    files = suite.make()
    assert len(shown(files)["class_meta_accuracy"]) == 3
    assert {row["row"] for row in lines_of(files).values()} == {"Class labels"}


def test_nothing_done_has_no_classes_yet(tmp_path: Path) -> None:
    page = Suite(tmp_path, CLASSES).make().page
    assert "Classes of Meta accuracy (%): none yet;" in page
    assert "Runs: 0 of 2 are done" in page


def test_panels_of_the_same_classes_have_one_legend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    legends: list[tuple[str, list[str], int]] = []

    def note(owner: type) -> None:
        def noting(self: Any, *, handles: Any, title: str = "", ncols: int = 1, **options: Any) -> None:
            legends.append((title, [handle.get_label() for handle in handles], ncols))

        monkeypatch.setattr(owner, "legend", noting)

    note(Axes)
    note(SubFigure)
    for other in ("{count: 3, seed: 1}", "[0, 1]"):
        suite = Suite(tmp_path / str(len(other)), CLASSES[::-1].replace("{count: 3, seed: 1}"[::-1], other[::-1], 1)[::-1])
        done_classes(suite, 0)
        done_classes(suite, 1)
        suite.make()
    (title, names, columns), *apart = legends
    assert (title, len(names), columns) == ("Class labels", 3, 3)
    assert [names for _, names, _ in apart] == [names, ["class 0", "class 1"]]
