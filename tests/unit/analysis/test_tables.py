"""Tables: cells, what is missing, what is doubtful, and the files."""

import json
import math
import shutil
import statistics
from pathlib import Path

import pytest
from run_folders import Suite, change, csv_rows, done_run, ended_run, plan_by_hand

from analysis.__main__ import main
from repro.errors import UserError

SPEC = """\
title: A table
kind: table
caption: |
  What it
  shows.
rows:
  - {label: One-hot, set: {method: one_hot}}
  - {label: Instance, set: {method: instance_labels}}
columns:
  - {label: Clean, set: {noise: none}}
  - {label: "40%", set: {noise: uniform}}
repeats: {seed: [0, 1, 2]}
value: {metric: test/accuracy, epoch: last, scale: percent, better: higher}
"""
VALUES = {"One-hot": (0.90, 0.91, 0.92), "Instance": (0.95, 0.95, 0.98)}


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return Suite(tmp_path, SPEC)


def one_seed(folder: Path, *replaced: tuple[str, str]) -> Suite:
    """Return the table with one seed, and its spec changed."""
    text = SPEC.replace("[0, 1, 2]", "[0]")
    for old, new in replaced:
        text = text.replace(old, new)
    return Suite(folder, text)


def fill(suite: Suite, *but: tuple[str, str, int]) -> None:
    """Finish all runs but those."""
    for row, column, seed in suite.names:
        if (row, column, seed) not in but:
            done_run(suite.folder(row, column, seed), accuracy=VALUES[row][seed])


def cell(page: str, row: str, column: int) -> str:
    line = next(line for line in page.splitlines() if line.startswith(f"| {row}"))
    return line.split("|")[column + 1].strip()


def test_a_full_table_and_its_csvs(suite: Suite) -> None:
    fill(suite, ("One-hot", "Clean", 0))
    precise = 0.1 + 0.2
    done_run(suite.folder("One-hot", "Clean", 0), accuracy=precise, dirty="d" * 64)
    done_run(suite.runs / "one_hot-digits-000000000000", accuracy=0.1)  # no cell names it
    files = suite.make()
    assert files.page.startswith("# A table\n\nWhat it shows.\n\n|")
    assert cell(files.page, "One-hot", 2) == "91.0 ± 1.0"
    assert cell(files.page, "Instance", 2) == "**96.0 ± 1.7 †**"
    order = ["**How to read it**", "after the last epoch (`last`).", "over seed (n - 1", "n = 3 runs a cell", "**What to doubt**"]
    order += ["**How to rebuild it**", "`python -m analysis tables tried.yaml`. 12 of 12 runs are done.", "0.12 hours"]
    places = [files.page.index(text) for text in order]
    assert places == sorted(places)
    assert "Not all runs" not in files.page
    runs, cells = csv_rows(files, "runs.csv"), csv_rows(files, "cells.csv")
    assert len(runs) == 12
    assert float(runs[0]["value"]) == precise
    shown = [runs[0][key] for key in ("row", "column", "seed", "run_id", "state", "dirty_sha256", "wall_s", "torch")]
    assert shown == ["One-hot", "Clean", "0", "One-hot-Clean-0", "done", "d" * 64, "36.0", "2.15.0"]
    assert float(cells[0]["mean"]) == math.fsum([precise, 0.91, 0.92]) / 3
    assert float(cells[0]["sd"]) == statistics.stdev([precise, 0.91, 0.92])
    provenance = json.loads(files.contents["tried.provenance.json"])
    assert provenance["cells"][0]["runs"] == ["One-hot-Clean-0", "One-hot-Clean-1", "One-hot-Clean-2"]
    assert provenance["made_with"]["code"] == {"0123456789ab": 11, "0123456789ab with changes": 1}


def test_cells_of_the_same_runs_read_at_the_same_epoch_are_named(tmp_path: Path) -> None:
    # Names of runs by hand leave / and % out.
    suite = one_seed(tmp_path, ("label: Clean", 'label: "40/"'), ("label: Instance", 'epoch: best_val, label: "One-hot/"'))
    same = [line for line in suite.make().page.splitlines() if "same runs" in line]
    assert same == [f"- These are the same runs: {row}, 40/; {row}, 40%." for row in ("One-hot", "One-hot/")]


def test_an_interval_ends_where_no_accuracy_can_be(suite: Suite) -> None:
    """Of three runs the t interval is 2.5 standard deviations wide on either side."""
    for seed, accuracy in enumerate((0.9, 0.95, 1.0)):
        done_run(suite.folder("One-hot", "Clean", seed), accuracy=accuracy)
        done_run(suite.folder("Instance", "Clean", seed), accuracy=1.0 - accuracy)
    cells = {row["row"]: row for row in csv_rows(suite.make(), "cells.csv") if row["column"] == "Clean"}
    assert (cells["One-hot"]["interval_high"], cells["Instance"]["interval_low"]) == ("1.0", "0.0")
    assert float(cells["One-hot"]["interval_low"]) == pytest.approx(1.0 - float(cells["Instance"]["interval_high"]))


