import base64
import hashlib
import html.parser
import io
import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_runs import label_run
from moving_labels import CLASSES, IMAGES, INDICES, class_labels, instance_labels
from PIL import Image
from run_folders import Suite, change, done_run, ended_run, plan_by_hand

from analysis.__main__ import main
from analysis.reading.images import TrainingSet
from analysis.reading.learned import png
from analysis.report.labels import TrainingSetOf
from analysis.report.markdown import render_markdown
from analysis.report.page import make_report
from analysis.tables.page import Files
from repro.errors import UserError
from sweeps.spec.load import load_scale, load_spec

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
DEVIATIONS = "# What we do\n\nText.\n\n## A. Model\n\n| id | why |\n|---|---|\n| A1 | <u>so</u> |\n"


def training_set(run: object) -> TrainingSet:
    images = np.random.RandomState(0).randint(0, 256, (3 * IMAGES, 1, 4, 4)).astype(np.uint8)
    return TrainingSet("digits", images, np.arange(3 * IMAGES) // 3 % CLASSES, tuple(f"kind_{number}" for number in range(CLASSES)), "x")


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    """Of six runs three are done, one failed, one is missing."""
    suite = Suite(tmp_path / "made", SPEC)
    label_run(suite.folder("Class <b>", "Clean", 0), INDICES, list(class_labels()), kind="class")
    label_run(suite.folder("Instance", "Clean", 0), INDICES, list(instance_labels()))
    for row in ("Class <b>", "Instance"):
        done_run(suite.folder(row, "Clean", 1))
    ended_run(suite.folder("Class <b>", "Noisy", 1), "failed", "Boom </script><img src=x onerror=alert(1)>")
    return suite


def report(suite: Suite, known: TrainingSetOf = training_set, *, pages: int = 1, deviations: str = DEVIATIONS) -> str:
    files = [suite.make()] * pages
    return make_report(
        files, suite.runs, deviations=deviations, command="make <it>", training_set_of=known, runs_link="../some runs"
    ).decode()


def data_of(page: str) -> dict[str, Any]:
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    data = json.loads(found)
    return data


def titles(page: str) -> list[list[str]]:
    """Return of each run that the browser shows what it is called in every place."""
    return [[place["title"] for place in run["places"]] for run in data_of(page)["runs"]]


class Elements(html.parser.HTMLParser):
    """Every element of a page with its attributes, and what is open where the page ends."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_nothing_from_runs_and_specs_becomes_markup(suite: Suite) -> None:
    page = report(suite)
    elements = Elements(page)
    assert elements.open == []
    assert [tag for tag, _ in elements.found].count("script") == 2
    assert not {"b", "i", "u"} & {tag for tag, _ in elements.found}
    assert not [attributes for _, attributes in elements.found if any(name.startswith("on") for name in attributes)]
    assert "What &lt;script&gt;alert(1)&lt;/script&gt; shows." in page
    assert "make &lt;it&gt;" in page
    assert "Boom &lt;/script&gt;" in page
    # The data hold the label of a row, which looks like an element, yet no sign in them could end their own.
    assert not set("<>&") & set(page[page.index('id="data">') + len('id="data">') :].partition("</script>")[0])
    assert titles(page) == [["Class <b>, Clean, seed=0"], ["Instance, Clean, seed=0"]]


def test_the_page_asks_for_nothing_and_runs_only_its_own_script(suite: Suite) -> None:
    page = report(suite)
    for tag, attributes in Elements(page).found:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        assert str(attributes.get("src", "data:")).startswith("data:")
        assert tag == "a" or "href" not in attributes
    assert "url(" not in page
    assert "@import" not in page
    policy = next(str(attributes["content"]) for _, attributes in Elements(page).found if "http-equiv" in attributes)
    script = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert f"script-src 'sha256-{digest}';" in policy


def test_the_same_runs_give_the_same_bytes_wherever_they_lie(suite: Suite, tmp_path: Path) -> None:
    first = report(suite)
    suite.runs = suite.runs.rename(tmp_path / "other")
    assert report(suite) == first
    assert str(tmp_path) not in first


def test_overview_counts_runs_hours_and_gaps_and_a_shared_run_once(suite: Suite) -> None:
    page = report(suite, pages=2)
    overview = re.sub(r"<[^>]*>", " ", page[page.index('class="overview"') : page.index('id="deviations"')])
    counts = ["4/6", "1", "failed,", "1", "missing", "0.04", "0.00", "1"]
    assert overview.split("labels")[1].split()[:9] == ["table", *counts]
    assert overview.split("each run once")[1].split()[:7] == counts[:7]
    ids = [attributes["id"] for _, attributes in Elements(page).found if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_every_cell_names_its_runs_with_link_state_and_code(suite: Suite) -> None:
    page = report(suite)
    runs = page[page.index('<details class="runs">') :]
    link = '<a href="../some runs/Instance-Clean-1/"><code>Instance-Clean-1</code></a>'
    assert f"seed=1: {link}, done, commit 0123456789ab" in runs
    assert "%3Cb%3E" in runs


def test_structure_for_those_who_hear_the_page(suite: Suite) -> None:
    elements = Elements(report(suite)).found
    tags = [tag for tag, _ in elements]
    assert tags.count("h1") == tags.count("main") == tags.count("nav") == tags.count("header") == tags.count("footer") == 1
    assert dict(elements)["html"] == {"lang": "en"}
    ids = {attributes["id"] for _, attributes in elements if "id" in attributes}
    for tag, attributes in elements:
        if str(attributes.get("href", "")).startswith("#"):
            assert str(attributes["href"])[1:] in ids
        if tag in ("select", "input"):
            assert any(tag == "label" and other.get("for") == attributes["id"] for tag, other in elements)
        if tag == "table":
            assert "scope" in next(other for tag, other in elements[elements.index((tag, attributes)) :] if tag == "th")
    levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_the_stamp_of_a_scale_stands_at_the_top(tmp_path: Path) -> None:
    page = report(Suite(tmp_path, SPEC, load_scale("smoke")))
    assert "Smoke scale" in page[page.index('class="stamp"') : page.index("<nav")]
    assert "No finished run of these tables and figures has recorded labels." in page


def test_results_come_first_and_the_notes_are_folded_under_them(suite: Suite) -> None:
    page = report(suite)
    places = [page.index(text) for text in ('id="page-1"', '<p class="gaps">4 of 6 runs done, 1 failed, 1 missing.</p>', "<table>")]
    places += [page.index(text, places[-1]) for text in ('<details class="notes">', "To rebuild this page", 'id="browser"')]
    places += [page.index(text) for text in ('class="overview"', "<p>Text.</p>")]
    assert places == sorted(places)


def test_every_plan_is_reported_wherever_its_spec_lies_and_one_without_runs_only_named(
    suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "waiting.yaml"
    path.write_text(SPEC.replace("Class <b>", "Other").replace("Instance", "Another").replace("A table", "Later"))
    plan_by_hand(load_spec(str(path)), suite.runs)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr("analysis.reading.images.TrainingSets.of", lambda self, run: None)
    assert main(["report", "--runs", str(suite.runs), "--out", "report.html"]) == 0
    page = Path("report.html").read_text()
    sections = re.findall(r'<h2 id="page-\d+-title">(.*?)</h2>', page)
    assert sections == ["tried: A table &lt;i&gt;of&lt;/i&gt; labels"]
    assert "no run started yet (1)</summary><ul><li>waiting: Later &lt;i&gt;of&lt;/i&gt; labels</li>" in page
    assert "4 of 12 runs done, 1 failed, 7 missing." in page


def test_a_report_of_nothing_is_refused(suite: Suite) -> None:
    with pytest.raises(UserError, match="at least one spec"):
        report(suite, pages=0)


def markdown(text: str) -> str:
    return render_markdown(text, name="N", images={"f.svg": b"<svg>", "f.png": b"p"})


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("# Title\n\n## Part\n\n### Detail\n", "<h3>Part</h3>\n<h4>Detail</h4>\n"),
        ("![a <b](f.png)", '<p><img class="figure" alt="a &lt;b" src="data:image/svg+xml;base64,PHN2Zz4=" /></p>\n'),
        ("![a <b](gone.png)", "<p><em>[image: a &lt;b]</em></p>\n"),
        ("![a](https://example.org/f.png)", "<p><em>[image: a]</em></p>\n"),
        ("![a](../f.png)", "<p><em>[image: a]</em></p>\n"),
        ("![a]()", "<p><em>[image: a]</em></p>\n"),
        ("[w](https://example.org/?a&b)", '<p><a href="https://example.org/?a&amp;b" rel="noopener noreferrer">w</a></p>\n'),
        ("[f](docs/x.md)", "<p><span>f</span></p>\n"),
        ("[j](javascript:alert(1))", "<p>[j](javascript:alert(1))</p>\n"),
        (
            "| a | b |\n|---|--:|\n| x | y |\n",
            '<div class="scroll" role="region" tabindex="0" aria-label="Table: N"><table>\n'
            '<thead>\n<tr>\n<th scope="col">a</th>\n<th style="text-align:right" scope="col">b</th>\n</tr>\n</thead>\n'
            '<tbody>\n<tr>\n<th scope="row">x</th>\n<td style="text-align:right">y</td>\n</tr>\n</tbody>\n</table></div>\n',
        ),
    ],
)
def test_markdown(text: str, made: str) -> None:
    assert markdown(text) == made


def test_a_shared_run_is_listed_under_every_page_with_its_label_there(suite: Suite) -> None:
    again = load_spec(str(shutil.copy(suite.path, suite.path.with_name("again.yaml"))))
    plan_by_hand(again, suite.runs)
    files = [suite.make(), Files(again, {"again.md": b"# T\n"})]
    page = make_report(files, suite.runs, deviations="", command="x", training_set_of=training_set, runs_link=".").decode()
    assert data_of(page)["pages"] == ["tried", "again"]
    label = "Instance, Clean, seed=0"
    assert data_of(page)["runs"][1]["places"] == [{"page": "tried", "title": label}, {"page": "again", "title": label}]


def test_labels_come_with_pictures_names_and_annotations(suite: Suite) -> None:
    data = data_of(report(suite))
    classes, instances = data["runs"]
    assert instances["names"][:2] == ["kind 0", "kind 1"]
    item = instances["items"][instances["groups"][0]["items"][0]]
    assert (item["position"], item["annotated"], item["true"]) == (12, 4, 4)
    content = base64.b64decode(data["images"][item["image"]].removeprefix("data:image/png;base64,"))
    assert content == png(training_set(None).image(12))
    assert [one["example"] for one in classes["items"]] == [3 * number for number in range(CLASSES)]


def test_labels_are_shown_without_the_dataset_too(suite: Suite) -> None:
    page = report(suite, lambda run: None)
    data = data_of(page)
    assert "Not shown" not in page
    assert data["images"] == []
    assert [len(run["items"]) > 0 for run in data["runs"]] == [True, True]
    assert "annotated" not in data["runs"][1]["items"][0]


def test_another_dataset_than_the_runs_is_named_and_its_labels_stay(suite: Suite) -> None:
    def refuse(run: object) -> TrainingSet:
        raise UserError(f"{suite.runs}/x: other images")

    page = report(suite, refuse)
    assert "<li>Instance-Clean-0: x: other images</li>" in page
    assert len(data_of(page)["runs"]) == 2


def test_a_final_run_shows_the_labels_that_it_reads(suite: Suite) -> None:
    final = suite.folder("Instance", "Clean", 0)
    label_run(suite.runs / "fold-run", INDICES, list(instance_labels()), **{"split.fold": 2})
    shutil.rmtree(final / "labels")
    change(final, "identity.json", {"fields": {"inputs.labels": ["gone", "fold-run"]}})
    run = data_of(report(suite))["runs"][1]
    assert (run["id"], run["places"][0]["title"]) == ("fold-run", "Instance, Clean, seed=0 (labels from fold 2)")


@pytest.mark.parametrize(
    ("values", "words"), [({"kind": "other"}, "the kind of the labels is"), ({"shape": [5, 40, 80_000]}, "no whole epoch")]
)
def test_damaged_labels_are_named_and_the_rest_is_shown(suite: Suite, values: dict[str, Any], words: str) -> None:
    folder = suite.folder("Instance", "Clean", 0)
    change(folder, "labels/layout.json", values)
    page = report(suite)
    assert re.search(f"<li>Instance-Clean-0: [^<]*Instance-Clean-0/[^<]*{words}", page)
    assert len(data_of(page)["runs"]) == 1
    assert str(suite.runs) not in page


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 3)])
def test_images_survive_as_png(shape: tuple[int, ...]) -> None:
    image = np.random.RandomState(0).randint(0, 256, shape).astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png(image)))), image)


def test_a_figure_is_put_into_the_page(suite: Suite) -> None:
    files = suite.make()
    contents = {**files.contents, "tried.md": b"# T\n\n![The curve](tried.png)\n", "tried.svg": b"<svg>"}
    page = make_report(
        [Files(suite.spec, contents)], suite.runs, deviations="", command="x", training_set_of=training_set, runs_link="."
    ).decode()
    assert 'alt="The curve" src="data:image/svg+xml;base64,PHN2Zz4="' in page
