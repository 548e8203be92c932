"""Tables: cells, what is missing, and runs of several states of the code, ways of execution or machines."""

import json
import math
import statistics
from pathlib import Path
from typing import Any

import pytest
from made_tables import SPEC, VALUES, cell, fill, one_seed
from run_folders import Suite, change, csv_rows, done_run, ended_run, made_twice

from analysis.__main__ import main
from analysis.tables.page import Files
from repro.errors import UserError
from repro.files import write_json
from repro.runs.manifest import seal
from sweeps.spec.load import load_spec


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return Suite(tmp_path, SPEC)


def test_a_full_table(suite: Suite) -> None:
    fill(suite)
    files = suite.make()
    page = files.page
    assert page.startswith("# A table\n\nWhat it shows.\n\n|")
    assert cell(page, "One-hot", 1) == "91.0 ± 1.0"
    assert cell(page, "Instance", 2) == "**96.0 ± 1.7 †**"
    assert "- Value: `test/accuracy`, in percent, after the last epoch (`last`)." in page
    assert "sample standard deviation over seed" in page
    assert "n = 3 runs a cell" in page
    assert "- Runs: 12 of 12 are done.\n" in page
    assert "- Code: commit 0123456789ab.\n" in page
    assert "- PyTorch 2.15.0, cpu (abacus): 12 runs." in page
    assert "- Newest run: 2025-01-02T03:04:05Z." in page
    assert "- Cost: 0.12 hours of wall time, 0.00 GPU-hours" in page
    assert "`python -m sweeps run tried.yaml`, then `python -m analysis tables tried.yaml`" in page
    assert "(n/N)" not in page
    assert "div" not in page


def test_the_csvs_and_the_provenance_have_full_precision(suite: Suite) -> None:
    fill(suite, ("One-hot", "Clean", 0))
    precise = 0.1 + 0.2
    done_run(suite.folder("One-hot", "Clean", 0), accuracy=precise, dirty="d" * 64)
    files = suite.make()
    runs, cells = csv_rows(files, "runs.csv"), csv_rows(files, "cells.csv")
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


def test_an_interval_ends_where_no_accuracy_can_be(suite: Suite) -> None:
    """Of three runs the t interval is 2.5 standard deviations wide on either side."""
    for seed, accuracy in enumerate((0.9, 0.95, 1.0)):
        done_run(suite.folder("One-hot", "Clean", seed), accuracy=accuracy)
        done_run(suite.folder("Instance", "Clean", seed), accuracy=1.0 - accuracy)
    cells = {row["row"]: row for row in csv_rows(suite.make(), "cells.csv") if row["column"] == "Clean"}
    assert (cells["One-hot"]["interval_high"], cells["Instance"]["interval_low"]) == ("1.0", "0.0")
    assert float(cells["One-hot"]["interval_low"]) == pytest.approx(1.0 - float(cells["Instance"]["interval_high"]))


def test_a_missing_run_is_visible_and_named(suite: Suite) -> None:
    fill(suite, ("Instance", "Clean", 1))
    page = suite.make().page
    assert cell(page, "Instance", 1) == "96.5 ± 2.1 (2/3)"
    # An incomplete cell is never the best one, and where only one is complete there is nothing to compare.
    assert "**" not in cell(page, "One-hot", 1)
    assert cell(page, "Instance", 2).startswith("**")
    assert "- Runs: 11 of 12 are done; 1 missing:\n  - missing: Instance, Clean, seed=1 (`Instance-Clean-1`): not started\n" in page
    assert "(n/N): only n of the cell's N runs are done" in page


def test_one_run_has_no_spread_and_none_is_a_dash(suite: Suite) -> None:
    page = suite.make().page
    assert "Newest run" not in page
    assert "Runs: 0 of 12 are done" in page
    done_run(suite.folder("One-hot", "Clean", 2), accuracy=0.5)
    page = suite.make().page
    assert cell(page, "One-hot", 1) == "50.0 (1/3)"
    assert cell(page, "Instance", 2) == "— (0/3)"
    assert "Runs: 1 of 12 are done; 11 missing" in page


LOST = {"epoch": 7, "epochs": 60, "heartbeat": "2025-01-02T03:04:05Z"}


