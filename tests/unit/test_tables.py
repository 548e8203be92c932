from __future__ import annotations

import csv
import json
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_folders import done_run, ended_run, plan_by_hand

from analysis.__main__ import main
from analysis.page import Files
from analysis.stats import render, rounded, summarize
from analysis.tables import make_table
from repro.errors import UserError
from repro.files import read_json, write_json
from repro.manifest import seal
from sweeps.plan import make_plan, write_plans
from sweeps.spec import TableSpec, load_spec

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


class Suite:
    """A spec, its plan, and a folder for its runs, all finished unless a test says otherwise."""

    def __init__(self, folder: Path, text: str = SPEC) -> None:
        self.path = folder / "tried.yaml"
        self.path.write_text(text)
        self.runs = folder / "runs"
        spec = load_spec(str(self.path))
        assert isinstance(spec, TableSpec)
        self.spec = spec
        self.names = plan_by_hand(spec, self.runs)

    def folder(self, row: str, column: str, seed: int) -> Path:
        return self.runs / self.names[row, column, seed]

    def fill(self, *but: tuple[str, str, int]) -> None:
        for row, column, seed in self.names:
            if (row, column, seed) not in but:
                done_run(self.folder(row, column, seed), accuracy=VALUES[row][seed])

    def make(self) -> Files:
        return make_table(self.spec, self.runs)


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return Suite(tmp_path)


def cell(page: str, row: str, column: int) -> str:
    line = next(line for line in page.splitlines() if line.startswith(f"| {row}"))
    return line.split("|")[column + 1].strip()


def rows_of(files: Files, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(files.contents[f"tried.{name}.csv"].decode().splitlines()))


def test_a_full_table(suite: Suite) -> None:
    suite.fill()
    files = suite.make()
    page = files.page
    assert page.startswith("# A table\n\nWhat it shows.\n\n|")
    assert cell(page, "One-hot", 1) == "91.0 ± 1.0"
    assert cell(page, "Instance", 2) == "**96.0 ± 1.7 †**"
    assert "- Value: `test/accuracy`, in percent, after the last epoch (`last`)." in page
    assert "sample standard deviation over seed" in page
    assert "n = 3 runs a cell" in page
    assert "- Filled: 12 of 12 runs are done.\n" in page
    assert "- Code: commit 0123456789ab.\n" in page
    assert "- PyTorch 2.15.0, cpu (abacus): 12 runs." in page
    assert "- Newest run: 2025-01-02T03:04:05Z." in page
    assert "- Cost: 0.12 hours of wall time, 0.00 GPU-hours" in page
    assert "`python -m sweeps run tried.yaml`, then `python -m analysis tables tried.yaml`" in page
    assert "(n/N)" not in page
    assert "div" not in page


def test_the_csvs_and_the_provenance_have_full_precision(suite: Suite) -> None:
    suite.fill(("One-hot", "Clean", 0))
    precise = 0.1 + 0.2
    done_run(suite.folder("One-hot", "Clean", 0), accuracy=precise, dirty="d" * 64)
    files = suite.make()
    runs, cells = rows_of(files, "runs"), rows_of(files, "cells")
    assert len(runs) == 12
    assert float(runs[0]["value"]) == precise
    assert (runs[0]["row"], runs[0]["column"], runs[0]["seed"], runs[0]["run_id"]) == ("One-hot", "Clean", "0", "One-hot-Clean-0")
    assert (runs[0]["state"], runs[0]["dirty_sha256"], runs[0]["wall_s"]) == ("done", "d" * 64, "36.0")
    assert len(cells) == 4
    assert float(cells[0]["mean"]) == math.fsum([precise, 0.91, 0.92]) / 3
    assert float(cells[0]["sd"]) == statistics.stdev([precise, 0.91, 0.92])
    provenance = json.loads(files.contents["tried.provenance.json"])
    first = provenance["cells"][0]
    assert [run["run_id"] for run in first["runs"]] == ["One-hot-Clean-0", "One-hot-Clean-1", "One-hot-Clean-2"]
    assert [run["value"] for run in first["runs"]] == [precise, 0.91, 0.92]
    assert first["runs"][0]["git"]["sha"].startswith("0123456789ab")
    assert provenance["spec_sha256"] == suite.spec.sha256


