import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_runs import NOISY, digits, label_run, noisy, one_sided, true_hashes
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure
from run_folders import Suite, change, csv_rows, done_run, ended_run

from analysis.figures.panels import drawn
from repro.errors import UserError
from repro.files import write_json
from sweeps.spec.load import Sample

SPEC = """\
title: Images
kind: figure
rows:
  - {label: Ours, set: {method: instance_labels}}
repeats: {seed: [0, 1, 2]}
x: epoch
panels:
  - PANEL
"""
TOP = "{type: top_classes, label: Other classes, instances: [20, 10]}"
EXAMPLES = "{type: examples, label: Corrected, instances: {count: 3, seed: 0}}"
INDICES = list(range(0, 300, 2))


@pytest.fixture(autouse=True)
def no_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPRO_DATA", str(tmp_path / "data"))


def figure_of(folder: Path, panel: str) -> Suite:
    return Suite(folder, SPEC.replace("PANEL", panel))


def folder_of(suite: Suite, seed: int) -> Path:
    return suite.folder("Ours", "", seed)


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The headings of panels, titles of tiles and what stands in them, in the order in which they are drawn."""
    seen: list[str] = []

    def note(owner: type, name: str, place: int) -> None:
        real = getattr(owner, name)

        def noting(self: Any, *arguments: Any, **options: Any) -> Any:
            seen.append(arguments[place])
            return real(self, *arguments, **options)

        monkeypatch.setattr(owner, name, noting)

    note(Axes, "set_title", 0)
    note(Axes, "text", 2)
    note(SubFigure, "text", 2)
    return seen


def spread_labels(indices: list[int], other: float) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Return labels that are 0.5 on the true class and ``other`` on the one after it; 0.5 - ``other`` is spread by class, falling."""
    true = digits().train.labels[indices]
    labels = np.empty((len(indices), 10))
    for row, target in enumerate(true):
        rest = [(target + step) % 10 for step in range(2, 10)]
        labels[row, target], labels[row, (target + 1) % 10] = 0.5, other
        labels[row, rest] = (0.5 - other) * np.arange(8, 0, -1) / 36
    return labels


def top_run(suite: Suite, seed: int, other: float, indices: list[int] | None = None, **more: int) -> None:
    indices = INDICES if indices is None else indices
    true = digits().train.labels[indices]
    blocks = [one_sided(true, 0.9), spread_labels(indices, other)]
    label_run(folder_of(suite, seed), indices, blocks, seed=seed, hashes=true_hashes(true), **more)


def test_the_most_probable_classes_but_the_annotated_one(tmp_path: Path, words: list[str]) -> None:
    suite = figure_of(tmp_path, TOP)
    for seed, other in enumerate([0.2, 0.3, 0.4]):
        top_run(suite, seed, other)
    files = suite.make()
    rows = [row for row in csv_rows(files) if row["instance"] == "20"]
    target = int(digits().train.labels[20])
    # The annotated class, which stands in the title, and then five others, the most probable first.
    assert [int(row["class"]) for row in rows] == [(target + step) % 10 for step in range(6)]
    assert {(row["annotated"], row["epoch"], row["n"], row["expected"]) for row in rows} == {(str(target), "last", "3", "3")}
    assert float(rows[1]["mean"]) == pytest.approx(0.3, rel=1e-6)
    assert float(rows[1]["sd"]) == pytest.approx(0.1, rel=1e-6)
    assert float(rows[2]["mean"]) == pytest.approx(0.2 * 8 / 36, rel=1e-6)
    titles = [f"annotated: class {digits().train.labels[position]}, 0.500" for position in (20, 10)]
    assert [title for title in words if title.startswith("annotated")] == titles
    assert "Images of Ours: 20, 10, as the figure lists them." in files.page
    drawn_here = json.loads(files.contents["tried.provenance.json"])["drawn"]
    assert drawn_here == [
        {
            "panel": "Other classes",
            "type": "top_classes",
            "column": "",
            "instances": [10, 20],
            "runs": [folder_of(suite, seed).name for seed in range(3)],
        }
    ]


