"""Figures of curves: what is plotted, what the picture and the page say of it."""

import math
from pathlib import Path

import numpy as np
import pytest
from label_runs import FIELDS
from matplotlib.figure import Figure
from run_folders import Suite, csv_rows, done_run, ended_run

from analysis.tables.page import Files

SPEC = """\
title: Curves
kind: figure
caption: What they show.
rows:
  - {label: One-hot, set: {method: one_hot}}
  - {label: Instance, set: {method: instance_labels}}
columns:
  - {label: "40%", set: {noise: uniform}}
repeats: {seed: [0, 1, 2]}
panels:
  - {metric: noise/label_error, label: Label error (%), scale: percent}
  - {metric: test/accuracy, label: Test accuracy (%), scale: percent}
"""
ERROR = [0.4, 0.3, 0.2]
#: By the stated rule: of twelve candidates those with the three smallest numbers.
DRAWN = sorted(np.argsort(np.random.PCG64(1).random_raw(12))[:3].tolist())


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return Suite(tmp_path, SPEC)


def fill(suite: Suite, *but: tuple[str, int]) -> None:
    """Finish all runs but those."""
    for row, _, seed in suite.names:
        if (row, seed) not in but:
            error = [value + 0.01 * seed for value in ERROR]
            done_run(suite.folder(row, "40%", seed), curve={"noise/label_error": error, "test/accuracy": [1 - value for value in error]})


def plotted(files: Files) -> dict[tuple[str, str, int], dict[str, str]]:
    return {(row["row"], row["metric"], int(row["epoch"])): row for row in csv_rows(files)}


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are drawn, in place of their files."""
    figures: list[Figure] = []
    monkeypatch.setattr("analysis.figures.draw._save", lambda figure, kind: figures.append(figure) or b"")
    return figures


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_full_figure(suite: Suite, pictures: list[Figure]) -> None:
    fill(suite)
    files = suite.make()
    assert len(files.contents) == 6
    points = plotted(files)
    assert len(points) == 2 * 2 * 3
    point = points["Instance", "noise/label_error", 2]
    assert [float(point[key]) for key in ("mean", "sd")] == pytest.approx([0.21, 0.01], rel=1e-12)
    assert (point["n"], point["expected"], point["diverged"]) == ("3", "3", "0")
    axes = pictures[0].axes
    assert [(one.get_title(), one.get_ylabel()) for one in axes] == [("40%", "Label error (%)"), ("40%", "Test accuracy (%)")]
    assert len({line.get_color() for line in axes[0].lines}) == len(axes[0].collections) == 2
    assert [*axes[0].lines[1].get_xdata(), *axes[0].lines[1].get_ydata()] == pytest.approx([0, 1, 2, 41.0, 31.0, 21.0])
    assert legend(pictures[0]) == ["One-hot", "Instance"]
    assert "![Curves](tried.png)" in files.page


def test_missing_failed_and_diverged_runs_are_said_in_the_legend(suite: Suite, pictures: list[Figure]) -> None:
    fill(suite, ("Instance", 0), ("Instance", 1), ("One-hot", 2))
    ended_run(suite.folder("Instance", "40%", 1), "failed", "ValueError: no")
    curve = {"noise/label_error": [0.4, math.nan], "test/accuracy": [0.6, 0.7, 0.8]}
    done_run(suite.folder("One-hot", "40%", 2), curve=curve)
    points = plotted(suite.make())
    assert legend(pictures[0]) == ["One-hot div (1/3)", "Instance (1/3)", "One-hot"]
    assert (points["Instance", "test/accuracy", 2]["n"], points["Instance", "test/accuracy", 2]["sd"]) == ("1", "")
    # Where another run has no value there is a gap, no mean of the others.
    assert [points["One-hot", "noise/label_error", epoch]["mean"].lower() for epoch in (1, 2)] == ["nan", "nan"]


def test_nothing_done_still_makes_a_page_and_a_panel_without_a_line_is_named(suite: Suite, pictures: list[Figure]) -> None:
    files = suite.make()
    assert "No picture." in files.page
    assert (sorted(files.contents), csv_rows(files)) == (["tried.csv", "tried.md", "tried.provenance.json"], [])
    done_run(suite.folder("Instance", "40%", 0), curve={"test/accuracy": [0.1, 0.2]})
    assert "Not drawn: Label error (%)" in suite.make().page
    assert [axes.get_ylabel() for axes in pictures[0].axes] == ["Test accuracy (%)"]


def test_rows_of_a_panel_and_its_band(tmp_path: Path, pictures: list[Figure]) -> None:
    suite = Suite(tmp_path, SPEC.replace("Test accuracy (%), scale: percent}", "Test accuracy, rows: Instance}"))
    for row, _, seed in suite.names:
        done_run(suite.folder(row, "40%", seed), curve={"noise/label_error": [0.0, 0.9 * (seed == 1)], "test/accuracy": [0.5, 1.0]})
    suite.make()
    error, accuracy = pictures[0].axes
    assert [line.get_ydata().tolist() for line in accuracy.lines] == [[0.5, 1.0]]
    heights = error.collections[0].get_paths()[0].vertices[:, 1]
    assert heights.max() == pytest.approx(30.0 + 90.0 / 3**0.5)


def test_another_scale_says_so_in_the_picture(tmp_path: Path, pictures: list[Figure]) -> None:
    suite = Suite(tmp_path, SPEC, "smoke")
    fill(suite)
    suite.make()
    assert "Smoke scale" in pictures[0].texts[0].get_text()


@pytest.mark.parametrize(
    ("choice", "expected"),
    [("{count: 3, seed: 1}", DRAWN), ("[5, 2, 200]", [5, 2]), ("null", list(range(10)))],
)
def test_a_line_for_each_chosen_class(tmp_path: Path, pictures: list[Figure], choice: str, expected: list[int]) -> None:
    panel = '{metric: "class_meta_accuracy/{k}", label: Accuracy, rows: Instance, classes: CHOICE}'.replace("CHOICE", choice)
    suite = Suite(tmp_path, SPEC[: SPEC.index("panels:")] + f"panels: [{panel}]\n")
    for seed in (0, 1):
        curve = {f"class_meta_accuracy/{k:03d}": [0.05 * k, 0.05 * k + 0.02 * seed] for k in range(12)}
        done_run(suite.folder("Instance", "40%", seed), curve=curve, fields=FIELDS)
    rows = [row for row in csv_rows(suite.make()) if row["epoch"] == "1"]
    assert [(int(row["class"]), row["class_name"], row["metric"]) for row in rows] == [
        (k, f"class {k}", f"class_meta_accuracy/{k:03d}") for k in expected
    ]
    assert float(rows[0]["mean"]) == pytest.approx(0.05 * expected[0] + 0.01)
    assert legend(pictures[0]) == [f"Instance: class {k} (2/3)" for k in expected]