def test_what_is_missing_is_one_line_a_cell_and_nothing_is_bold_in_its_column(suite: Suite) -> None:
    assert "**Not all runs are done**:\n  - One-hot, every column: 6 missing\n" in suite.make().page
    fill(suite, ("Instance", "Clean", 0), ("Instance", "Clean", 1), ("One-hot", "40%", 0))
    ended_run(suite.folder("Instance", "Clean", 0), "failed", error="ValueError: a\n b")
    page = suite.make().page
    assert cell(page, "Instance", 1) == "98.0 (1/3)"
    assert "**" not in cell(page, "One-hot", 1)
    assert cell(page, "One-hot", 2) == "91.5 ± 0.7 (2/3)"
    assert "  - One-hot, 40%: 2 done, 1 missing\n  - Instance, Clean: 1 done, 1 failed, 1 missing\n" in page
    assert [row["problem"] for row in csv_rows(suite.make(), "runs.csv") if row["state"] == "failed"] == ["ValueError: a b"]
    for seed in range(3):
        shutil.rmtree(suite.folder("One-hot", "40%", seed), ignore_errors=True)
        shutil.rmtree(suite.folder("One-hot", "Clean", seed))
    page = suite.make().page
    assert cell(page, "One-hot", 1) == "— (0/3)"
    assert "  - One-hot, every column: 6 missing\n" in page


def test_a_diverged_run_is_not_dropped(suite: Suite) -> None:
    places = [("Instance", "Clean", 0), ("Instance", "40%", 0), ("Instance", "40%", 1)]
    fill(suite, *places)
    done_run(suite.folder(*places[0]), accuracy=math.nan)
    done_run(suite.folder(*places[1]), accuracy=math.inf)
    files = suite.make()
    assert cell(files.page, "Instance", 1) == "div (1/3)"
    assert cell(files.page, "Instance", 2) == "div (1/2), (2/3)"
    assert "**" not in cell(files.page, "One-hot", 1)
    assert [row["value"] for row in csv_rows(files, "runs.csv")][6:10] == ["nan", "0.95", "0.98", "inf"]
    assert csv_rows(files, "cells.csv")[2]["mean"] == "nan"


def test_folders_of_other_runs_and_corrupted_files_give_no_number(suite: Suite) -> None:
    fill(suite)
    change(suite.folder("One-hot", "Clean", 0), "identity.json", {"run_id": "another"})
    (suite.folder("One-hot", "Clean", 1) / "final.json").write_text("{")
    (suite.folder("One-hot", "Clean", 2) / "status.json").write_text("")
    (suite.folder("Instance", "Clean", 0) / "metrics.jsonl").write_text("")
    files = suite.make()
    assert cell(files.page, "One-hot", 1) == "— (0/3)"
    assert cell(files.page, "Instance", 1) == "96.5 ± 2.1 (2/3)"
    assert "  - One-hot, Clean: 3 corrupted\n  - Instance, Clean: 1 corrupted, 2 done\n" in files.page
    problems = [row["problem"] for row in csv_rows(files, "runs.csv")]
    assert "holds another run, another" in problems[0]
    assert "final.json is not what the run wrote" in problems[1]


def test_a_plan_that_is_absent_or_of_another_spec_is_refused(suite: Suite) -> None:
    plan = suite.runs / "plans" / "tried.json"
    plan.write_text(plan.read_text().replace('"spec_sha256": "', '"spec_sha256": "0'))
    with pytest.raises(UserError, match=r"another version of .*tried\.yaml.* Call: python -m sweeps plan tried\.yaml"):
        suite.make()
    plan.unlink()
    with pytest.raises(UserError, match="there is no plan"):
        suite.make()


@pytest.mark.parametrize(
    ("rule", "accuracy", "shown"),
    [("best_val", 0.9, "80.0"), ("epoch 1", 0.9, "45.0"), ("epoch 9", 0.9, "— (0/1)"), ("epoch 9", math.nan, "div (1/1)")],
)
def test_epoch_rules(tmp_path: Path, rule: str, accuracy: float, shown: str) -> None:
    suite = one_seed(tmp_path, ("set: {method: one_hot}}", f"set: {{method: one_hot}}, epoch: {rule}}}"))
    for place in suite.names:
        done_run(suite.folder(*place), accuracy=accuracy, best_val=0.8)
    files = suite.make()
    assert cell(files.page, "One-hot", 1).strip("*") == shown
    assert cell(files.page, "Instance", 1).strip("*") == ("div (1/1)" if math.isnan(accuracy) else "90.0")
    assert "- The row One-hot: " in files.page or "- The row Instance: " in files.page
    assert [line["epoch_rule"] for line in csv_rows(files, "cells.csv")] == [rule, rule, "last", "last"]


