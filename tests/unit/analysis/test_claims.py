"""Claims: what the file may say, and what runs make of them by the rule that stands on the page."""

import csv
import io
import re
from pathlib import Path

import pytest
import yaml
from run_folders import done_run, plan_by_hand
from scipy.stats import t as student

from analysis.__main__ import main
from analysis.reading.stats import contrast, summarize
from analysis.tables.claims_page import claims_files, short_table
from analysis.tables.table import make_table
from sweeps.claims import load_claims
from sweeps.spec.load import SpecError, load_scale, load_spec

CLAIM = {
    "id": "better",
    "claim": "Instance labels do better.",
    "source": "section 3",
    "direction": "higher",
    "tests": [{"spec": "table1", "rows": ["Ours (Instance)"], "over": ["Baseline"], "columns": ["CIFAR10, VGG16"]}],
}
SANE = CLAIM | {"id": "sane", "tests": [{"spec": "table1", "rows": ["Ours (Class)"], "over": ["Baseline"], "columns": ["CIFAR10, VGG16"]}]}


@pytest.fixture(autouse=True)
def nothing_tuned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPRO_TUNED", str(tmp_path / "tuned"))


def write(folder: Path, *claims: dict[str, object], sanity: dict[str, object] = SANE, level: float = 0.05) -> Path:
    path = folder / "claims.yaml"
    path.write_text(yaml.safe_dump({"level": level, "scales": ["paper"], "claims": list(claims), "sanity": [sanity]}))
    return path


def table1(folder: Path, values: dict[str, tuple[float, ...]], column: str = "CIFAR10, VGG16", *, tuned: bool = True) -> Path:
    """Return a runs folder with the plan of Table 1, whose rows have these accuracies in one column."""
    runs = folder / "runs"
    names = plan_by_hand(load_spec("table1"), runs, tuned=tuned)
    for row, accuracies in values.items():
        for seed, accuracy in enumerate(accuracies):
            done_run(runs / names[row, column, seed], accuracy=accuracy)
    return runs


def lines(runs: Path, path: Path) -> dict[str, dict[str, str]]:
    found = csv.DictReader(claims_files(runs, load_claims(path))["claims.csv"].decode().splitlines())
    return {line["id"]: line for line in found if "comparison of" not in line["kind"]}


def test_difference_and_intervals_of_two_cells_are_welchs(tmp_path: Path) -> None:
    ours, theirs = (0.90, 0.92, 0.97), (0.80, 0.81, 0.82)
    runs = table1(tmp_path, {"Ours (Instance)": ours, "Ours (Class)": ours, "Baseline": theirs})
    line = lines(runs, write(tmp_path, CLAIM, CLAIM | {"id": "second"}))["better"]
    variances = [100**2 * summarize(values, expected=3).sd ** 2 / 3 for values in (ours, theirs)]
    freedom = sum(variances) ** 2 / sum(variance**2 / 2 for variance in variances)
    assert float(line["difference"]) == pytest.approx(12.0, abs=1e-9)
    for confidence, low, high in ((0.95, "low_95", "high_95"), (0.975, "low_adjusted", "high_adjusted")):
        half = student.ppf(0.5 + confidence / 2, freedom) * sum(variances) ** 0.5
        assert float(line[low]) == pytest.approx(12.0 - half, abs=1e-9)
        assert float(line[high]) == pytest.approx(12.0 + half, abs=1e-9)
    assert (line["runs"], line["runs_planned"], line["published"]) == ("6", "6", str(94.3 - 93.9))


def test_a_spec_without_a_plan_lacks_all_of_its_runs(tmp_path: Path) -> None:
    line = lines(tmp_path / "runs", write(tmp_path, CLAIM))["better"]
    assert (line["runs"], line["runs_planned"], line["verdict"]) == ("0", str(2 * len(load_spec("table1").repeats)), "not run")


