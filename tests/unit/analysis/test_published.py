"""Tables beside published numbers, statistics, LaTeX and recipes."""

import json
import math
import random
import re
import statistics
from pathlib import Path

import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from run_folders import Suite, csv_rows, done_run

from analysis.build import make_files
from analysis.reading.stats import holm, interval, render, rounded, summarize, welch
from analysis.tables.formats import escape
from analysis.tables.page import Files
from sweeps.plan.plan import make_plan, write_plans
from sweeps.spec.load import PAPER, Scale, SpecError, load_scale, load_spec

SPEC = """\
title: Beside
kind: table
caption: Half % of it.
reported: {file: published.csv}
rows:
  - {label: "Base_line [1]", set: {method: one_hot}}
  - {label: Ours, set: {method: instance_labels}}
  - {label: More, set: {method: class_labels}}
columns:
  - {label: A, set: {optim.epochs: 1}}
  - {label: "40%", set: {optim.epochs: 2}}
repeats: {seed: [0, 1, 2]}
value: {metric: test/accuracy, epoch: last, scale: percent, better: higher}
"""
PUBLISHED = """\
row,column,mean,sd,unit,own_run,source
Base_line [1],A,70.0,,percent,no,"copied from Elsewhere, another network"
Ours,A,80.3,0.3,percent,yes,The paper
Ours,40%,60.25,0.15,percent,yes,The paper
"""


def made(
    tmp_path: Path, values: dict[tuple[str, str], tuple[float, ...]], text: str = SPEC, published: str = PUBLISHED, scale: Scale = PAPER
) -> Files:
    (tmp_path / "published.csv").write_text(published)
    suite = Suite(tmp_path, text, scale)
    for (row, column, seed), name in suite.names.items():
        if len(values.get((row, column), ())) > seed:
            done_run(suite.runs / name, accuracy=values[row, column][seed])
    return suite.make()


def cells_of(files: Files) -> dict[tuple[str, str], dict[str, str]]:
    return {(row["row"], row["column"]): row for row in csv_rows(files, "cells.csv")}


def line(page: str, row: str, column: str) -> list[str]:
    found = [[cell.strip() for cell in text.strip("|").split("|")] for text in page.splitlines() if text.startswith("|")]
    (one,) = [cells for cells in found if cells[:2] == [row, column]]
    return one[2:]


VALUES = {
    ("Base_line [1]", "A"): (0.700, 0.701, 0.702),
    ("Ours", "A"): (0.804, 0.806, 0.808),
    ("Ours", "40%"): (0.60, 0.61),
    ("More", "A"): (0.70, 0.71, 0.75),
}


def test_each_cell_stands_beside_the_published_number(tmp_path: Path) -> None:
    files = made(tmp_path, VALUES)
    page = files.page
    assert line(page, "Ours", "A") == ["80.6 ± 0.2", "80.1 to 81.1", "80.3 ± 0.3", "+0.3", "within"]
    assert line(page, "Base_line [1]", "A") == ["70.1 ± 0.1", "69.9 to 70.3", "70.0 [1]", "+0.1", "outside"]
    assert line(page, "Ours", "40%") == ["60.5 ± 0.7 (2/3)", "54.1 to 66.9", "60.25 ± 0.15", "—", "incomplete"]
    assert line(page, "More", "A") == ["72.0 ± 2.6", "65.4 to 78.6", "—", "—", "no published number"]
    assert line(page, "More", "40%") == ["— (0/3)", "—", "—", "—", "not run"]
    assert "- [1]: not measured by the paper. copied from Elsewhere, another network.\n" in page
    assert "- Published: The paper.\n" in page
    assert "at most the published ±" in page
    cells = cells_of(files)
    ours = cells["Ours", "A"]
    assert float(ours["gap"]) == pytest.approx(0.3)
    assert (ours["published_mean"], ours["published_sd"], ours["verdict"], ours["copied_by_the_paper"]) == (
        "80.3",
        "0.3",
        "within",
        "False",
    )
    assert cells["Base_line [1]", "A"]["copied_by_the_paper"] == "True"
    assert cells["More", "A"]["published_mean"] == ""
    assert float(ours["interval_low"]) == pytest.approx(0.806 - 4.302652729911275 * 0.002 / 3**0.5)


