"""Tables beside published numbers, statistics, LaTeX and recipes."""

import math
import statistics
from pathlib import Path

import pytest
import scipy.stats
from markdown_blocks import ROOT
from run_folders import Suite, csv_rows, done_run

from analysis.build import make_files
from analysis.reading.evidence import open_source
from analysis.reading.stats import contrast, holm, interval, rounded, summarize, welch
from analysis.tables.page import Files
from repro.errors import UserError
from sweeps.plan import make_plan, write_plans
from sweeps.scales import load_scale
from sweeps.spec import load_spec

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
VALUES = {
    ("Base_line [1]", "A"): (0.700, 0.701, 0.702),
    ("Ours", "A"): (0.804, 0.806, 0.808),
    ("Ours", "40%"): (0.60, 0.61),
    ("More", "A"): (0.70, 0.71, 0.75),
}


def made(folder: Path, values: dict[tuple[str, str], tuple[float, ...]], *, published: str = PUBLISHED, scale: str = "paper") -> Files:
    (folder / "published.csv").write_text(published)
    suite = Suite(folder, SPEC, scale)
    for (row, column, seed), name in suite.names.items():
        if len(values.get((row, column), ())) > seed:
            done_run(suite.runs / name, accuracy=values[row, column][seed])
    return suite.make()


def line(page: str, row: str, column: str) -> list[str]:
    lines = [[cell.strip() for cell in text.strip("|").split("|")] for text in page.splitlines() if text.startswith("|")]
    (one,) = [cells for cells in lines if cells[:2] == [row, column]]
    return one[2:]


def test_each_cell_stands_beside_the_published_number(tmp_path: Path) -> None:
    files = made(tmp_path, VALUES)
    assert line(files.page, "Ours", "A") == ["80.6 ± 0.2", "80.1 to 81.1", "80.3 ± 0.3", "+0.3", "within"]
    assert line(files.page, "Base_line [1]", "A") == ["70.1 ± 0.1", "69.9 to 70.3", "70.0 [1]", "+0.1", "outside"]
    assert line(files.page, "Ours", "40%") == ["60.5 ± 0.7 (2/3)", "54.1 to 66.9", "60.25 ± 0.15", "—", "incomplete"]
    assert line(files.page, "More", "A") == ["72.0 ± 2.6", "65.4 to 78.6", "—", "—", "no published number"]
    assert "| More          | 40%" not in files.page
    assert "- [1]: not measured by the paper. copied from Elsewhere, another network.\n- Published: The paper.\n" in files.page
    # Of the first row's column two cells are whole.
    assert "**80.6 ± 0.2 †**" in files.page
    assert "after Holm's correction for the 2 comparisons of this page" in files.page
    assert "What n = 3 can show" in files.page
    cells = {(row["row"], row["column"]): row for row in csv_rows(files, "cells.csv")}
    ours, base = cells["Ours", "A"], cells["Base_line [1]", "A"]
    assert float(ours["gap"]) == pytest.approx(0.3)
    assert [ours[f"published_{key}"] for key in ("mean", "sd", "own_run")] == ["80.3", "0.3", "True"]
    assert (base["published_own_run"], cells["More", "A"]["published_mean"]) == ("False", "")
    p_value = scipy.stats.ttest_ind(VALUES["Ours", "A"], VALUES["Base_line [1]", "A"], equal_var=False).pvalue
    assert float(ours["p_from_first_row"]) == pytest.approx(2 * p_value)
    assert cells["Ours", "40%"]["p_from_first_row"] == base["p_from_first_row"] == ""


@pytest.mark.parametrize(
    ("row", "values", "gap", "verdict"),
    [
        ("Ours", (0.800,) * 3, "-0.3", "within"),
        ("Ours", (0.7999,) * 3, "-0.3", "outside"),
        ("Ours", (0.8, 0.8, math.nan), "—", "diverged"),
        ("Ours", (), "—", "not run"),
        # Where no spread is published, rounding is the measure.
        ("Base_line [1]", (0.7004,) * 3, "+0.0", "within"),
    ],
)
def test_verdicts(tmp_path: Path, row: str, values: tuple[float, ...], gap: str, verdict: str) -> None:
    assert line(made(tmp_path, {(row, "A"): values}).page, row, "A")[-2:] == [gap, verdict]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0.3,percent", "0.3,fraction", "is published in fraction, the table is in percent"),
        ("Ours,A", "Our,A", r"published.csv: tried has no row 'Our'. Did you mean 'Ours'"),
        ("Ours,40%", "Ours,A", "row 'Ours', column 'A' is given twice"),
        ("80.3", "much", r"published.csv: .*(?s:.*)mean"),
    ],
)
def test_published_numbers_that_would_be_silently_wrong_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        made(tmp_path, VALUES, published=PUBLISHED.replace(old, new))