def test_a_missing_run_is_visible_and_named(suite: Suite) -> None:
    suite.fill(("Instance", "Clean", 1))
    page = suite.make().page
    assert cell(page, "Instance", 1) == "96.5 ± 2.1 (2/3)"
    # An incomplete cell is never the best one, and where only one is complete there is nothing to compare.
    assert "**" not in cell(page, "One-hot", 1)
    assert cell(page, "Instance", 2).startswith("**")
    assert "- Filled: 11 of 12 runs are done; 1 missing:\n  - missing: Instance, Clean, seed=1 (`Instance-Clean-1`): not started\n" in page
    assert "(n/N): only n of the cell's N runs are done" in page


def test_one_run_has_no_spread_and_none_is_a_dash(suite: Suite) -> None:
    done_run(suite.folder("One-hot", "Clean", 2), accuracy=0.5)
    page = suite.make().page
    assert cell(page, "One-hot", 1) == "50.0 (1/3)"
    assert cell(page, "One-hot", 2) == "— (0/3)"
    assert "Filled: 1 of 12 runs are done; 11 missing" in page


def test_nothing_done_is_a_table_of_dashes(suite: Suite) -> None:
    page = suite.make().page
    assert cell(page, "Instance", 2) == "— (0/3)"
    assert "Newest run" not in page
    assert "Filled: 0 of 12 runs are done" in page


@pytest.mark.parametrize(
    ("state", "shown", "problem"),
    [("failed", "failed", "ValueError: a b"), ("running", "unfinished", "running"), ("preempted", "unfinished", "preempted")],
)
def test_a_run_that_is_not_done_gives_no_number(suite: Suite, state: str, shown: str, problem: str) -> None:
    place = ("One-hot", "40%", 0)
    suite.fill(place)
    ended_run(suite.folder(*place), state, error="ValueError: a\n b")
    # Half-written results of a run that is not done are not looked at.
    write_json(suite.folder(*place) / "final.json", {"test/accuracy": {"last": 0.0}})
    page = suite.make().page
    assert cell(page, "One-hot", 2) == "91.5 ± 0.7 (2/3)"
    assert f"11 of 12 runs are done; 1 {shown}:\n  - {shown}: One-hot, 40%, seed=0 (`One-hot-40-0`): {problem}\n" in page


def test_a_diverged_run_is_not_dropped(suite: Suite) -> None:
    places = [("Instance", "Clean", 0), ("Instance", "40%", 0), ("Instance", "40%", 1)]
    suite.fill(*places)
    done_run(suite.folder(*places[0]), accuracy=math.nan)
    done_run(suite.folder(*places[1]), accuracy=math.inf)
    files = suite.make()
    assert cell(files.page, "Instance", 1) == "div (1/3)"
    assert cell(files.page, "Instance", 2) == "div (1/2), (2/3)"
    assert "**" not in cell(files.page, "One-hot", 1)
    assert "div (d/n): d of the cell's n finished runs diverged" in files.page
    assert [row["value"] for row in rows_of(files, "runs")][6:10] == ["NaN", "0.95", "0.98", "inf"]
    assert rows_of(files, "cells")[2]["mean"] == "NaN"
    assert '"mean": "NaN"' in files.contents["tried.provenance.json"].decode()


def test_runs_of_several_commits_are_said_to_be(suite: Suite) -> None:
    places = [("Instance", "Clean", 0), ("Instance", "40%", 0)]
    suite.fill(*places)
    done_run(suite.folder(*places[0]), accuracy=0.95, sha="f" * 40, ended="2025-02-02T03:04:05Z")
    done_run(suite.folder(*places[1]), accuracy=0.95, dirty="d" * 64)
    page = suite.make().page
    assert "**Mixed code**: the runs come from 3 states of the code" in page
    assert "  - commit 0123456789ab: 10 runs\n" in page
    assert f"  - commit 0123456789ab with uncommitted changes (sha256 {'d' * 12}): 1 run\n" in page
    assert "  - commit ffffffffffff: 1 run\n" in page
    assert "- Newest run: 2025-02-02T03:04:05Z." in page


def test_a_run_that_was_lost_is_named_with_its_last_sign_of_life(suite: Suite) -> None:
    suite.fill(("One-hot", "Clean", 0))
    ended_run(suite.folder("One-hot", "Clean", 0), "running")
    path = suite.folder("One-hot", "Clean", 0) / "status.json"
    write_json(path, {**read_json(path), "epoch": 7, "epochs": 60, "heartbeat": "2025-01-02T03:04:05Z"})
    page = suite.make().page
    assert (
        "- unfinished: One-hot, Clean, seed=0 (`One-hot-Clean-0`): running, after 7 of 60 epochs, last sign of life 2025-01-02T03:04:05Z\n"
        in page
    )