@pytest.mark.parametrize(
    ("row", "values", "gap", "verdict"),
    [
        ("Ours", (0.800,) * 3, "-0.3", "within"),
        ("Ours", (0.7999,) * 3, "-0.3", "outside"),
        ("Ours", (0.8, 0.8, float("nan")), "—", "diverged"),
        ("Ours", (0.8, float("nan")), "—", "diverged"),
        ("Ours", (), "—", "not run"),
        # Where no spread is published, rounding is the measure.
        ("Base_line [1]", (0.7004,) * 3, "+0.0", "within"),
    ],
)
def test_verdicts(tmp_path: Path, row: str, values: tuple[float, ...], gap: str, verdict: str) -> None:
    assert line(made(tmp_path, {(row, "A"): values}).page, row, "A")[-2:] == [gap, verdict]


def test_a_published_number_in_another_unit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"published.csv:3: unit fraction: tried is in percent"):
        made(tmp_path, VALUES, published=PUBLISHED.replace("0.3,percent", "0.3,fraction"))


def test_another_scale_is_not_judged(tmp_path: Path) -> None:
    files = made(tmp_path, {("Ours", "A"): (0.8, 0.8, 0.8)}, scale=load_scale("smoke"))
    assert line(files.page, "Ours", "A")[-2:] == ["—", "another scale"]
    assert "> **Smoke scale" in files.page
    assert "Smoke scale" in files.contents["tried.tex"].decode()
    assert files.folder(Path("out")) == Path("out/smoke/tried")
    assert "python -m analysis tables tried.yaml --scale smoke" in files.page


def test_differences_from_the_first_row_are_marked(tmp_path: Path) -> None:
    files = made(tmp_path, VALUES)
    grid = next(text for text in files.page.splitlines() if text.startswith("| Ours "))
    assert "**80.6 ± 0.2 †**" in grid
    assert "72.0 ± 2.6 |" in files.page
    assert "after Holm's correction for the 2 comparisons of this page" in files.page
    assert "What n = 3 can show" in files.page
    cells = {place: row["p_from_first_row"] for place, row in cells_of(files).items()}
    expected = scipy.stats.ttest_ind(VALUES["Ours", "A"], VALUES["Base_line [1]", "A"], equal_var=False).pvalue
    assert float(cells["Ours", "A"]) == pytest.approx(2 * expected)
    assert cells["Ours", "40%"] == cells["Base_line [1]", "A"] == ""


def test_two_runs_are_never_tested(tmp_path: Path) -> None:
    two = {place: values[:2] for place, values in VALUES.items()}
    page = made(tmp_path, two, SPEC.replace("[0, 1, 2]", "[0, 1]")).page
    assert "†" not in page


def test_statistics_against_independent_ones() -> None:
    one, other = summarize([1.0, 2.0, 4.0], expected=3), summarize([3.0, 5.0, 6.0, 7.5], expected=4)
    assert welch(one, other) == pytest.approx(scipy.stats.ttest_ind([1.0, 2.0, 4.0], [3.0, 5.0, 6.0, 7.5], equal_var=False).pvalue)
    assert welch(one, summarize([1.0, 2.0], expected=2)) is None
    assert welch(one, summarize([1.0, 2.0, 3.0], expected=4)) is None
    assert welch(summarize([1.0] * 3, expected=3), summarize([2.0] * 3, expected=3)) is None
    assert interval(one) == pytest.approx(scipy.stats.t.interval(0.95, 2, statistics.mean([1, 2, 4]), scipy.stats.sem([1, 2, 4])))
    assert interval(summarize([1.0], expected=1)) is None
    assert interval(summarize([1.0, float("nan")], expected=2)) is None
    # Holm 1979: the smallest of four times 4, the next times 3, never below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_interval_covers_what_it_says() -> None:
    generator = random.Random(0)
    hits = 0
    for _ in range(4000):
        bounds = interval(summarize([generator.gauss(0.7, 0.01) for _ in range(3)], expected=3))
        hits += bounds[0] <= 0.7 <= bounds[1]
    assert 0.935 <= hits / 4000 <= 0.965