def test_runs_that_should_have_been_tuned_count_as_missing(tmp_path: Path) -> None:
    rows = {"Ours (Instance)": (0.90, 0.91, 0.92), "Ours (Class)": (0.85, 0.86, 0.87), "Baseline": (0.80, 0.81, 0.82)}
    line = lines(table1(tmp_path, rows, tuned=False), write(tmp_path, CLAIM))["better"]
    assert (line["runs"], line["runs_planned"], line["verdict"]) == ("3", "6", "not run")
    page = make_table(load_spec("table1"), tmp_path / "runs").page
    said = "**Not tuned yet**: instance_labels for cifar10, vgg16. These cells have the values that the spec declares until it is: "
    assert f"- {said}Ours (Instance), CIFAR10, VGG16.\n" in page
    assert "Not tuned" not in make_table(load_spec("table1"), table1(tmp_path / "tuned", rows)).page


@pytest.mark.parametrize(
    ("ours", "margin", "direction", "verdict"),
    [
        ((0.90, 0.91, 0.92), 0.0, "higher", "supported"),
        ((0.90, 0.91, 0.92), 0.0, "lower", "contradicted"),
        ((0.70, 0.71, 0.72), 0.0, "higher", "contradicted"),
        ((0.70, 0.71, 0.72), 0.0, "lower", "supported"),
        ((0.79, 0.81, 0.84), 0.0, "higher", "undecided"),
        ((0.90, 0.91, 0.92), 10.0, "higher", "undecided"),
        ((0.80, 0.81, 0.82), -10.0, "higher", "supported"),
        ((0.90, float("nan"), 0.92), 0.0, "higher", "undecided"),
        ((0.90, 0.91), 0.0, "higher", "not run"),
    ],
)
def test_verdicts(tmp_path: Path, ours: tuple[float, ...], margin: float, direction: str, verdict: str) -> None:
    runs = table1(tmp_path, {"Ours (Instance)": ours, "Baseline": (0.80, 0.81, 0.82)})
    claim = CLAIM | {"margin": margin, "direction": direction}
    assert lines(runs, write(tmp_path, claim))["better"]["verdict"] == verdict


def test_every_comparison_must_hold_and_the_mean_counts_a_shared_cell_once(tmp_path: Path) -> None:
    rows = {"Ours (Instance)": (0.85, 0.86, 0.87), "Ours (Class)": (0.90, 0.91, 0.92), "Baseline": (0.70, 0.71, 0.72)}
    runs = table1(tmp_path, rows)
    both = CLAIM["tests"][0] | {"over": ["Baseline", "Ours (Class)"]}
    found = lines(runs, write(tmp_path, CLAIM | {"tests": [both]}, CLAIM | {"id": "all", "tests": [both], "combine": "every"}))
    assert float(found["better"]["difference"]) == pytest.approx((15.0 - 5.0) / 2)
    # sd 1 in each: ours enters with weight 1, the two others with a half.
    half = student.ppf(0.975, 1.5**2 / (1 + 2 * 0.0625) * 2) * (1.5 / 3) ** 0.5
    assert float(found["better"]["high_95"]) == pytest.approx(5.0 + half)
    assert (found["all"]["verdict"], float(found["all"]["difference"])) == ("contradicted", pytest.approx(-5.0))
    assert "over Ours (Class)" in found["all"]["comparison"]


def test_a_contradicted_sanity_check_withholds_what_was_decided(tmp_path: Path) -> None:
    runs = table1(tmp_path, {"Ours (Instance)": (0.9, 0.91, 0.92), "Baseline": (0.8, 0.81, 0.82), "Ours (Class)": (0.1, 0.11, 0.12)})
    found = lines(runs, write(tmp_path, CLAIM))
    assert (found["sane"]["verdict"], found["better"]["verdict"]) == ("contradicted", "withheld")