def test_lower_is_better_and_printed_ties_share_the_bold(tmp_path: Path) -> None:
    suite = one_seed(tmp_path, ("better: higher", "better: lower"))
    for row, column, seed in suite.names:
        low = {"Clean": 0.50001 if row == "One-hot" else 0.50002, "40%": 0.4 if row == "One-hot" else 0.6}[column]
        done_run(suite.folder(row, column, seed), accuracy=low)
    page = suite.make().page
    assert [cell(page, row, 1) for row in VALUES] == ["**50.0**", "**50.0**"]
    assert [cell(page, row, 2) for row in VALUES] == ["**40.0**", "60.0"]


def test_a_cell_that_is_left_out_says_why_and_labels_cannot_break_the_grid(tmp_path: Path) -> None:
    text = SPEC.replace("label: One-hot", "label: 'One|hot'") + "cells: [{row: Instance, column: Clean, skip: nothing to learn}]\n"
    page = Suite(tmp_path, text).make().page
    assert cell(page, "Instance", 1) == "—"
    assert "- Left out: Instance, Clean: nothing to learn\n" in page
    grid = [line for line in page.splitlines() if line.startswith("|")]
    assert "| One\\|hot" in grid[2]
    assert len({len(line) for line in grid}) == 1


def test_what_the_runs_of_a_page_differ_in_is_counted(suite: Suite) -> None:
    fill(suite, ("Instance", "Clean", 0))
    done_run(suite.folder("Instance", "Clean", 0), accuracy=0.95, sha="f" * 40, ended="2025-02-02T03:04:05Z")
    assert "the runs differ in code (2);" in suite.make().page
    facts = {"device": "cpu", "processor": "Abacus", "threads": 1}
    for index, place in enumerate(suite.names):
        attempts = [{"facts": facts | {"threads": 2}}] * (index == 1) + [{"facts": facts}]
        execution = {"precision": "bfloat16" if index == 2 else "float32", "channels_last": index == 2, "label_gradient": "precision"}
        values = {"attempts": attempts, "execution": execution}
        change(suite.folder(*place), "provenance.json", values | ({"earlier_git": [{"sha": "e" * 40}]} if index == 3 else {}))
    made_with = json.loads(suite.make().contents["tried.provenance.json"])["made_with"]
    assert made_with == {
        "code": {"0123456789ab": 10, "eeeeeeeeeeee, then 0123456789ab": 1, "ffffffffffff": 1},
        "torch": {"2.15.0": 12},
        "machine": {"processor Abacus, threads 1": 11, "processor Abacus, threads 2, then processor Abacus, threads 1": 1},
        "execution": {"channels_last True, precision bfloat16": 1, "float32": 11},
    }


def test_untuned_values_and_ends_of_grids_are_named(tmp_path: Path) -> None:
    tuning = "tuning: {rate: {grid: {optim.learning_rate: [0.1, 0.2]}, otherwise: {optim.learning_rate: 0.1}}}\n"
    text = SPEC.replace("label: Instance, ", "label: Instance, tuned: rate, ").replace(
        "noise: none}", "noise: none, dataset: digits, model: mlp}"
    )
    suite = Suite(tmp_path, text.replace("noise: uniform}", "noise: uniform, dataset: digits, model: mlp}") + tuning)
    plan_by_hand(suite.spec, suite.scale, suite.runs, tuned=False)
    path = suite.runs / "plans" / "tried.json"
    plan = json.loads(path.read_text())
    plan["cells"][0]["at_end"] = ["optim.learning_rate=0.2 (rate for digits, mlp)"]
    path.write_text(json.dumps(plan))
    page = suite.make().page
    assert "until it is: rate for digits, mlp: Instance, Clean; Instance, 40%.\n" in page
    assert "may lie beyond: optim.learning_rate=0.2 (rate for digits, mlp): One-hot, Clean.\n" in page


def test_the_command(suite: Suite, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(suite)
    out = tmp_path / "out"
    assert main(["tables", str(suite.path), "--runs", str(suite.runs), "--out", str(out)]) == 0
    written = capsys.readouterr().out
    assert "**96.0 ± 1.7 †**" in written
    assert f"  {out / 'tried' / 'tried.md'}" in written
    for arguments, message in (
        (["tables", "dmo"], "Did you mean 'demo'?"),
        (["tables", str(suite.path), "--out", str(suite.path)], "cannot be written"),
    ):
        assert main([*arguments, "--runs", str(suite.runs)]) == 2
        assert message in capsys.readouterr().err