def test_two_runs_for_one_place_are_refused(suite: Suite) -> None:
    path = suite.runs / "plans" / "tried.json"
    plan = read_json(path)
    plan["cells"][1]["runs"][2]["repeat"] = {"seed": 0}
    write_json(path, plan)
    with pytest.raises(UserError, match=r"tried.json: two runs are planned for One-hot, 40%, seed=0. Call: python -m sweeps plan"):
        suite.make()


def test_runs_executed_otherwise_are_told_apart(suite: Suite) -> None:
    suite.fill()
    exact = {"precision": "float32", "allow_tf32": False, "channels_last": False, "compile": False, "cuda_graphs": False}
    for index, place in enumerate(suite.names):
        path = suite.folder(*place) / "provenance.json"
        execution = exact if index else exact | {"precision": "bfloat16", "cuda_graphs": True}
        write_json(path, {**read_json(path), "execution": execution})
        seal(path.parent)
    page = suite.make().page
    assert "- PyTorch 2.15.0, cpu (abacus): 11 runs.\n" in page
    assert "- PyTorch 2.15.0, cpu (abacus), bfloat16, cuda graphs: 1 run.\n" in page


def on(processor: str, **more: object) -> dict[str, object]:
    """An attempt on a processor."""
    return {"count": 1, "facts": {"device": "cpu", "processor": processor, "cpu_capability": "AVX2", "threads": 1} | more}


def test_runs_on_several_machines_are_told_apart(suite: Suite) -> None:
    suite.fill()
    without = suite.make().page
    paths = [suite.folder(*place) / "provenance.json" for place in suite.names]
    for path in paths[1:]:
        write_json(path, {**read_json(path), "attempts": [on("Abacus")]})
        seal(path.parent)
    # One kind of machine, and a run that does not say: nothing to tell.
    assert suite.make().page == without
    for path, attempt in ((paths[1], on("Abacus", threads=2)), (paths[2], on("Slide rule", cpu_capability="AVX512"))):
        write_json(path, {**read_json(path), "attempts": [attempt]})
        seal(path.parent)
    gpu = {"count": 1, "facts": {"device": "cuda", "gpu": "Brain", "driver": "1.2", "cuda": "13.2", "cudnn": 92600, "processor": "Abacus"}}
    write_json(paths[3], {**read_json(paths[3]), "attempts": [on("Abacus"), gpu]})
    seal(paths[3].parent)
    assert (
        "- **Mixed machines**: the runs were computed in ways that differ in their last bits:\n"
        "  - Abacus, AVX2, 1 thread: 8 runs\n"
        "  - Abacus, AVX2, 2 threads: 1 run\n"
        "  - Brain, driver 1.2, CUDA 13.2, cuDNN 92600: 1 run\n"
        "  - Slide rule, AVX512, 1 thread: 1 run\n"
        "- **Mixed machines**: 1 run began on another machine than the one counted, and went on there.\n"
    ) in suite.make().page


def test_a_run_that_went_on_with_other_code_is_said_to_have(suite: Suite) -> None:
    suite.fill()
    assert "Mixed code" not in suite.make().page
    path = suite.folder("One-hot", "Clean", 0) / "provenance.json"
    write_json(path, {**read_json(path), "earlier_git": [{"sha": "e" * 40, "dirty_sha256": None}]})
    seal(path.parent)
    said = "- **Mixed code**: 1 run began on other states of the code and went on with this one: commit eeeeeeeeeeee.\n"
    assert said in suite.make().page