def test_another_scale_is_not_judged(tmp_path: Path) -> None:
    files = made(tmp_path, {("Ours", "A"): (0.8, 0.8, 0.8)}, scale="smoke")
    assert line(files.page, "Ours", "A")[-2:] == ["—", "another scale"]
    assert "> **Smoke scale" in files.page
    assert "Smoke scale" in files.contents["tried.tex"].decode()
    assert "python -m analysis tables tried.yaml --scale smoke" in files.page


def test_statistics_against_independent_ones() -> None:
    one, other = summarize([1.0, 2.0, 4.0], expected=3), summarize([3.0, 5.0, 6.0, 7.5], expected=4)
    # Squared deviations 16/9, 1/9, 25/9, over n - 1 = 2.
    assert (one.mean, one.sd) == (pytest.approx(7 / 3, rel=1e-15), pytest.approx(math.sqrt(42 / 18), rel=1e-15))
    assert welch(one, other) == pytest.approx(scipy.stats.ttest_ind([1.0, 2.0, 4.0], [3.0, 5.0, 6.0, 7.5], equal_var=False).pvalue)
    for none in ([1.0, 2.0], [1.0, 2.0, math.nan]):
        assert welch(one, summarize(none, expected=len(none))) is None
    assert welch(one, summarize([1.0, 2.0, 3.0], expected=4)) is None
    assert welch(summarize([1.0] * 3, expected=3), summarize([2.0] * 3, expected=3)) is None
    assert interval(one) == pytest.approx(scipy.stats.t.interval(0.95, 2, statistics.mean([1, 2, 4]), scipy.stats.sem([1, 2, 4])))
    for few in ([1.0], [1.0, math.nan]):
        assert interval(summarize(few, expected=len(few))) is None
    # Holm 1979: the smallest of four times 4, the next times 3, never below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert contrast([(1.0, summarize([1.0], expected=1))]) is None
    assert contrast([(1.0, summarize([1.0, 1.0], expected=2))]).half(0.95) == 0.0
    assert [rounded(-0.0001, 100.0, 1), rounded(-0.01, 100.0, 1)] == ["0.0", "-1.0"]


def test_latex_has_every_cell_and_no_character_that_it_would_read_as_a_command(tmp_path: Path) -> None:
    tex = made(tmp_path, VALUES).contents["tried.tex"].decode()
    body = tex[tex.index(r"\midrule") : tex.index(r"\bottomrule")]
    lines = [text.removesuffix(r"\\").strip() for text in body.splitlines()[1:] if text]
    assert lines[0] == r"Base\_line [1] & 70.1 $\pm$ 0.1 & --- (0/3)"
    assert lines[1] == r"Ours & \textbf{80.6 $\pm$ 0.2 $^{\dagger}$} & 60.5 $\pm$ 0.7 (2/3)"
    assert r"\caption{Beside. Half \% of it.}" in tex
    assert r" & A & 40\% \\" in tex
    assert all(path.read_text().isascii() for path in (ROOT / "paper_tables").rglob("*.tex"))


def test_the_papers_recipes(tmp_path: Path) -> None:
    spec, scale = load_spec("table9"), load_scale("paper")
    write_plans(make_plan([spec], scale, tmp_path))
    files = make_files(spec, scale, open_source(tmp_path, scale))
    assert line(files.page, "Learning rate", "VGG16") == ["0.6", "0.6", "same"]
    assert {line(files.page, row, "WRN28-10")[-1] for row in ("Learning rate", "Weight decay", "Epochs")} == {"same"}
    assert "differs" not in files.page
    cells = {(row["row"], row["column"]): row for row in csv_rows(files, "cells.csv")}
    assert (cells["Epochs", "ResNet18"]["value"], cells["Epochs", "ResNet18"]["verdict"]) == ("165", "same")
    assert cells["Momentum", "AlexNet"]["verdict"] == ""
