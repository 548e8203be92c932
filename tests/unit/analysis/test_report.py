"""The report: nothing in it is markup of a run or asks for anything, and its browser shows the labels that its rule says."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from label_runs import label_run
from run_folders import Suite, done_run, ended_run

from analysis.reading.images import png
from analysis.report.labels import EPOCHS, select
from analysis.report.page import make_report, render_markdown
from repro.data.types import ImageSet, RawDataset
from repro.errors import UserError
from repro.labels.trajectory import open_trajectory

SPEC = """\
title: A table <i>of</i> labels
kind: table
caption: What <script>alert(1)</script> shows.
rows:
  - {label: "Class <b>", set: {method: class_labels}}
  - {label: Instance, set: {method: instance_labels}}
columns:
  - {label: Clean, set: {noise: none}}
  - {label: Noisy, set: {noise: uniform}}
repeats: {seed: [0, 1]}
cells:
  - {row: Instance, column: Noisy, skip: no sense in it}
value: {metric: test/accuracy, epoch: last, scale: percent, better: higher}
"""
IMAGES, CLASSES = 40, 8
INDICES = list(range(0, 3 * IMAGES, 3))

Floats = npt.NDArray[np.float32]


def instance_labels(epochs: int = 5) -> Floats:
    """Labels (epochs, N, K): image i starts at class i % K, and images 3, 4 and 5 end elsewhere, 4 the furthest."""
    labels = np.full((epochs, IMAGES, CLASSES), 0.1 / (CLASSES - 1), np.float32)
    labels[:, np.arange(IMAGES), np.arange(IMAGES) % CLASSES] = 0.9
    for image, share in ((3, 0.6), (4, 0.95), (5, 0.7)):
        for epoch in range(epochs):
            moved = share * epoch / (epochs - 1)
            labels[epoch, image] = (1 - moved) * labels[0, image]
            labels[epoch, image, (image + 1) % CLASSES] += moved
    return labels


def class_labels() -> Floats:
    """Class parameters (epochs, steps, K)."""
    return np.linspace(0.1, 0.4, 5 * 3 * CLASSES, dtype=np.float32).reshape(5, 3, CLASSES)


DEVIATIONS = "# What we do\n\nText.\n\n## A. Model\n\n| id | why |\n|---|---|\n| A1 | <u>so</u> |\n"
IMAGE_SET = ImageSet(np.random.RandomState(0).randint(0, 256, (3 * IMAGES, 1, 4, 4)).astype(np.uint8), np.arange(3 * IMAGES) // 3 % CLASSES)
RAW = RawDataset(IMAGE_SET, IMAGE_SET, tuple(f"kind {number}" for number in range(CLASSES)), (0.5,), (0.5,))


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Suite:
    """Of six runs four are done, one failed, one is missing."""
    monkeypatch.setattr("analysis.report.labels.dataset_of", lambda record: RAW)
    suite = Suite(tmp_path / "made", SPEC)
    label_run(suite.folder("Class <b>", "Clean", 0), INDICES, list(class_labels()), kind="class")
    label_run(suite.folder("Instance", "Clean", 0), INDICES, list(instance_labels()))
    for row in ("Class <b>", "Instance"):
        done_run(suite.folder(row, "Clean", 1))
    ended_run(suite.folder("Class <b>", "Noisy", 1), "failed", "Boom </script><img src=x onerror=alert(1)>")
    return suite


def report(suite: Suite, *, pages: int = 1) -> str:
    return make_report([suite.make()] * pages, deviations=DEVIATIONS, command="make <it>", runs_link="../some runs").decode()


def data_of(page: str) -> dict[str, Any]:
    (text,) = re.findall(r'<script type="application/json" id="data"[^>]*>(.*?)</script>', page, re.DOTALL)
    data = json.loads(text)
    return data


def test_nothing_becomes_markup_and_nothing_is_asked_for(suite: Suite) -> None:
    page = report(suite)
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    elements = re.findall(r"<(\w+)((?:[^>\"]|\"[^\"]*\")*)>", page.replace(script, ""))
    tags = [tag for tag, _ in elements]
    assert (tags.count("script"), tags.count("h1"), tags.count("main")) == (2, 1, 1)
    assert not {"b", "i", "u", "link", "iframe", "object", "embed", "base", "form"} & set(tags)
    assert not [attributes for _, attributes in elements if re.search(r'\bon\w+=|src="(?!data:)', attributes)]
    for text in ("What &lt;script&gt;alert(1)&lt;/script&gt; shows.", "make &lt;it&gt;", "Boom &lt;/script&gt;", "Class \\u003cb\\u003e"):
        assert text in page
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert "content=\"default-src 'none'; img-src data:;" in page


def test_the_same_bytes_wherever_the_runs_lie_and_a_shared_run_counted_once(suite: Suite, tmp_path: Path) -> None:
    page = report(suite, pages=2)
    assert "each run once: 4 of 6 runs done, 1 failed, 1 missing." in page
    link = '<a href="../some runs/Instance-Clean-1/"><code>Instance-Clean-1</code></a>, done'
    assert f"seed=1 {link}" in page
    suite.runs = suite.runs.rename(tmp_path / "other")
    assert report(suite, pages=2) == page
    assert str(tmp_path) not in page


def test_a_report_of_nothing_is_refused_and_another_scale_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least one spec"):
        make_report([], deviations="", command="", runs_link="")
    page = report(Suite(tmp_path, SPEC, "smoke"))
    assert "Smoke scale" in page[page.index('class="disclaimer"') : page.index("<nav")]
    assert "no run started yet (1)</summary><ul><li>tried: A table &lt;i&gt;of&lt;/i&gt; labels</li>" in page
    assert "No finished run of these tables and figures has recorded labels." in page


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("# Title\n\n## Part\n\n### Detail", "<h3>Part</h3>\n<h4>Detail</h4>\n"),
        ("![a <b](f.png)", '<p><img src="data:image/png;base64,UE5H" alt="a &lt;b" /></p>\n'),
        ("[w](https://example.org/?a&b)", '<p><a href="https://example.org/?a&amp;b">w</a></p>\n'),
        ("[f](docs/x.md) <b>, [j](javascript:alert)", "<p>f &lt;b&gt;, j</p>\n"),
    ],
)
def test_markdown(text: str, made: str) -> None:
    assert render_markdown(f"{text}\n\n---\n\nNotes", {"f.png": b"PNG"}) == (made, "<p>Notes</p>\n")


def test_labels_come_with_pictures_names_and_annotations(suite: Suite) -> None:
    data = data_of(report(suite))
    classes, instances = data["runs"]
    assert [run["places"] for run in data["runs"]] == [
        [{"page": "tried", "title": f"{row}, Clean, seed=0"}] for row in ("Class <b>", "Instance")
    ]
    assert instances["names"] == list(RAW.class_names)
    item = instances["items"][0]
    assert (item["position"], item["begins"], item["true"], item["ends"]) == (12, 4, 4, 5)
    assert item["image"] == png(RAW, 12)
    assert [one["example"] for one in classes["items"]] == [3 * number for number in range(CLASSES)]


def test_without_the_dataset_or_with_corrupted_labels_the_rest_is_shown(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(record: object) -> RawDataset:
        raise UserError("no dataset")

    monkeypatch.setattr("analysis.report.labels.dataset_of", refuse)
    (suite.folder("Class <b>", "Clean", 0) / "labels" / "instances.f32").write_bytes(b"other")
    data = data_of(report(suite))
    assert [run["id"] for run in data["runs"]] == ["Instance-Clean-0"]
    assert "instances.f32 is not what the run wrote" in data["problems"][0]
    assert data["problems"][1:] == ["no dataset"]
    assert "true" not in data["runs"][0]["items"][0]


def selected(folder: Path, labels: Any, **more: Any) -> dict[str, Any]:
    label_run(folder / "run", INDICES, list(labels), **more)
    return select(open_trajectory(folder / "run" / "labels"))


def test_instances_are_chosen_by_the_stated_rule(tmp_path: Path) -> None:
    chosen = selected(tmp_path, instance_labels())
    rows = [item["position"] // 3 for item in chosen["items"]]
    # 4 moved furthest; the others did not move, so their order is that of the rows; then come as many that are drawn.
    assert rows[:5] == [4, 5, 3, 0, 1]
    assert rows[20:] == np.random.RandomState(0).permutation(np.arange(20, 40)).tolist()
    item = chosen["items"][0]
    assert (item["begins"], item["ends"], item["classes"][:2], len(item["classes"])) == (4, 5, [5, 4], 6)
    np.testing.assert_allclose(item["values"], instance_labels()[:, 4][:, item["classes"]], atol=1e-4)


def test_of_many_epochs_evenly_spaced_ones_with_gaps_where_a_run_diverged(tmp_path: Path) -> None:
    values = instance_labels(epochs=2 * EPOCHS - 1)
    values[-1, :2] = np.nan
    chosen = selected(tmp_path, values, planned=300)
    assert (chosen["epochs"], chosen["planned"]) == (list(range(1, 2 * EPOCHS, 2)), 300)
    # It did not move, so far as one can tell.
    assert [item["position"] // 3 for item in chosen["items"][:4]] == [4, 5, 3, 0]
    assert chosen["items"][3]["values"][-1] == [None] * 6