def test_images_are_drawn_among_those_of_every_done_run(tmp_path: Path) -> None:
    suite = figure_of(tmp_path, TOP.replace("[20, 10]", "{count: 4, seed: 3}"))
    top_run(suite, 0, 0.3, list(range(0, 60)))
    top_run(suite, 1, 0.3, list(range(50, 100)))
    # What an unfinished run has recorded so far does not count.
    top_run(suite, 2, 0.3, [55])
    write_json(folder_of(suite, 2) / "status.json", {"state": "failed", "error": "ValueError: no", "ended": None, "attempt": 1})
    files = suite.make()
    expected = list(drawn(range(50, 60), Sample(count=4, seed=3)))
    assert list(dict.fromkeys(int(row["instance"]) for row in csv_rows(files))) == expected
    page = files.page
    assert f"Images of Ours: {', '.join(map(str, expected))}, drawn with seed 3 among the 10 that every done run trained on" in page
    assert "failed: Ours, seed=2" in page


def test_missing_runs_and_images_that_a_run_held_out(tmp_path: Path, words: list[str]) -> None:
    suite = figure_of(tmp_path, TOP.replace("[20, 10]", "[20, 10, 1]"))
    top_run(suite, 0, 0.2, [10, 20])
    top_run(suite, 1, 0.4, [20, 30])
    by_position = {row["instance"]: row for row in csv_rows(suite.make())}
    target = digits().train.labels
    assert {f"annotated: class {target[20]}, 0.500 (2/3)", f"annotated: class {target[10]}, 0.500 (1/3)"} < set(words)
    assert {"no run (0/3)", "no done run trained on it"} < set(words)
    assert (by_position["10"]["n"], by_position["10"]["sd"]) == ("1", "")


@pytest.mark.parametrize("how", ["ended early", "loss", "labels"])
def test_a_diverged_run_leaves_its_images_without_bars(tmp_path: Path, words: list[str], how: str) -> None:
    suite = figure_of(tmp_path, TOP)
    top_run(suite, 0, 0.2)
    true = digits().train.labels[INDICES]
    final = one_sided(true, math.nan if how == "labels" else 0.5)
    planned = 10 if how == "ended early" else None
    label_run(folder_of(suite, 1), INDICES, [final], hashes=true_hashes(true), planned=planned)
    if how == "loss":
        change(folder_of(suite, 1), "final.json", {"train/loss": {"last": "NaN"}})
    assert csv_rows(suite.make()) == []
    assert f"annotated: class {digits().train.labels[20]} div (1/2) (2/3)" in words
    assert words.count("diverged") == 2


def test_without_the_dataset_there_are_placeholders(tmp_path: Path, words: list[str]) -> None:
    suite = figure_of(tmp_path, TOP)
    labels = one_sided(np.array([7, 3]), 0.8)
    cifar = {"dataset.name": "cifar100", "dataset.num_classes": None, "dataset.train_size": None}
    label_run(folder_of(suite, 0), [10, 20], [labels, one_sided(np.array([2, 3]), 0.6)], **cifar)
    files = suite.make()
    assert words.count("image not on\nthis machine") == 2
    # Its label has moved to class 2 since.
    assert [title for title in words if title.startswith("annotated")] == [
        "annotated: class 3, 0.600 (1/3)",
        "annotated: class 7, 0.0444 (1/3)",
    ]
    assert "Image not on this machine: the files of cifar100" in files.page
    assert "Ours: the annotated class is taken to be the most probable one at the first visit." in files.page
    assert json.loads(files.contents["tried.provenance.json"])["datasets_not_on_this_machine"] == ["cifar100"]


def test_runs_of_different_datasets_are_refused(tmp_path: Path) -> None:
    suite = figure_of(tmp_path, TOP)
    top_run(suite, 0, 0.2)
    label_run(folder_of(suite, 1), [10, 20], [one_sided(np.array([1, 0]), 0.8)], **{"dataset.num_classes": 9})
    with pytest.raises(UserError, match="the runs of Ours have different datasets"):
        suite.make()


@pytest.mark.parametrize("panel", [TOP, EXAMPLES])
def test_no_run_done_and_runs_without_labels(tmp_path: Path, panel: str, words: list[str]) -> None:
    suite = figure_of(tmp_path, panel)
    assert "No picture: no run is done." in suite.make().page
    done_run(folder_of(suite, 0))
    assert csv_rows(suite.make()) == []
    assert "No picture: no done run has instance labels." in suite.make().page
    assert words == []