def test_as_many_exact_reproductions_are_within_as_the_page_says(tmp_path: Path) -> None:
    page = made(tmp_path, VALUES).page
    said = re.search(r"of exact reproductions with three runs, (\d+) in 100 would be outside by chance", page)
    generator = random.Random(1)
    outside = 0
    for _ in range(4000):
        ours, theirs = ([generator.gauss(0.0, 1.0) for _ in range(3)] for _ in range(2))
        outside += abs(statistics.mean(ours) - statistics.mean(theirs)) > statistics.stdev(theirs)
    assert outside / 4000 == pytest.approx(int(said[1]) / 100, abs=0.02)


def test_latex_has_every_cell_and_no_character_that_it_would_read_as_a_command(tmp_path: Path) -> None:
    tex = made(tmp_path, VALUES).contents["tried.tex"].decode()
    body = tex[tex.index(r"\midrule") : tex.index(r"\bottomrule")]
    lines = [text.removesuffix(r"\\").strip() for text in body.splitlines()[1:] if text]
    assert [text.count(" & ") for text in lines] == [2, 2, 2]
    assert lines[0] == r"Base\_line {[}1{]} & 70.1 $\pm$ 0.1 & --- (0/3)"
    assert lines[1] == r"Ours & \textbf{80.6 $\pm$ 0.2 $^{\dagger}$} & 60.5 $\pm$ 0.7 (2/3)"
    assert r"\caption{Beside. Half \% of it.}" in tex
    assert tex.count("{") == tex.count("}")
    assert r" & A & 40\% \\" in tex


def test_escape() -> None:
    assert escape("a_b & 5% #1 {x} ~^ \\") == r"a\_b \& 5\% \#1 \{x\} \textasciitilde{}\textasciicircum{} \textbackslash{}"


def test_every_label_of_the_papers_tables_is_plain_ascii_in_latex() -> None:
    for number in range(1, 10):
        spec = load_spec(f"table{number}")
        assert all(escape(row.label).isascii() for row in (*spec.rows, *spec.columns))
        assert escape(f"{spec.title} {spec.caption} {spec.scale.stamp} ± — †").isascii()


def test_the_papers_recipes(tmp_path: Path) -> None:
    spec = load_spec("table9")
    write_plans(make_plan([spec], tmp_path))
    files = make_files(spec, tmp_path)
    assert line(files.page, "Learning rate", "VGG16") == ["0.6", "0.6", "same"]
    assert {line(files.page, row, "WRN28-10")[-1] for row in ("Learning rate", "Weight decay", "Epochs")} == {"same"}
    assert "differs" not in files.page
    cells = cells_of(files)
    assert (cells["Epochs", "ResNet18"]["value"], cells["Epochs", "ResNet18"]["verdict"]) == ("165", "same")
    assert json.loads(cells["Milestones", "ResNet18"]["value"])[-1] < 165
    assert cells["Momentum", "AlexNet"]["verdict"] == ""
    assert files.contents["table9.tex"].isascii()
    assert spec.scale == PAPER


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=6), st.randoms())
def test_a_summary_does_not_depend_on_the_order(values: list[float], random: object) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)
    assert summarize(values, expected=6) == summarize(shuffled, expected=6)


def test_statistics_against_numbers_worked_out_by_hand() -> None:
    summary = summarize([1.0, 2.0, 4.0], expected=3)
    assert summary.mean == pytest.approx(7 / 3, rel=1e-15)
    # squared deviations 16/9, 1/9, 25/9, over n - 1 = 2
    assert summary.sd == pytest.approx(math.sqrt(42 / 18), rel=1e-15)
    assert render(summary, factor=1.0, decimals=2, spread=False) == "2.33"
    assert summarize([], expected=3).mean is None
    assert summarize([1.0], expected=1).sd is None
    assert render(summarize([0.0], expected=1), factor=1.0, decimals=1, spread=True) == "0.0"
    assert rounded(-0.0001, 100.0, 1) == "0.0"
    assert rounded(-0.01, 100.0, 1) == "-1.0"
