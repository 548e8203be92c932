"""Claims: what the file may say, what runs make of them by the rule that stands on the page, and the numbers that the docs repeat."""

import csv
import math
import re
from pathlib import Path

import pytest
import yaml
from run_folders import done_run, plan_by_hand
from scipy.stats import t as student

from analysis.__main__ import main
from analysis.reading.stats import summarize
from analysis.tables.claims import claims_files, short_table
from sweeps.claims import load_claims
from sweeps.spec import SpecError, load_scale, load_spec

ROOT = Path(__file__).resolve().parents[3]
COLUMN = "CIFAR10, VGG16"
TEST = {"spec": "table1", "rows": ["Ours (Instance)"], "over": ["Baseline"], "columns": [COLUMN]}
CLAIM = {"id": "better", "claim": "Instance labels do better.", "source": "section 3", "direction": "higher", "tests": [TEST]}
SANE = CLAIM | {"id": "sane", "tests": [TEST | {"rows": ["Ours (Class)"]}]}
BASE = (0.80, 0.81, 0.82)


@pytest.fixture(autouse=True)
def nothing_tuned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPRO_TUNED", str(tmp_path / "tuned"))


def write(folder: Path, *claims: dict[str, object], level: float = 0.05) -> Path:
    path = folder / "claims.yaml"
    path.write_text(yaml.safe_dump({"level": level, "scales": ["paper"], "claims": list(claims), "sanity": [SANE]}))
    return path


def table1(folder: Path, values: dict[str, tuple[float, ...]], *, tuned: bool = True) -> Path:
    """Return a runs folder with the plan of Table 1, whose rows have these accuracies in one column."""
    names = plan_by_hand(load_spec("table1"), load_scale("paper"), folder / "runs", tuned=tuned)
    for row, accuracies in values.items():
        for seed, accuracy in enumerate(accuracies):
            done_run(folder / "runs" / names[row, COLUMN, seed], accuracy=accuracy)
    return folder / "runs"


def lines(runs: Path, path: Path) -> dict[str, dict[str, str]]:
    rows = csv.DictReader(claims_files(runs, load_claims(path))["claims.csv"].decode().splitlines())
    return {row["id"]: row for row in rows if "comparison of" not in row["kind"]}


def test_difference_and_intervals_of_two_cells_are_welchs(tmp_path: Path) -> None:
    ours = (0.90, 0.92, 0.97)
    runs = table1(tmp_path, {"Ours (Instance)": ours, "Ours (Class)": ours, "Baseline": BASE})
    path = write(tmp_path, CLAIM, CLAIM | {"id": "second"})
    line = lines(runs, path)["better"]
    variances = [100**2 * summarize(values, expected=3).sd ** 2 / 3 for values in (ours, BASE)]
    freedom = sum(variances) ** 2 / sum(variance**2 / 2 for variance in variances)
    difference = 100 * (sum(ours) - sum(BASE)) / 3
    assert float(line["difference"]) == pytest.approx(difference)
    # Two claims share the level.
    for key, share in (("high_95", 0.975), ("high_adjusted", 1 - 0.05 / 2 / 2)):
        assert float(line[key]) == pytest.approx(difference + student.ppf(share, freedom) * sum(variances) ** 0.5)
    assert float(line["published"]) == pytest.approx(0.4)
    text = f" +{difference:.1f} ({float(line['low_95']):.1f} to {float(line['high_95']):.1f}) | 6 of 6 | supported |"
    assert text in claims_files(runs, load_claims(path))["claims.md"].decode()