def noisy_run(suite: Suite, seed: int, *, corrected: int, planned: int | None = None) -> list[int]:
    """Make a run whose labels end at the true class for the first ``corrected`` wrongly annotated images; return their positions."""
    true = digits().train.labels[INDICES]
    observed = noisy(INDICES, seed)
    wrong = np.flatnonzero(observed != true)
    final = observed.copy()
    final[wrong[:corrected]] = true[wrong[:corrected]]
    blocks = [one_sided(observed, 0.7), one_sided(observed, 0.6), one_sided(final, 0.8)]
    label_run(folder_of(suite, seed), INDICES, blocks, hashes=true_hashes(observed), planned=planned, **NOISY, seed=seed)
    return [INDICES[row] for row in wrong[:corrected]]


def test_corrected_images_of_the_first_repeat(tmp_path: Path) -> None:
    suite = figure_of(tmp_path, EXAMPLES)
    ended_run(folder_of(suite, 0), "running")
    candidates = noisy_run(suite, 1, corrected=7)
    noisy_run(suite, 2, corrected=5)
    files = suite.make()
    rows = csv_rows(files)
    assert list(dict.fromkeys(int(row["instance"]) for row in rows)) == list(drawn(candidates, Sample(count=3, seed=0)))
    position = int(rows[0]["instance"])
    true, observed = int(digits().train.labels[position]), int(noisy(INDICES, 1)[INDICES.index(position)])
    assert [(int(row["class"]), row["epoch"], round(float(row["mean"]), 6)) for row in rows[:4]] == [
        (observed, "1", 0.7),
        (observed, "3", round(0.2 / 9, 6)),
        (true, "1", round(0.3 / 9, 6)),
        (true, "3", 0.8),
    ]
    assert {(row["annotated"], row["true"]) for row in rows[:4]} == {(str(observed), str(true))}
    assert {(row["repeat"], row["n"], row["sd"]) for row in rows} == {("seed=1", "1", "")}
    wrong = int((noisy(INDICES, 1) != digits().train.labels[INDICES]).sum())
    stated = f"(`{folder_of(suite, 1).name}`): 7 of its {wrong} wrongly annotated images were corrected, out of 150 training images"
    assert f"Corrected: Ours, seed=1 {stated}; 3 of them drawn with seed 0: numpy's PCG64" in files.page
    assert "the label after the update at the image's visit" in files.page


def test_listed_images_that_were_not_corrected_are_named(tmp_path: Path) -> None:
    first = INDICES[np.flatnonzero(noisy(INDICES, 0) != digits().train.labels[INDICES])[0]]
    suite = figure_of(tmp_path, EXAMPLES.replace("{count: 3, seed: 0}", f"[{first}, 1]"))
    assert first in noisy_run(suite, 0, corrected=4)
    files = suite.make()
    assert {int(row["instance"]) for row in csv_rows(files)} == {first}
    assert "shown as the figure lists them, but not 1, no corrected images." in files.page


def test_equally_probable_classes_are_no_correction(tmp_path: Path) -> None:
    suite = figure_of(tmp_path, EXAMPLES)
    observed = noisy(INDICES, 0)
    label_run(folder_of(suite, 0), INDICES, [np.full((len(INDICES), 10), 0.1)], hashes=true_hashes(observed), **NOISY)
    files = suite.make()
    assert ": 0 of its " in files.page
    assert csv_rows(files) == []


def test_a_diverged_first_repeat_is_passed_over_and_marked(tmp_path: Path, words: list[str]) -> None:
    suite = figure_of(tmp_path, EXAMPLES)
    noisy_run(suite, 0, corrected=7, planned=9)
    noisy_run(suite, 1, corrected=6)
    assert "Ours, seed=1" in suite.make().page
    assert words[0] == "Corrected: Ours div (1/2) (2/3)"


def test_labels_that_were_never_noisy_cannot_be_corrected(tmp_path: Path) -> None:
    suite = figure_of(tmp_path, EXAMPLES)
    true = digits().train.labels[INDICES]
    label_run(folder_of(suite, 0), INDICES, [one_sided(true, 0.9)], hashes=true_hashes(true))
    files = suite.make()
    assert "the run has no label noise, so no label is wrong." in files.page
    assert csv_rows(files) == []


def test_true_classes_need_the_dataset(tmp_path: Path) -> None:
    suite = figure_of(tmp_path, EXAMPLES)
    cifar = {"dataset.name": "cifar100", "dataset.num_classes": None, "dataset.train_size": None}
    label_run(folder_of(suite, 0), [10], [one_sided(np.array([7]), 0.8)], **(NOISY | cifar))
    page = suite.make().page
    assert "the dataset is not on this machine, so the true classes are not known." in page
    assert "python -m repro.data download cifar100" in page
