from __future__ import annotations

import base64
import hashlib
import html.parser
import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import numpy.typing as npt
import pytest
from run_folders import SHA, done_run, ended_run, plan_by_hand

from analysis.images import TrainingSet
from analysis.page import Files
from analysis.report import make_report
from analysis.report_images import TrainingSetOf, png
from analysis.report_labels import NOT_A_NUMBER, encode
from analysis.report_markdown import LONG_LIST, render_markdown
from analysis.report_trajectories import Labels, read_labels, thinned
from analysis.tables import make_table
from repro.errors import UserError
from repro.files import read_json, write_json
from repro.manifest import seal
from sweeps.spec import TableSpec, load_scale, load_spec

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
EPOCHS, IMAGES, CLASSES = 5, 40, 8


def instance_labels(num: int = IMAGES, classes: int = CLASSES, epochs: int = EPOCHS) -> npt.NDArray[np.float32]:
    """Labels (epochs, num, classes): image i starts at class i % classes, and images 3, 4 and 5 end elsewhere, 4 the furthest."""
    labels = np.full((epochs, num, classes), 0.1 / (classes - 1), np.float32)
    for image in range(num):
        labels[:, image, image % classes] = 0.9
    for image, share in ((3, 0.6), (4, 0.95), (5, 0.7)):
        for epoch in range(epochs):
            moved = share * epoch / (epochs - 1)
            labels[epoch, image] = (1 - moved) * labels[0, image]
            labels[epoch, image, (image + 1) % classes] += moved
    return labels


def record(folder: Path, kind: str, values: npt.NDArray[np.float32], *, fields: dict[str, Any] | None = None) -> None:
    """Give a finished run recorded labels of shape (epochs, rows, K); instance labels are of every third published image."""
    labels = folder / "labels"
    labels.mkdir()
    name, dtype = ("instances.f16", "<f2") if kind == "instance" else ("classes.f32", "<f4")
    num = values.shape[1] if kind == "instance" else IMAGES
    (labels / name).write_bytes(values.astype(dtype).tobytes())
    (labels / "indices.i64").write_bytes((3 * np.arange(num)).astype("<i8").tobytes())
    layout = {"schema": 1, "kind": kind, "file": name, "dtype": dtype, "when": "after", "shape": list(values.shape)}
    write_json(labels / "layout.json", layout | {"indices": "indices.i64", "num_instances": num})
    base = {"dataset.name": "digits", "noise.name": "none", "seed": 0, "split.fold": 0}
    write_json(folder / "identity.json", {"schema": 1, "run_id": folder.name, "fields": base | (fields or {})})
    seal(folder)


def class_labels() -> npt.NDArray[np.float32]:
    return np.linspace(0.1, 0.4, EPOCHS * 3 * CLASSES, dtype=np.float32).reshape(EPOCHS, 3, CLASSES)