def test_changes_constants_and_correlations_are_read_off_the_curves(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for spec in ("figure2", "figure4"):
        for (_, _, seed), name in plan_by_hand(load_spec(spec), runs).items():
            curve = {
                "noise/label_error": [0.40, 0.35, 0.33 + seed / 1000],
                "label/next_class_in_superclass": [0.04, 0.1, 0.3 + seed / 100],
                **{f"class_meta_accuracy/{k:03d}": [0.5, 0.1 * k] for k in range(5)},
                **{f"class_target_probability/{k:03d}": [0.9, (0.1, 0.4, 0.2, 0.6, 0.9)[k] if seed else 0.1 * k] for k in range(5)},
            }
            done_run(runs / f"{name}", curve=curve) if not (runs / name).exists() else None
    tests = {
        "falls": [{"spec": "figure4", "rows": ["Ours (Instance labels)"], "change": "noise/label_error"}],
        "above": [{"spec": "figure2", "rows": ["Instance labels"], "metric": "label/next_class_in_superclass", "above": 0.01}],
        "together": [
            {"spec": "figure2", "rows": ["Class labels"], "correlation": ["class_meta_accuracy/{k}", "class_target_probability/{k}"]}
        ],
    }
    found = lines(runs, write(tmp_path, *(CLAIM | {"id": name, "tests": test} for name, test in tests.items())))
    assert float(found["falls"]["difference"]) == pytest.approx(-6.9)
    assert float(found["above"]["difference"]) == pytest.approx(0.30)
    assert float(found["together"]["difference"]) == pytest.approx((1.0 + 0.9 + 0.9) / 3)


def test_nothing_run_is_said_and_the_page_names_every_claim(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["claims", "--runs", str(tmp_path), "--out", str(tmp_path / "pages")]) == 0
    page = (tmp_path / "pages" / "claims.md").read_text()
    claims = load_claims()
    assert capsys.readouterr().out.startswith(page)
    for claim in (*claims.claims, *claims.sanity):
        assert page.count(claim.text) == len(claims.scales)
    assert page.count(" not run ") == len(claims.scales) * (len(claims.claims) + len(claims.sanity))


def test_contrast_has_no_spread_to_go_by() -> None:
    one, none = summarize([1.0], expected=1), summarize([1.0, 1.0], expected=2)
    assert contrast([(1.0, one)], confidence=0.95) is None
    assert contrast([(1.0, none), (-1.0, none)], confidence=0.95) == 0.0


WRONG = [
    ({"spec": "table1", "rows": ["Ours (Instanse)"], "over": ["Baseline"]}, r"no row of table1 called 'Ours \(Instanse\)'. Did you mean"),
    ({"spec": "table1", "rows": ["Baseline"], "over": ["Ours"]}, r"over\[0\]: there is no row of table1 called 'Ours'"),
    ({"spec": "table1", "rows": ["Baseline"], "over": ["Ours (Class)"], "columns": ["CIFAR"]}, r"no column of table1 called 'CIFAR'"),
    ({"spec": "table1", "rows": ["Baseline"], "over": ["Baseline"]}, r"'Baseline' would be compared with itself"),
    ({"spec": "table0", "rows": ["Baseline"], "over": ["Ours (Class)"]}, r"spec: 'table0' does not exist"),
    ({"spec": "table9", "rows": ["Baseline"], "over": ["Ours (Class)"]}, r"table9 has no runs"),
    ({"spec": "figure4", "rows": ["Ours (Instance labels)"], "over": ["x"]}, r"over compares cells of tables, and figure4 is a figure"),
    ({"spec": "figure4", "rows": ["Ours (Instance labels)"], "change": "noise/label_eror"}, r"no metric 'noise/label_eror'. Did you mean"),
    ({"spec": "figure4", "rows": ["Ours (Instance labels)"]}, r"needs exactly one of over, .*; it has none"),
    ({"spec": "figure4", "rows": ["Ours (Instance labels)"], "above": 0.1}, r"metric belongs to above, which needs it"),
    ({"spec": "figure2", "rows": ["Class labels"], "correlation": ["class_meta_accuracy/{k}"]}, r"must be two series over the classes"),
]


@pytest.mark.parametrize(("test", "message"), WRONG)
def test_wrong_tests_are_named_with_file_and_line(tmp_path: Path, test: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=rf"claims.yaml:\d+: .*{message}"):
        load_claims(write(tmp_path, CLAIM | {"tests": [test]}))


def test_wrong_claims_are_named_with_file_and_line(tmp_path: Path) -> None:
    without = {key: value for key, value in CLAIM.items() if key != "direction"}
    for claims, message in (
        ((without,), r"claims\[0\].direction is missing"),
        ((CLAIM, CLAIM), r"two claims are called better, the first in .*claims.yaml:\d+"),
        ((CLAIM | {"direction": "up"},), r"claims\[0\].direction: 'up' does not exist"),
        ((CLAIM | {"margin": "much"},), r"claims\[0\].margin must be a number"),
        ((CLAIM | {"id": "Better than"},), r"claims\[0\].id must be a word"),
    ):
        with pytest.raises(SpecError, match=rf"claims.yaml:\d+: {message}"):
            load_claims(write(tmp_path, *claims))
    with pytest.raises(SpecError, match=r"level must be a number between 0 and 1"):
        load_claims(write(tmp_path, CLAIM, level=5))


def test_the_readme_has_the_claims_that_the_evidence_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REPRO_TUNED")
    root = Path(__file__).resolve().parents[3]
    begin, end = "<!-- claims: begin -->", "<!-- claims: end -->"
    shown = (root / "README.md").read_text().partition(begin)[2].partition(end)[0]
    made = "\n".join(short_table(load_scale("small"), root / "paper_tables" / "evidence"))
    assert shown.strip() == made, f"README.md, between {begin} and {end}: put in what `python -m analysis claims --short small` prints"


NOISY = {
    "true labels of the same images": ("sanity/sanity", "True labels", "CIFAR10"),
    "label smoothing of 0.5": ("sanity/sanity", "Label smoothing", "CIFAR10"),
    "Co-teaching": "Co-teaching [3]",
    "instance labels, no curriculum": "Ours, no curriculum",
    "L2RW": "L2RW [18]",
    "instance labels, with curriculum (the paper's)": "Ours (Instance labels)",
    "Co-teaching, its authors' network and recipe": "Co-teaching, its authors' recipe",
    "instance labels in Table 9's recipe": "Ours, Table 9 recipe",
    "random weights, the control of L2RW": "Random weights",
    "MentorNet": "MentorNet [7]",
    "Meta-Weight-Net": "MWNet [21]",
    "one-hot": "Baseline [21]",
    "focal loss": "Focal Loss [13]",
    "L2RW, its authors' recipe": "L2RW, its authors' recipe",
    "MentorNet, its authors' recipe": "MentorNet, its authors' recipe",
}
CLEAN = {"one-hot": "Baseline", "class labels": "Ours (Class)", "instance labels": "Ours (Instance)"}
FIXED = {"confidence penalty": "Confidence Penalty", "label smoothing": "Label Smoothing"}
NETWORKS = {"residual": "ResNet18", "plain": "VGG16", "no BatchNorm": "AlexNet"}
#: A table of docs/findings.md, by its header: the page whose cells it shows, and what its rows and columns are called there.
FOUND: dict[tuple[str, ...], tuple[str, dict[str, object], dict[str, str]]] = {
    ("test accuracy (%)",): ("table6", dict(NOISY), {"test accuracy (%)": "CIFAR10, 40%"}),
    ("CIFAR-100, residual", "CIFAR-100, plain", "CIFAR-10, residual", "CIFAR-10, plain"): (
        "table1",
        dict(CLEAN),
        {
            f"{name}, {network}": f"{name.replace('-', '')}, {NETWORKS[network]}"
            for name in ("CIFAR-100", "CIFAR-10")
            for network in NETWORKS
        },
    ),
    ("CIFAR-10, 40%", "CIFAR-10, 60%", "CIFAR-100, 40%", "CIFAR-100, 60%"): (
        "table6",
        {"one-hot": "Baseline [21]", "instance labels": "Ours (Instance labels)"},
        {f"{name}, {rate}": f"{name.replace('-', '')}, {rate}" for name in ("CIFAR-10", "CIFAR-100") for rate in ("40%", "60%")},
    ),
    ("CIFAR-100, 20%", "CIFAR-100, 40%", "CIFAR-100, 80%"): (
        "table7",
        {"one-hot": "Baseline [18]", "instance labels": "Ours (Instance labels)"},
        {f"CIFAR-100, {rate}": rate for rate in ("20%", "40%", "80%")},
    ),
    ("residual", "plain"): ("table2", dict(FIXED), NETWORKS),
    ("CIFAR-10, residual", "CIFAR-10, plain"): ("table8", dict(FIXED), {f"CIFAR-10, {name}": label for name, label in NETWORKS.items()}),
    ("class labels", "instance labels"): (
        "table3",
        {"static": "Dynamic ✗", "dynamic": "Dynamic ✓"},
        {"class labels": "Class", "instance labels": "Instance"},
    ),
    ("residual", "plain", "no BatchNorm"): (
        "table5",
        {"labels of the residual network": "ResNet18", "labels of the plain network": "VGG16", "one-hot labels": "Baseline"},
        NETWORKS,
    ),
    ("one-hot teacher", "smoothed teacher", "teacher with learned labels", "labels alone"): (
        "table4",
        {"1": "Temperature scaling ✗", "chosen": "Temperature scaling ✓"},
        {
            "one-hot teacher": "Baseline",
            "smoothed teacher": "Label Smoothing",
            "teacher with learned labels": "Ours (Model)",
            "labels alone": "Ours (Labels)",
        },
    ),
}


GRADIENT = {
    "instance labels, as in the table above": "Instance labels",
    "meta batch of 25": "Meta batch 25",
    "meta batch of 400": "Meta batch 400",
    "label learning rate of 75": "Label learning rate 75",
    "label learning rate of 7500": "Label learning rate 7500",
    "labels start at 0.3": "Start 0.3",
    "labels start at 0.9": "Start 0.9",
    "look-ahead at the initial step size (B5)": "Look-ahead without drops (B5)",
    "no curriculum (G6)": "No curriculum (G6)",
    "weights of the entropy itself (G6)": "Weights of the entropy itself (G6)",
    "momentum of 0 (A1)": "Momentum 0 (A1)",
    "momentum of 0, label learning rate of 75": "Momentum 0, label learning rate 75",
}
#: The columns of its table: the metric, the epoch, and whether the spread is shown.
DIRECTIONS = {
    "right way, wrongly annotated (%)": ("label/gradient_right_noisy", "10", False),
    "right way, rightly annotated (%)": ("label/gradient_right_clean", "10", False),
    "wrong labels at the end (%)": ("noise/label_error", "60", True),
    "test accuracy (%)": ("test/accuracy", "60", True),
}


def directions(pages: Path) -> dict[str, list[str]]:
    """Return the table on the gradient's directions as the committed curves make it."""
    text = (pages / "label_gradient" / "label_gradient.csv").read_text(encoding="utf-8")
    points = {(row["row"], row["metric"], row["epoch"]): row for row in csv.DictReader(io.StringIO(text)) if row["panel"]}
    table: dict[str, list[str]] = {name: [] for name in GRADIENT}
    for name, row in GRADIENT.items():
        for metric, epoch, spread in DIRECTIONS.values():
            mean, sd = (100 * float(points[row, metric, epoch][key]) for key in ("mean", "sd"))
            table[name].append(f"{mean:.1f} ± {sd:.1f}" if spread else f"{mean:.0f}")
    return table


def test_the_findings_have_the_numbers_of_the_pages() -> None:
    """The tables of docs/findings.md, and what README says of them, are cells of committed pages."""
    root = Path(__file__).resolve().parents[3]

    def cells(page: str) -> dict[tuple[str, str], str]:
        rows = csv.DictReader(io.StringIO((root / "paper_tables" / "small" / f"{page}.cells.csv").read_text(encoding="utf-8")))
        return {(row["row"], row["column"]): row["text"].strip("*").removesuffix(" †") for row in rows}

    findings = (root / "docs" / "findings.md").read_text(encoding="utf-8")
    shown, headers = {}, set()
    for block in re.findall(r"^(?:\|.*\|\n)+", findings, flags=re.MULTILINE):
        (_, *header), _, *body = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
        headers.add(tuple(header))
        if header == list(DIRECTIONS):
            assert {name: texts for name, *texts in body} == directions(root / "paper_tables" / "small")
            continue
        page, rows, columns = FOUND[tuple(header)]
        assert {name for name, *_ in body} == rows.keys(), header
        for name, *texts in body:
            for column, text in zip(header, texts, strict=True):
                place = rows[name] if isinstance(rows[name], tuple) else (page, rows[name], columns[column])
                assert cells(place[0])[place[1:]] == text, (header, name, column)
                shown[name, column] = text
    assert headers == {*FOUND, tuple(DIRECTIONS)}
    readme = (root / "README.md").read_text()
    for name in ("instance labels, with curriculum (the paper's)", "one-hot"):
        assert f"{shown[name, 'test accuracy (%)']}%" in readme, name