def test_foreign_and_damaged_folders_give_no_number(suite: Suite) -> None:
    suite.fill()
    write_json(suite.folder("One-hot", "Clean", 0) / "identity.json", {"schema": 1, "run_id": "another", "fields": {}})
    seal(suite.folder("One-hot", "Clean", 0))
    write_json(suite.folder("One-hot", "40%", 0) / "identity.json", {"schema": 2})
    seal(suite.folder("One-hot", "40%", 0))
    (suite.folder("One-hot", "Clean", 1) / "final.json").write_text("{")
    (suite.folder("One-hot", "Clean", 2) / "status.json").write_text("")
    (suite.folder("Instance", "Clean", 0) / "final.json").write_text("[1]")
    seal(suite.folder("Instance", "Clean", 0))
    page = suite.make().page
    assert cell(page, "One-hot", 1) == "— (0/3)"
    assert cell(page, "Instance", 1) == "96.5 ± 2.1 (2/3)"
    assert "One-hot, Clean, seed=0 (`One-hot-Clean-0`): the folder holds another run, another" in page
    assert "One-hot, 40%, seed=0 (`One-hot-40-0`): its layout is 2, this code reads 1" in page
    assert "One-hot, Clean, seed=1 (`One-hot-Clean-1`): run One-hot-Clean-1:" in page
    assert "status.json cannot be read" in page


def test_a_users_other_runs_are_never_in_a_table(suite: Suite) -> None:
    suite.fill()
    before = suite.make().contents
    done_run(suite.runs / "one_hot-digits-000000000000", accuracy=0.1)
    assert suite.make().contents == before


def test_a_plan_that_is_absent_or_of_another_spec_is_refused(suite: Suite) -> None:
    suite.path.write_text(SPEC.replace("A table", "Another"))
    changed = load_spec(str(suite.path))
    assert isinstance(changed, TableSpec)
    with pytest.raises(UserError, match=r"another version of .*tried\.yaml\. Call: python -m sweeps plan tried\.yaml"):
        make_table(changed, suite.runs)
    plan = suite.runs / "plans" / "tried.json"
    write_json(plan, {"schema": 2, "spec_sha256": suite.spec.sha256})
    with pytest.raises(UserError, match="layout 2"):
        suite.make()
    plan.write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        suite.make()
    plan.unlink()
    with pytest.raises(UserError, match="there is no plan"):
        suite.make()


def test_epoch_rules(tmp_path: Path) -> None:
    for index, (rule, shown) in enumerate({"best_val": "80.0", "epoch 1": "45.0", "epoch 9": "—"}.items()):
        folder = tmp_path / str(index)
        folder.mkdir()
        suite = Suite(folder, SPEC.replace("epoch: last", f"epoch: {rule}").replace("[0, 1, 2]", "[0]"))
        for place in suite.names:
            done_run(suite.folder(*place), accuracy=0.9, best_val=0.8)
        page = suite.make().page
        assert cell(page, "One-hot", 1).strip("*") == (shown if shown != "—" else "— (0/1)")
        assert ("Not measured: One-hot, Clean: seed=0 ran without `test/accuracy` there" in page) == (shown == "—")


def test_a_run_that_diverged_before_the_epoch_has_diverged_there(tmp_path: Path) -> None:
    suite = Suite(tmp_path, SPEC.replace("epoch: last", "epoch: epoch 9").replace("[0, 1, 2]", "[0]"))
    for place in suite.names:
        done_run(suite.folder(*place), accuracy=math.nan)
    assert cell(suite.make().page, "One-hot", 1) == "div (1/1)"


def test_lower_is_better_and_printed_ties_share_the_bold(tmp_path: Path) -> None:
    suite = Suite(tmp_path, SPEC.replace("better: higher", "better: lower").replace("[0, 1, 2]", "[0]"))
    for row, column, seed in suite.names:
        low = {"Clean": 0.50001 if row == "One-hot" else 0.50002, "40%": 0.4 if row == "One-hot" else 0.6}[column]
        done_run(suite.folder(row, column, seed), accuracy=low)
    page = suite.make().page
    assert [cell(page, row, 1) for row in VALUES] == ["**50.0**", "**50.0**"]
    assert [cell(page, row, 2) for row in VALUES] == ["**40.0**", "60.0"]


def test_a_cell_that_is_left_out_says_why(tmp_path: Path) -> None:
    suite = Suite(tmp_path, SPEC + "cells: [{row: Instance, column: Clean, skip: nothing to learn}]\n")
    suite.fill()
    page = suite.make().page
    assert cell(page, "Instance", 1) == "—"
    assert "- Left out: Instance, Clean: nothing to learn\n" in page