def training_set(run: object) -> TrainingSet:
    images = np.random.RandomState(0).randint(0, 256, (3 * IMAGES, 1, 4, 4)).astype(np.uint8)
    return TrainingSet("digits", images, np.arange(3 * IMAGES) // 3 % CLASSES, tuple(f"kind_{number}" for number in range(CLASSES)), "x")


@pytest.fixture
def spec(tmp_path: Path) -> TableSpec:
    (tmp_path / "made.yaml").write_text(SPEC)
    spec = load_spec(str(tmp_path / "made.yaml"))
    assert isinstance(spec, TableSpec)
    return spec


def fill(spec: TableSpec, runs: Path) -> None:
    """Fill a folder: of six runs four are done, one failed, one is missing."""
    names = plan_by_hand(spec, runs)
    for row, column, seed in names:
        folder = runs / names[row, column, seed]
        if (column, seed) == ("Noisy", 1):
            ended_run(folder, "failed", "Boom </script><img src=x onerror=alert(1)>")
        elif (row, column) != ("Class <b>", "Noisy"):
            done_run(folder)
    record(runs / names["Class <b>", "Clean", 0], "class", class_labels())
    record(runs / names["Instance", "Clean", 0], "instance", instance_labels())


def report(spec: TableSpec, runs: Path, *, known: TrainingSetOf | None = None, **options: Any) -> str:
    page = make_report([make_table(spec, runs)], runs, deviations=DEVIATIONS, command="make <it>", training_set_of=known, **options)
    return page.decode()


def data_of(page: str) -> dict[str, Any]:
    found = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert len(found) == 1
    data = json.loads(found[0])
    assert isinstance(data, dict)
    return data


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


def test_nothing_from_runs_and_specs_becomes_markup(spec: TableSpec, tmp_path: Path) -> None:
    fill(spec, tmp_path / "runs")
    page = report(spec, tmp_path / "runs", known=training_set)
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
    assert [run["title"] for run in data_of(page)["runs"]] == ["Class <b>, Clean, seed=0", "Instance, Clean, seed=0"]


def test_the_page_asks_for_nothing_and_runs_only_its_own_script(spec: TableSpec, tmp_path: Path) -> None:
    fill(spec, tmp_path / "runs")
    page = report(spec, tmp_path / "runs", known=training_set)
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


def test_the_same_runs_give_the_same_bytes_wherever_they_lie(spec: TableSpec, tmp_path: Path) -> None:
    fill(spec, tmp_path / "runs")
    shutil.copytree(tmp_path / "runs", tmp_path / "elsewhere" / "other")
    pages = [report(spec, folder, known=training_set) for folder in (tmp_path / "runs", tmp_path / "elsewhere" / "other")]
    assert pages[0] == pages[1]
    assert str(tmp_path) not in pages[0]


def test_overview_counts_runs_hours_and_gaps(spec: TableSpec, tmp_path: Path) -> None:
    fill(spec, tmp_path / "runs")
    page = report(spec, tmp_path / "runs")
    overview = re.sub(r"<[^>]*>", " ", page[page.index('class="overview"') : page.index('id="page-made"')])
    line = overview.split("labels")[1].split()
    assert line[:10] == ["table", "4/6", "1", "failed,", "1", "missing", "0.04", "0.00", "—", "1"]


def test_a_run_that_two_pages_share_counts_once(spec: TableSpec, tmp_path: Path) -> None:
    fill(spec, tmp_path / "runs")
    files = make_table(spec, tmp_path / "runs")
    page = make_report([files, files], tmp_path / "runs", deviations="", command="x").decode()
    assert page.count("4/6") == 3
    ids = [attributes["id"] for _, attributes in Elements(page).found if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_every_cell_names_its_runs_with_link_state_and_code(spec: TableSpec, tmp_path: Path) -> None:
    fill(spec, tmp_path / "runs")
    page = report(spec, tmp_path / "runs", runs_link="../some runs/")
    runs = page[page.index('<details class="runs">') :]
    assert '<a href="../some runs/Instance-Clean-1/"><code>Instance-Clean-1</code></a>, done, commit 0123456789ab' in runs
    assert "seed=1: <a href=" in runs
    assert f"commit {SHA[:12]}" in runs
    assert "%3Cb%3E" in runs


@pytest.mark.parametrize("link", ["/data/runs", "https://example.org/runs", "javascript:alert(1)", "C:\\runs"])
def test_a_link_that_leads_elsewhere_is_refused(spec: TableSpec, tmp_path: Path, link: str) -> None:
    fill(spec, tmp_path / "runs")
    with pytest.raises(UserError, match="relative to the page"):
        report(spec, tmp_path / "runs", runs_link=link)


def test_structure_for_those_who_hear_the_page(spec: TableSpec, tmp_path: Path) -> None:
    fill(spec, tmp_path / "runs")
    elements = Elements(report(spec, tmp_path / "runs")).found
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
    (tmp_path / "made.yaml").write_text(SPEC)
    scale = load_scale("smoke")
    spec = load_spec(str(tmp_path / "made.yaml"), scale)
    assert isinstance(spec, TableSpec)
    plan_by_hand(spec, tmp_path / "runs")
    page = report(spec, tmp_path / "runs")
    assert scale.stamp is not None
    assert scale.stamp.split(":")[0] in page[page.index('class="stamp"') : page.index("<nav")]
    assert "No finished run of these tables and figures has recorded labels." in page


# Markdown


def markdown(text: str, **images: bytes) -> str:
    return render_markdown(text, name="N", images={name.replace("_", "."): content for name, content in images.items()}, below=2)


def test_headings_come_below_the_section_and_the_title_is_left_to_it() -> None:
    assert markdown("# Title\n\n## Part\n\n### Detail\n") == "<h3>Part</h3>\n<h4>Detail</h4>\n"


def test_svg_is_preferred_to_png_unless_it_is_large() -> None:
    assert 'src="data:image/svg+xml;base64,PHN2Zz4="' in markdown("![a](f.png)", f_png=b"p", f_svg=b"<svg>")
    assert 'src="data:image/png;base64,cA=="' in markdown("![a](f.png)", f_png=b"p", f_svg=b"<svg>" * 300_000)
    assert 'src="data:image/png;base64,cA=="' in markdown("![a](f.png)", f_png=b"p")


def test_an_image_that_is_not_there_is_said_and_not_asked_for() -> None:
    for source in ("gone.png", "https://example.org/f.png", "../f.png"):
        assert markdown(f"![a <b]({source})", f_png=b"p") == "<p><em>[image: a &lt;b]</em></p>\n"


def test_links_to_the_web_stay_and_others_become_text() -> None:
    assert '<a href="https://example.org/?a=1&amp;b=2" rel="noopener noreferrer">w</a>' in markdown("[w](https://example.org/?a=1&b=2)")
    assert markdown("[f](docs/x.md)") == "<p><span>f</span></p>\n"
    assert "<a" not in markdown("[j](javascript:alert(1)) [d](data:text/html,x)")


def test_a_table_has_a_box_and_heads_of_its_rows() -> None:
    page = markdown("| a | b |\n|---|--:|\n| x | y |\n")
    assert page.startswith('<div class="scroll" role="region" tabindex="0" aria-label="Table: N"><table>')
    assert '<th scope="col">a</th>' in page
    assert '<th scope="row">x</th>' in page
    assert '<td style="text-align:right">y</td>' in page


@pytest.mark.parametrize(("count", "folded"), [(LONG_LIST, False), (LONG_LIST + 1, True)])
def test_a_long_list_inside_a_list_is_folded(count: int, folded: bool) -> None:
    page = markdown("- missing:\n" + "".join(f"  - run {index}\n" for index in range(count)) + "- next\n")
    assert (f"<details><summary>{count} entries</summary>" in page) is folded
    assert page.count("<details>") == page.count("</details>") == folded
    assert page.index(f"run {count - 1}") < page.index("next")


# Labels


def recorded(tmp_path: Path, kind: str, values: npt.NDArray[np.float32]) -> Labels:
    done_run(tmp_path / "run")
    record(tmp_path / "run", kind, values)
    return read_labels(tmp_path / "run")


def test_class_labels_are_those_after_the_last_step(tmp_path: Path) -> None:
    alpha = class_labels()
    labels = recorded(tmp_path, "class", alpha)
    assert labels.positions == tuple(range(CLASSES))
    np.testing.assert_allclose(labels.values[:, :, 0], 1 - alpha[:, -1].T)


def test_instances_are_chosen_by_the_stated_rule(tmp_path: Path) -> None:
    labels = recorded(tmp_path, "instance", instance_labels())
    chosen = {name: [labels.positions[index] // 3 for index in group] for name, group in labels.groups.items()}
    # 4 moved furthest; the others did not move, so their order is that of the rows.
    assert chosen["Moved most"] == [4, 5, 3, 0, 1, 2, 6, 7, 8, 9, 10, 11]
    assert chosen["Drawn with seed 0"] == [22, 20, 25, 4, 10, 15, 28, 11, 18, 29, 27, 35]
    assert sorted(chosen["Most probable class changed"]) == [3, 4, 5]
    assert len(labels.positions) == len(set(labels.positions))


def test_of_an_instance_the_most_probable_classes_are_kept(tmp_path: Path) -> None:
    values = instance_labels()
    labels = recorded(tmp_path, "instance", values)
    index = labels.positions.index(3 * 4)
    assert labels.classes[index][:2] == (5, 4)
    assert len(labels.classes[index]) == 6
    np.testing.assert_allclose(labels.values[index], values[:, 4][:, list(labels.classes[index])], atol=1e-3)


def test_labels_of_a_run_that_diverged_have_gaps_and_did_not_move(tmp_path: Path) -> None:
    values = instance_labels()
    values[-1, :2] = np.nan
    labels = recorded(tmp_path, "instance", values)
    assert [labels.positions[index] // 3 for index in labels.groups["Moved most"]][:5] == [4, 5, 3, 0, 1]
    index = labels.positions.index(0)
    assert labels.classes[index][0] == 0
    assert np.isnan(labels.values[index]).all(axis=1).tolist() == [False] * (EPOCHS - 1) + [True]


def test_epochs_that_were_not_reached_are_not_shown(tmp_path: Path) -> None:
    done_run(tmp_path / "run")
    record(tmp_path / "run", "instance", instance_labels())
    path = tmp_path / "run" / "labels" / "instances.f16"
    path.write_bytes(path.read_bytes()[: 2 * 3 * IMAGES * CLASSES + 7])
    seal(tmp_path / "run")
    labels = read_labels(tmp_path / "run")
    assert (labels.epochs, labels.planned) == (3, EPOCHS)


def test_numbers_are_stored_in_ten_thousandths() -> None:
    stored = np.frombuffer(base64.b64decode(encode(np.array([[0.0, 1.0], [0.12346, np.nan], [1.0004, -0.1]], np.float32))), "<u2")
    assert stored.tolist() == [0, 10_000, 1235, NOT_A_NUMBER, 10_000, 0]


def test_thinned_epochs_keep_the_first_and_the_last() -> None:
    assert thinned(10, 4) == [0, 3, 6, 9]
    assert thinned(3, 4) == thinned(3, None) == [0, 1, 2]


def test_labels_come_with_pictures_names_and_annotations(spec: TableSpec, tmp_path: Path) -> None:
    fill(spec, tmp_path / "runs")
    data = data_of(report(spec, tmp_path / "runs", known=training_set))
    classes, instances = data["runs"]
    assert instances["names"][:2] == ["kind 0", "kind 1"]
    item = instances["items"][instances["groups"][0]["items"][0]]
    assert (item["position"], item["annotated"], item["true"]) == (12, 4, 4)
    content = base64.b64decode(data["images"][item["image"]].removeprefix("data:image/png;base64,"))
    assert content == png(training_set(None).image(12))
    assert [one["example"] for one in classes["items"]] == [3 * number for number in range(CLASSES)]


def test_labels_are_shown_without_the_dataset_too(spec: TableSpec, tmp_path: Path) -> None:
    fill(spec, tmp_path / "runs")
    page = report(spec, tmp_path / "runs", known=lambda run: None)
    data = data_of(page)
    assert "Not shown" not in page
    assert data["images"] == []
    assert [len(run["items"]) > 0 for run in data["runs"]] == [True, True]
    assert "annotated" not in data["runs"][1]["items"][0]


def test_another_dataset_than_the_runs_is_named_and_its_labels_stay(spec: TableSpec, tmp_path: Path) -> None:
    fill(spec, tmp_path / "runs")

    def refuse(run: object) -> TrainingSet:
        raise UserError(f"{tmp_path / 'runs'}/x: other images")

    page = report(spec, tmp_path / "runs", known=refuse)
    assert "<li>Instance-Clean-0: x: other images</li>" in page
    assert len(data_of(page)["runs"]) == 2


def test_a_final_run_shows_the_labels_that_it_reads(spec: TableSpec, tmp_path: Path) -> None:
    fill(spec, tmp_path / "runs")
    final, fold = tmp_path / "runs" / "Instance-Clean-0", tmp_path / "runs" / "fold-run"
    done_run(fold)
    record(fold, "instance", instance_labels(), fields={"split.fold": 2})
    shutil.rmtree(final / "labels")
    write_json(final / "identity.json", {"schema": 1, "run_id": final.name, "fields": {"inputs.labels": ["gone", "fold-run"]}})
    seal(final)
    run = data_of(report(spec, tmp_path / "runs"))["runs"][1]
    assert (run["id"], run["title"]) == ("fold-run", "Instance, Clean, seed=0 (labels from fold 2)")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 2}, "has layout 2"),
        ({"kind": "other"}, "do not fit together"),
        ({"shape": [5, 39, 8]}, "do not fit together"),
        ({"shape": [5, 40]}, "cannot be read"),
        ({"file": "gone.f16"}, "does not list"),
        ({"shape": [5, 40, 80_000]}, "no whole epoch"),
    ],
)
def test_damaged_labels_are_named_and_the_rest_is_shown(spec: TableSpec, tmp_path: Path, change: dict[str, Any], words: str) -> None:
    fill(spec, tmp_path / "runs")
    path = tmp_path / "runs" / "Instance-Clean-0" / "labels" / "layout.json"
    write_json(path, read_json(path) | change)
    seal(path.parent.parent)
    page = report(spec, tmp_path / "runs")
    assert re.search(f"<li>Instance-Clean-0: [^<]*Instance-Clean-0/[^<]*{words}", page)
    assert len(data_of(page)["runs"]) == 1
    assert str(tmp_path) not in page


def test_a_page_that_is_too_large_shows_fewer_labels_and_says_so(spec: TableSpec, tmp_path: Path) -> None:
    fill(spec, tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs" / "Instance-Clean-0" / "labels")
    record(tmp_path / "runs" / "Instance-Clean-0", "instance", instance_labels(epochs=200))
    whole = report(spec, tmp_path / "runs")
    assert "Reduced" not in whole
    limits = [len(whole.encode()) - cut for cut in (1, 50_000, 58_000)]
    pages = [report(spec, tmp_path / "runs", limit_bytes=limit) for limit in limits]
    assert all(len(page.encode()) <= limit for page, limit in zip(pages, limits, strict=True))
    assert "at most 6 instances of each group, all epochs" in pages[0]
    first = data_of(pages[1])["runs"][1]
    assert len(first["epochs"]) == 80
    assert (first["epochs"][0], first["epochs"][-1]) == (1, 200)
    assert [len(group["items"]) for group in first["groups"]] == [6, 6, 3]
    assert [len(group["items"]) for group in data_of(pages[2])["runs"][1]["groups"]] == [3, 3, 3]


def test_labels_are_left_out_where_nothing_else_helps(spec: TableSpec, tmp_path: Path) -> None:
    fill(spec, tmp_path / "runs")
    whole = report(spec, tmp_path / "runs", known=training_set)
    without_data = len(whole.encode()) - len(whole[whole.index('id="data">') :].partition("</script>")[0])
    page = report(spec, tmp_path / "runs", known=training_set, limit_bytes=without_data)
    assert "The labels of 2 runs are left out" in page
    assert data_of(page)["runs"] == []
    with pytest.raises(UserError, match="tables and figures alone take"):
        report(spec, tmp_path / "runs", known=training_set, limit_bytes=without_data - 3000)


def test_a_report_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least one spec"):
        make_report([], tmp_path, deviations="", command="")


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 3)])
def test_images_survive_as_png(tmp_path: Path, shape: tuple[int, ...]) -> None:
    image = np.random.RandomState(0).randint(0, 256, shape).astype(np.uint8)
    (tmp_path / "image.png").write_bytes(png(image))
    read = matplotlib.image.imread(tmp_path / "image.png")
    np.testing.assert_array_equal((read * 255).round(), image)


@pytest.mark.parametrize("image", [np.zeros((2, 2, 4), np.uint8), np.zeros((2, 2)), np.zeros((0, 2), np.uint8)])
def test_what_is_no_image_is_refused(image: npt.NDArray[Any]) -> None:
    with pytest.raises(UserError, match="allowed are uint8"):
        png(image)


def test_a_figure_is_put_into_the_page(spec: TableSpec, tmp_path: Path) -> None:
    fill(spec, tmp_path / "runs")
    files = make_table(spec, tmp_path / "runs")
    contents = {**files.contents, "made.md": b"# T\n\n![The curve](made.png)\n", "made.png": b"p", "made.svg": b"<svg>"}
    page = make_report([Files(spec, contents)], tmp_path / "runs", deviations="", command="x").decode()
    assert '<img class="figure" alt="The curve" src="data:image/svg+xml;base64,PHN2Zz4=">' in page
