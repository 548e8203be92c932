"""Figures of single labels: which images and classes are drawn, from run folders and from evidence."""

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from label_runs import NOISY, digits, label_run, noisy, one_sided, true_hashes
from matplotlib.figure import Figure
from run_folders import Suite, csv_rows, done_run, ended_run

from analysis.build import make_files
from analysis.figures.curves import chosen
from analysis.reading.evidence import open_evidence, open_source
from analysis.reading.keep import add
from sweeps.spec import Sample

SPEC = """\
title: Images
kind: figure
rows:
  - {label: Ours, set: {method: instance_labels}}
repeats: {seed: [0, 1, 2]}
panels:
  - PANEL
"""
TOP = "{type: top_classes, label: Other classes, instances: [20, 10]}"
EXAMPLES = "{type: examples, label: Corrected, instances: {count: 3, seed: 0}}"
INDICES = list(range(0, 300, 2))
TRUE = digits().train.labels


@pytest.fixture(autouse=True)
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are drawn, in place of their files."""
    monkeypatch.setenv("REPRO_DATA", str(tmp_path / "data"))
    figures: list[Figure] = []
    monkeypatch.setattr("analysis.figures.draw._save", lambda figure, kind: figures.append(figure) or b"")
    return figures


def figure_of(folder: Path, panel: str) -> Suite:
    return Suite(folder, SPEC.replace("PANEL", panel))


def spread_labels(indices: list[int], other: float) -> npt.NDArray[np.float64]:
    """Return labels that are 0.5 on the true class and ``other`` on the one after it; 0.5 - ``other`` is spread by class, falling."""
    labels = np.empty((len(indices), 10))
    for row, target in enumerate(TRUE[indices]):
        rest = [(target + step) % 10 for step in range(2, 10)]
        labels[row, target], labels[row, (target + 1) % 10] = 0.5, other
        labels[row, rest] = (0.5 - other) * np.arange(8, 0, -1) / 36
    return labels


def top_run(suite: Suite, seed: int, other: float, indices: list[int] | None = None) -> None:
    indices = indices or INDICES
    blocks = [one_sided(TRUE[indices], 0.9), spread_labels(indices, other)]
    label_run(suite.folder("Ours", "", seed), indices, blocks, seed=seed, hashes=true_hashes(TRUE[indices]))


def test_the_most_probable_classes_but_the_annotated_one(tmp_path: Path, pictures: list[Figure]) -> None:
    suite = figure_of(tmp_path, TOP)
    for seed, other in enumerate([0.2, 0.3, 0.4]):
        top_run(suite, seed, other)
    rows = [row for row in csv_rows(suite.make()) if row["instance"] == "20"]
    target = int(TRUE[20])
    # The annotated class, which stands in the title, and then five others, the most probable first.
    assert [int(row["class"]) for row in rows] == [(target + step) % 10 for step in range(6)]
    assert {(row["annotated"], row["epoch"], row["n"], row["expected"]) for row in rows} == {(str(target), "last", "3", "3")}
    assert [float(rows[1][key]) for key in ("mean", "sd")] == pytest.approx([0.3, 0.1], rel=1e-6)
    assert float(rows[2]["mean"]) == pytest.approx(0.2 * 8 / 36, rel=1e-6)
    charts = pictures[0].axes[1::2]
    assert [chart.get_title("right") for chart in charts] == [f"annotated: class {TRUE[position]}, 0.500" for position in (20, 10)]
    assert charts[0].patches[0].get_width() == pytest.approx(0.3, rel=1e-6)
    assert np.array_equal(pictures[0].axes[0].images[0].get_array(), digits().train.images[20, 0])


def test_images_are_drawn_among_those_of_every_done_run(tmp_path: Path, pictures: list[Figure]) -> None:
    suite = figure_of(tmp_path, TOP.replace("[20, 10]", "{count: 4, seed: 3}"))
    top_run(suite, 0, 0.3, list(range(0, 60)))
    top_run(suite, 1, 0.3, list(range(50, 100)))
    ended_run(suite.folder("Ours", "", 2), "failed", "ValueError: no")
    files = suite.make()
    assert list(dict.fromkeys(int(row["instance"]) for row in csv_rows(files))) == chosen(Sample(count=4, seed=3), range(50, 60))
    assert pictures[0].subfigs[0].get_suptitle() == "Other classes: Ours (2/3)"
    assert "10 images that every run trained on" in files.page


@pytest.mark.parametrize("how", ["ended early", "labels"])
def test_a_diverged_run_has_no_labels_to_show(tmp_path: Path, how: str) -> None:
    suite = figure_of(tmp_path, TOP)
    top_run(suite, 0, 0.2)
    true, folder = TRUE[INDICES], suite.folder("Ours", "", 1)
    final = one_sided(true, math.nan if how == "labels" else 0.5)
    label_run(folder, INDICES, [final], hashes=true_hashes(true), planned=10 if how == "ended early" else None)
    assert "Not drawn: Other classes: a run diverged." in suite.make().page


def test_why_there_is_no_picture(tmp_path: Path) -> None:
    suite = figure_of(tmp_path, TOP)
    done_run(suite.folder("Ours", "", 0))
    assert "no done run of Ours has instance labels." in suite.make().page
    cifar = {"dataset.name": "cifar100", "dataset.num_classes": None, "dataset.train_size": None}
    label_run(suite.folder("Ours", "", 1), [10], [one_sided(np.array([7]), 0.8)], **cifar)
    assert "download cifar100" in suite.make().page


def noisy_run(suite: Suite, seed: int, *, corrected: int) -> list[int]:
    """Make a run whose labels end at the true class for the first ``corrected`` wrongly annotated images; return their positions."""
    observed, true = noisy(INDICES, seed), TRUE[INDICES]
    wrong = np.flatnonzero(observed != true)
    final = observed.copy()
    final[wrong[:corrected]] = true[wrong[:corrected]]
    blocks = [one_sided(observed, 0.7), one_sided(observed, 0.6), one_sided(final, 0.8)]
    label_run(suite.folder("Ours", "", seed), INDICES, blocks, hashes=true_hashes(observed), **NOISY, seed=seed)
    return [INDICES[row] for row in wrong[:corrected]]


def test_corrected_images_of_the_first_done_run(tmp_path: Path, pictures: list[Figure]) -> None:
    suite = figure_of(tmp_path, EXAMPLES)
    ended_run(suite.folder("Ours", "", 0), "running")
    candidates = noisy_run(suite, 1, corrected=7)
    noisy_run(suite, 2, corrected=5)
    files = suite.make()
    rows = csv_rows(files)
    assert list(dict.fromkeys(int(row["instance"]) for row in rows)) == chosen(Sample(count=3, seed=0), candidates)
    position = int(rows[0]["instance"])
    true, observed = int(TRUE[position]), int(noisy(INDICES, 1)[INDICES.index(position)])
    assert [(int(row["class"]), row["epoch"], round(float(row["mean"]), 6)) for row in rows[:4]] == [
        (observed, "1", 0.7),
        (observed, "3", round(0.2 / 9, 6)),
        (true, "1", round(0.3 / 9, 6)),
        (true, "3", 0.8),
    ]
    assert (rows[0]["annotated"], rows[0]["true"], rows[0]["repeat"], rows[0]["n"]) == (str(observed), str(true), "seed=1", "1")
    assert f"Corrected: Ours (2/3): seed=1 (`Ours--1`): 7 of {(noisy(INDICES, 1) != TRUE[INDICES]).sum()} wrong labels" in files.page
    assert [round(bar.get_width(), 3) for bar in pictures[0].axes[1].patches] == [0.7, 0.033, 0.022, 0.8]


def test_evidence_makes_the_same_figure_without_labels_and_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = figure_of(tmp_path, EXAMPLES)
    noisy_run(suite, 0, corrected=5)
    for _ in range(2):
        # What is there already stays.
        add([suite.spec], suite.scale, open_source(suite.runs, suite.scale), tmp_path / "evidence")
    expected = suite.make().contents["tried.csv"]
    monkeypatch.setattr("analysis.figures.labels.dataset_of", None)
    files = make_files(suite.spec, suite.scale, open_evidence(tmp_path / "evidence"))
    assert files.contents["tried.csv"] == expected
    assert len(csv_rows(files)) == 3 * 4