@pytest.mark.parametrize(
    ("state", "more", "shown", "problem"),
    [
        ("failed", {}, "failed", "ValueError: a b"),
        ("preempted", {}, "unfinished", "preempted"),
        ("running", LOST, "unfinished", "running, after 7 of 60 epochs, last sign of life 2025-01-02T03:04:05Z"),
    ],
)
def test_a_run_that_is_not_done_gives_no_number(suite: Suite, state: str, more: dict[str, Any], shown: str, problem: str) -> None:
    place = ("One-hot", "40%", 0)
    fill(suite, place)
    ended_run(suite.folder(*place), state, error="ValueError: a\n b")
    change(suite.folder(*place), "status.json", more)
    # Half-written results of a run that is not done are not looked at.
    write_json(suite.folder(*place) / "final.json", {"test/accuracy": {"last": 0.0}})
    page = suite.make().page
    assert cell(page, "One-hot", 2) == "91.5 ± 0.7 (2/3)"
    assert f"11 of 12 are done; 1 {shown}:\n  - {shown}: One-hot, 40%, seed=0 (`One-hot-40-0`): {problem}\n" in page


def test_a_diverged_run_is_not_dropped(suite: Suite) -> None:
    places = [("Instance", "Clean", 0), ("Instance", "40%", 0), ("Instance", "40%", 1)]
    fill(suite, *places)
    done_run(suite.folder(*places[0]), accuracy=math.nan)
    done_run(suite.folder(*places[1]), accuracy=math.inf)
    files = suite.make()
    assert cell(files.page, "Instance", 1) == "div (1/3)"
    assert cell(files.page, "Instance", 2) == "div (1/2), (2/3)"
    assert "**" not in cell(files.page, "One-hot", 1)
    assert "div (d/n): d of the cell's n finished runs diverged" in files.page
    assert [row["value"] for row in csv_rows(files, "runs.csv")][6:10] == ["NaN", "0.95", "0.98", "inf"]
    assert csv_rows(files, "cells.csv")[2]["mean"] == "NaN"
    assert '"mean": "NaN"' in files.contents["tried.provenance.json"].decode()


def test_foreign_and_damaged_folders_give_no_number(suite: Suite) -> None:
    fill(suite)
    change(suite.folder("One-hot", "Clean", 0), "identity.json", {"run_id": "another"})
    change(suite.folder("One-hot", "40%", 0), "identity.json", {"schema": 2})
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
    fill(suite)
    before = suite.make().contents
    done_run(suite.runs / "one_hot-digits-000000000000", accuracy=0.1)
    assert suite.make().contents == before


def test_a_plan_that_is_absent_or_of_another_spec_is_refused(suite: Suite) -> None:
    plan = suite.runs / "plans" / "tried.json"
    for text, message in (
        (json.dumps({"schema": 1, "spec_sha256": "0"}), r"another version of .*tried\.yaml\. Call: python -m sweeps plan tried\.yaml"),
        (json.dumps({"schema": 2, "spec_sha256": suite.spec.sha256}), "layout 2"),
        ("{", "cannot be read"),
    ):
        plan.write_text(text)
        with pytest.raises(UserError, match=message):
            suite.make()
    plan.unlink()
    with pytest.raises(UserError, match="there is no plan"):
        suite.make()


@pytest.mark.parametrize(
    ("rule", "accuracy", "shown"),
    [("best_val", 0.9, "80.0"), ("epoch 1", 0.9, "45.0"), ("epoch 9", 0.9, "— (0/1)"), ("epoch 9", math.nan, "div (1/1)")],
)
def test_epoch_rules(tmp_path: Path, rule: str, accuracy: float, shown: str) -> None:
    suite = one_seed(tmp_path, ("epoch: last", f"epoch: {rule}"))
    for place in suite.names:
        done_run(suite.folder(*place), accuracy=accuracy, best_val=0.8)
    page = suite.make().page
    assert cell(page, "One-hot", 1).strip("*") == shown
    assert ("Not measured: One-hot, Clean: seed=0 finished without `test/accuracy` at that epoch" in page) == shown.startswith("—")