def test_a_cell_whose_method_is_not_built_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeps.graph.ANNOUNCED", ("soon",))
    text = SPEC.replace("instance_labels", "soon").replace("uniform}", "uniform, noise.rate: 0.4}") + "common: {dataset: digits}\n"
    suite = Suite(tmp_path, text)
    plan = make_plan([suite.spec], suite.runs)
    write_plans(plan)
    for name in plan.runs:
        done_run(suite.runs / name, accuracy=0.9)
    page = suite.make().page
    assert cell(page, "Instance", 1) == "—"
    assert "- Left out: Instance, Clean: not built: soon\n" in page
    assert "- Filled: 6 of 6 runs are done." in page


def test_a_row_may_be_read_at_an_epoch_of_its_own(tmp_path: Path) -> None:
    text = SPEC.replace("set: {method: one_hot}}", "set: {method: one_hot}, epoch: best_val}").replace("[0, 1, 2]", "[0]")
    suite = Suite(tmp_path, text)
    for place in suite.names:
        done_run(suite.folder(*place), accuracy=0.9, best_val=0.8)
    files = suite.make()
    assert [cell(files.page, row, 2).strip("*") for row in VALUES] == ["80.0", "90.0"]
    assert "after the last epoch (`last`).\n- The row One-hot: at the epoch of the best validation accuracy" in files.page
    assert [line["epoch_rule"] for line in rows_of(files, "runs")] == ["best_val", "best_val", "last", "last"]
    assert [line["epoch_rule"] for line in rows_of(files, "cells")] == ["best_val", "best_val", "last", "last"]


def test_labels_cannot_break_the_grid(tmp_path: Path) -> None:
    suite = Suite(tmp_path, SPEC.replace("label: One-hot", "label: 'One|hot'"))
    page = suite.make().page
    grid = [line for line in page.splitlines() if line.startswith("|")]
    assert "| One\\|hot" in grid[2]
    assert len({len(line) for line in grid}) == 1


def test_the_same_bytes_whatever_the_folder_locale_time_zone_and_hash_seed(suite: Suite, tmp_path: Path) -> None:
    suite.fill(("One-hot", "Clean", 1))
    made = []
    for index, (locale, zone) in enumerate([("C", "UTC"), ("en_US.ISO-8859-1", "Asia/Tokyo")]):
        cwd = tmp_path / f"cwd{index}"
        cwd.mkdir()
        command = [sys.executable, "-m", "analysis", "tables", str(suite.path), "--runs", os.path.relpath(suite.runs, cwd), "--out", "out"]
        environment = os.environ | {
            "LC_ALL": locale,
            "TZ": zone,
            "PYTHONHASHSEED": str(index),
            "PYTHONUTF8": str(index),
            "PYTHONCOERCECLOCALE": "0",
        }
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        made.append({path.name: path.read_bytes() for path in sorted((cwd / "out" / "tried").iterdir())})
    assert made[0] == made[1]
    assert list(made[0]) == ["tried.cells.csv", "tried.md", "tried.provenance.json", "tried.runs.csv", "tried.tex"]


def test_the_command(suite: Suite, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite.fill()
    out = tmp_path / "out"
    assert main(["tables", str(suite.path), "--runs", str(suite.runs), "--out", str(out)]) == 0
    written = capsys.readouterr().out
    assert "**96.0 ± 1.7 †**" in written
    assert f"  {out / 'tried' / 'tried.md'}" in written
    assert main(["tables", str(suite.path), "--runs", str(suite.runs)]) == 0
    assert f"  {suite.runs / 'pages' / 'tried' / 'tried.md'}" in capsys.readouterr().out
    assert main(["figures", str(suite.path), "--runs", str(suite.runs), "--out", str(out)]) == 2
    assert "is not one of the figures. Call: python -m analysis tables" in capsys.readouterr().err
    assert main(["tables", "dmo", "--runs", str(suite.runs)]) == 2
    assert "Did you mean 'demo'?" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main(["tables", str(suite.path), "--runs", str(suite.runs), "--out", str(tmp_path / "file")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_the_papers_tables_lie_in_the_folder_itself(suite: Suite, tmp_path: Path) -> None:
    text = suite.path.read_text()
    (tmp_path / "table1.yaml").write_text(text)
    spec = load_spec(str(tmp_path / "table1.yaml"))
    plan_by_hand(spec, suite.runs)
    assert isinstance(spec, TableSpec)
    assert make_table(spec, suite.runs).write(tmp_path / "out")[0] == tmp_path / "out" / "table1.md"


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=6), st.randoms())
def test_a_summary_does_not_depend_on_the_order(values: list[float], random: object) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
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