@pytest.mark.parametrize(
    ("ours", "margin", "direction", "verdict"),
    [
        ((0.90, 0.91, 0.92), 0.0, "higher", "supported"),
        ((0.90, 0.91, 0.92), 0.0, "lower", "contradicted"),
        ((0.70, 0.71, 0.72), 0.0, "higher", "contradicted"),
        ((0.79, 0.81, 0.84), 0.0, "higher", "undecided"),
        ((0.90, 0.91, 0.92), 10.0, "higher", "undecided"),
        (BASE, -10.0, "higher", "supported"),
        ((0.90, math.nan, 0.92), 0.0, "higher", "undecided"),
        ((0.90, 0.91), 0.0, "higher", "not run"),
    ],
)
def test_verdicts(tmp_path: Path, ours: tuple[float, ...], margin: float, direction: str, verdict: str) -> None:
    runs = table1(tmp_path, {"Ours (Instance)": ours, "Baseline": BASE})
    claim = CLAIM | {"margin": margin, "direction": direction}
    assert lines(runs, write(tmp_path, claim))["better"]["verdict"] == verdict


def test_every_comparison_must_hold_and_the_mean_counts_a_shared_cell_once(tmp_path: Path) -> None:
    rows = {"Ours (Instance)": (0.85, 0.86, 0.87), "Ours (Class)": (0.90, 0.91, 0.92), "Baseline": (0.70, 0.71, 0.72)}
    both = TEST | {"over": ["Baseline", "Ours (Class)"]}
    path = write(tmp_path, CLAIM | {"tests": [both]}, CLAIM | {"id": "all", "tests": [both], "combine": "every"})
    tested = lines(table1(tmp_path, rows), path)
    assert float(tested["better"]["difference"]) == pytest.approx((15.0 - 5.0) / 2)
    # sd 1 in each: ours enters with weight 1, the two others with a half.
    half = student.ppf(0.975, 1.5**2 / (1 + 2 * 0.0625) * 2) * (1.5 / 3) ** 0.5
    assert float(tested["better"]["high_95"]) == pytest.approx(5.0 + half)
    assert (tested["all"]["verdict"], float(tested["all"]["difference"])) == ("contradicted", pytest.approx(-5.0))
    assert "over Ours (Class)" in tested["all"]["comparison"]


def test_verdicts_are_withheld_where_a_check_is_contradicted_and_untuned_runs_do_not_count(tmp_path: Path) -> None:
    rows = {"Ours (Instance)": (0.9, 0.91, 0.92), "Baseline": BASE, "Ours (Class)": (0.1, 0.11, 0.12)}
    tested = lines(table1(tmp_path, rows), write(tmp_path, CLAIM))
    assert (tested["sane"]["verdict"], tested["better"]["verdict"]) == ("contradicted", "withheld")
    tested = lines(table1(tmp_path / "untuned", rows, tuned=False), write(tmp_path, CLAIM))
    assert [tested["better"][key] for key in ("runs", "runs_planned", "verdict")] == ["3", "6", "not run"]