def test_lower_is_better_and_printed_ties_share_the_bold(tmp_path: Path) -> None:
    suite = one_seed(tmp_path, ("better: higher", "better: lower"))
    for row, column, seed in suite.names:
        low = {"Clean": 0.50001 if row == "One-hot" else 0.50002, "40%": 0.4 if row == "One-hot" else 0.6}[column]
        done_run(suite.folder(row, column, seed), accuracy=low)
    page = suite.make().page
    assert [cell(page, row, 1) for row in VALUES] == ["**50.0**", "**50.0**"]
    assert [cell(page, row, 2) for row in VALUES] == ["**40.0**", "60.0"]


def test_a_cell_that_is_left_out_says_why(tmp_path: Path) -> None:
    suite = Suite(tmp_path, SPEC + "cells: [{row: Instance, column: Clean, skip: nothing to learn}]\n")
    fill(suite)
    page = suite.make().page
    assert cell(page, "Instance", 1) == "—"
    assert "- Left out: Instance, Clean: nothing to learn\n" in page


def test_a_row_may_be_read_at_an_epoch_of_its_own(tmp_path: Path) -> None:
    suite = one_seed(tmp_path, ("set: {method: one_hot}}", "set: {method: one_hot}, epoch: best_val}"))
    for place in suite.names:
        done_run(suite.folder(*place), accuracy=0.9, best_val=0.8)
    files = suite.make()
    assert [cell(files.page, row, 2).strip("*") for row in VALUES] == ["80.0", "90.0"]
    assert "after the last epoch (`last`).\n- The row One-hot: at the epoch of the best validation accuracy" in files.page
    assert [line["epoch_rule"] for line in csv_rows(files, "runs.csv")] == ["best_val", "best_val", "last", "last"]
    assert [line["epoch_rule"] for line in csv_rows(files, "cells.csv")] == ["best_val", "best_val", "last", "last"]


def test_labels_cannot_break_the_grid(tmp_path: Path) -> None:
    suite = Suite(tmp_path, SPEC.replace("label: One-hot", "label: 'One|hot'"))
    page = suite.make().page
    grid = [line for line in page.splitlines() if line.startswith("|")]
    assert "| One\\|hot" in grid[2]
    assert len({len(line) for line in grid}) == 1


def test_the_same_bytes_whatever_the_folder_locale_time_zone_and_hash_seed(suite: Suite) -> None:
    fill(suite, ("One-hot", "Clean", 1))
    made = made_twice(suite, "tables", ("C", "en_US.ISO-8859-1"))
    assert list(made) == ["tried.cells.csv", "tried.md", "tried.provenance.json", "tried.runs.csv", "tried.tex"]


def test_the_command(suite: Suite, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(suite)
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


def test_the_papers_tables_lie_in_the_folder_itself() -> None:
    assert Files(load_spec("table1"), {}).folder(Path("out")) == Path("out")
    assert Files(load_spec("demo"), {}).folder(Path("out")) == Path("out/demo")


def test_runs_of_several_commits_are_said_to_be(suite: Suite) -> None:
    places = [("Instance", "Clean", 0), ("Instance", "40%", 0)]
    fill(suite, *places)
    done_run(suite.folder(*places[0]), accuracy=0.95, sha="f" * 40, ended="2025-02-02T03:04:05Z")
    done_run(suite.folder(*places[1]), accuracy=0.95, dirty="d" * 64)
    change(suite.folder("One-hot", "Clean", 0), "provenance.json", {"earlier_git": [{"sha": "e" * 40, "dirty_sha256": None}]})
    page = suite.make().page
    assert (
        "- **Mixed code**: the runs come from 3 versions of the code, so differences between them may be the code's:\n"
        "  - commit 0123456789ab: 10 runs\n"
        f"  - commit 0123456789ab with uncommitted changes (sha256 {'d' * 12}): 1 run\n"
        "  - commit ffffffffffff: 1 run\n"
        "- **Mixed code**: 1 run began with another version of the code (commit eeeeeeeeeeee) and resumed with this one.\n"
    ) in page
    assert "- Newest run: 2025-02-02T03:04:05Z." in page


def test_runs_executed_otherwise_are_told_apart(suite: Suite) -> None:
    fill(suite)
    exact = {"precision": "float32", "allow_tf32": False, "channels_last": False, "compile": False, "cuda_graphs": False}
    for index, place in enumerate(suite.names):
        execution = exact if index else exact | {"precision": "bfloat16", "cuda_graphs": True}
        change(suite.folder(*place), "provenance.json", {"execution": execution})
    page = suite.make().page
    assert "- PyTorch 2.15.0, cpu (abacus): 11 runs.\n" in page
    assert "- PyTorch 2.15.0, cpu (abacus), bfloat16, cuda graphs: 1 run.\n" in page
    assert cell(page, "One-hot", 1) == "91.0 ± 1.0 ‡"
    assert (
        "- ‡ One-hot, Clean: its runs were executed in different ways, which changes numbers: "
        "float32, one operation after another: 2 runs; bfloat16, cuda graphs: 1 run.\n"
    ) in page
    assert (page.count("‡"), suite.make().contents["tried.tex"].count(rb"$^{\ddagger}$")) == (2, 1)
    change(suite.folder("One-hot", "Clean", 1), "provenance.json", {"execution": exact | {"label_gradient": "float32"}})
    assert "label gradient in float32: 1 run" in suite.make().page
    # A whole cell in another way than the others is told apart by the list of software.
    for place in suite.names:
        if place[:2] == ("One-hot", "Clean"):
            change(suite.folder(*place), "provenance.json", {"execution": exact | {"allow_tf32": True}})
    assert "‡" not in suite.make().page


def test_a_cell_of_several_kinds_of_gpu_says_so(suite: Suite) -> None:
    fill(suite)

    def computed_on(seed: int, *gpus: str | None) -> None:
        attempts = [{"count": 1, "facts": {"device": "cuda", "gpu": gpu} if gpu else {"device": "cpu"}} for gpu in gpus]
        change(suite.folder("One-hot", "Clean", seed), "provenance.json", {"attempts": attempts})

    for seed in range(3):
        computed_on(seed, "A100")
    assert "‡" not in suite.make().page
    computed_on(1, "A100", "H100")
    computed_on(2, None)
    page = suite.make().page
    assert cell(page, "One-hot", 1) == "91.0 ± 1.0 ‡"
    assert (
        "- ‡ One-hot, Clean: its runs were computed on different GPUs, which changes the last digits: "
        "A100: 1 run; A100, then H100: 1 run; no GPU: 1 run.\n"
    ) in page
    # Also one that moved in the middle, as all of its cell did.
    for seed in range(3):
        computed_on(seed, "A100", "H100")
    assert "A100, then H100: 3 runs.\n" in suite.make().page


def on(processor: str, **more: object) -> dict[str, object]:
    """An attempt on a processor."""
    return {"count": 1, "facts": {"device": "cpu", "processor": processor, "cpu_capability": "AVX2", "threads": 1} | more}


def test_runs_on_several_machines_are_told_apart(suite: Suite) -> None:
    fill(suite)
    without = suite.make().page
    folders = [suite.folder(*place) for place in suite.names]
    for folder in folders[1:]:
        change(folder, "provenance.json", {"attempts": [on("Abacus")]})
    # One kind of machine, and a run that does not say: nothing to tell.
    assert suite.make().page == without
    gpu = {"count": 1, "facts": {"device": "cuda", "gpu": "Brain", "driver": "1.2", "cuda": "13.2", "cudnn": 92600, "processor": "Abacus"}}
    change(folders[1], "provenance.json", {"attempts": [on("Abacus", threads=2)]})
    change(folders[2], "provenance.json", {"attempts": [on("Slide rule", cpu_capability="AVX512")]})
    change(folders[3], "provenance.json", {"attempts": [on("Abacus"), gpu]})
    assert (
        "- **Mixed machines**: the runs come from different machines or thread counts, so the last digits may differ:\n"
        "  - Abacus, AVX2, 1 thread: 8 runs\n"
        "  - Abacus, AVX2, 2 threads: 1 run\n"
        "  - Brain, driver 1.2, CUDA 13.2, cuDNN 92600: 1 run\n"
        "  - Slide rule, AVX512, 1 thread: 1 run\n"
        "- **Mixed machines**: 1 run began on another machine; the last one is counted.\n"
    ) in suite.make().page