def test_changes_constants_and_correlations_are_read_off_the_curves(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for spec in ("figure2", "figure4"):
        for (_, _, seed), name in plan_by_hand(load_spec(spec), load_scale("paper"), runs).items():
            curve = {
                "noise/label_error": [0.40, 0.35, 0.33 + seed / 1000],
                "label/next_class_in_superclass": [0.04, 0.1, 0.3 + seed / 100],
                **{f"class_meta_accuracy/{k:03d}": [0.5, 0.1 * k] for k in range(5)},
                **{f"class_target_probability/{k:03d}": [0.9, (0.1, 0.4, 0.2, 0.6, 0.9)[k] if seed else 0.1 * k] for k in range(5)},
            }
            if not (runs / name).exists():
                done_run(runs / name, curve=curve)
    two = ["class_meta_accuracy/{k}", "class_target_probability/{k}"]
    tests = {
        "falls": {"spec": "figure4", "rows": "Ours (Instance labels)", "change": "noise/label_error"},
        "above": {"spec": "figure2", "rows": "Instance labels", "metric": "label/next_class_in_superclass", "above": 0.01},
        "together": {"spec": "figure2", "rows": "Class labels", "correlation": two},
    }
    tested = lines(runs, write(tmp_path, *(CLAIM | {"id": name, "tests": [test]} for name, test in tests.items())))
    differences = [float(tested[name]["difference"]) for name in tests]
    assert differences == pytest.approx([-6.9, 0.30, (1.0 + 0.9 + 0.9) / 3])


def test_nothing_run_is_said_and_the_page_names_every_claim(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["claims", "--runs", str(tmp_path), "--out", str(tmp_path / "pages")]) == 0
    page = (tmp_path / "pages" / "claims.md").read_text()
    claims = load_claims()
    assert capsys.readouterr().out.startswith(page)
    assert all(page.count(claim.text) == len(claims.scales) for claim in claims.all)
    assert page.count(" not run ") == len(claims.scales) * len(claims.all)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"tests": [TEST | {"rows": ["Ours (Instanse)"]}]},
            r"claims\[1\].tests\[0\]: table1 has no row 'Ours \(Instanse\)'. Did you",
        ),
        ({"tests": [TEST | {"above": 1.0}]}, r"a test has exactly one of over, .* this one has over, above"),
        ({"direction": "up"}, r"claims\[1\].direction: "),
        ({"id": "first"}, "two claims are called first"),
    ],
)
def test_wrong_claims_are_named_with_file_and_path(tmp_path: Path, changed: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=rf"claims.yaml: .*{message}"):
        load_claims(write(tmp_path, CLAIM | {"id": "first"}, CLAIM | changed))


def test_the_readme_has_the_claims_that_the_evidence_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REPRO_TUNED")
    begin, end = "<!-- claims: begin -->", "<!-- claims: end -->"
    shown = (ROOT / "README.md").read_text().partition(begin)[2].partition(end)[0]
    made = "\n".join(short_table(load_scale("small"), ROOT / "paper_tables" / "evidence"))
    assert shown.strip() == made, f"README.md, between {begin} and {end}: put in what `python -m analysis claims --short small` prints"


def page_rows(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((ROOT / "paper_tables" / "small" / name).read_text(encoding="utf-8").splitlines()))


def gradient(rows: dict[str, str], columns: dict[str, list[str]]) -> dict[tuple[str, str], str]:
    """Return the table on the gradient's directions as the committed curves make it."""
    points = {(row["row"], row["metric"], row["epoch"]): row for row in page_rows("label_gradient/label_gradient.csv")}
    texts = {}
    for name, row in rows.items():
        for column, (metric, epoch, spread) in columns.items():
            mean, sd = (100 * float(points[row, metric, epoch][key]) for key in ("mean", "sd"))
            texts[name, column] = f"{mean:.1f} ± {sd:.1f}" if spread else f"{mean:.0f}"
    return texts


def test_the_findings_have_the_numbers_of_the_pages() -> None:
    """The tables of docs/findings.md are cells of committed pages."""
    sources = yaml.safe_load((ROOT / "tests" / "support" / "findings.yaml").read_text(encoding="utf-8"))
    expected = {tuple(sources["gradient"]["columns"]): gradient(**sources["gradient"])}
    for table in sources["tables"]:
        texts = {}
        for name, row in table["rows"].items():
            for column, label in table["columns"].items():
                page, *place = row if isinstance(row, list) else (table["page"], row, label)
                cells = {(cell["row"], cell["column"]): cell["text"] for cell in page_rows(f"{page}.cells.csv")}
                # The tables stand for the runs that there are.
                texts[name, column] = re.sub(r" \(\d+/\d+\)$", "", cells[tuple(place)])
        expected[tuple(table["header"])] = texts
    shown = {}
    for block in re.findall(r"^(?:\|.*\|\n)+", (ROOT / "docs" / "findings.md").read_text(encoding="utf-8"), flags=re.MULTILINE):
        (_, *header), _, *body = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
        shown[tuple(header)] = {(name, column): text for name, *texts in body for column, text in zip(header, texts, strict=True)}
    assert shown == expected
