import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from run_folders import change, done_run, write_rows

from analysis.__main__ import main
from analysis.reading.store import write_store
from repro.files import write_json


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    for index in range(3):
        mixed = (1, "auto", None)[index]
        fields = {"seed": index, "optim.milestones": [1, index], "method.name": "one_hot", "mixed": mixed}
        done_run(folder / f"run{index}", accuracy=0.8 + index / 100, fields=fields)
    return folder


def values(runs: Path) -> dict[tuple[str, int, str], float]:
    table = pd.read_parquet(runs / "collected" / "curves.parquet")
    return {(row.run_id, row.epoch, row.metric): row.value for row in table.itertuples()}


def test_a_row_for_each_run_with_its_settings_and_results(runs: Path) -> None:
    store = write_store(runs)
    assert (store.done, store.left_out) == (3, {})
    table = pd.read_parquet(store.runs).set_index("run_id")
    assert table["config.seed"].tolist() == [0, 1, 2]
    assert table["config.method.name"].tolist() == ["one_hot"] * 3
    assert [json.loads(text) for text in table["config.optim.milestones"]] == [[1, 0], [1, 1], [1, 2]]
    # Settings of several types become text.
    assert [None if pd.isna(value) else value for value in table["config.mixed"]] == ["1", '"auto"', None]
    assert table["final.test/accuracy.last"].tolist() == [0.80, 0.81, 0.8 + 2 / 100]
    assert table["torch"].tolist() == ["2.15.0"] * 3
    assert table["wall_s"].tolist() == [36.0] * 3


def test_a_row_for_each_run_epoch_and_metric(runs: Path) -> None:
    rows = [{"epoch": 0, "a/b": 0.5}, {"a/b": 0.25, "epoch": 1, "a/c": 3}, {"epoch": 2, "a/b": "NaN"}, {"epoch": 3, "a/b": "-Infinity"}]
    write_rows(runs / "run0", rows)
    write_store(runs)
    of_run0 = {key[1:]: value for key, value in values(runs).items() if key[0] == "run0"}
    assert math.isnan(of_run0.pop((2, "a/b")))
    assert of_run0 == {(0, "a/b"): 0.5, (1, "a/b"): 0.25, (1, "a/c"): 3.0, (3, "a/b"): -math.inf}


def test_a_second_call_writes_the_same_bytes(runs: Path) -> None:
    store = write_store(runs)
    before = store.runs.read_bytes(), store.curves.read_bytes()
    write_store(runs)
    assert (store.runs.read_bytes(), store.curves.read_bytes()) == before


def test_whatever_is_no_finished_run_is_named_and_left_out(runs: Path) -> None:
    write_json(runs / "run0" / "status.json", {"state": "failed", "error": "out of memory"})
    change(runs / "run1", "identity.json", {"schema": 7})
    (runs / "run2" / "metrics.jsonl").write_text('{"epoch": 0}\n{"epoch": 1, "a/b"\n')
    done_run(runs / "run4", accuracy=0.9)
    (runs / "run4" / "final.json").write_text('{"test/acc')
    done_run(runs / "run5", accuracy=0.9)
    (runs / "notes").mkdir()
    (runs / "plans").mkdir()
    store = write_store(runs)
    assert store.done == 1
    assert sorted(store.left_out) == ["notes", "run0", "run1", "run2", "run4"]
    assert store.left_out["run0"] == "failed: out of memory"
    assert "its layout is 7" in store.left_out["run1"]
    assert "metrics.jsonl" in store.left_out["run2"]
    assert "final.json is not what the run wrote" in store.left_out["run4"]
    assert pd.read_parquet(store.runs)["run_id"].tolist() == ["run5"]
    assert {name for name, _, _ in values(runs)} == {"run5"}


def test_no_run_at_all(tmp_path: Path) -> None:
    store = write_store(tmp_path)
    assert store.done == 0
    assert list(pd.read_parquet(store.runs).columns[:2]) == ["run_id", "git_sha"]
    assert len(pd.read_parquet(store.curves)) == 0


def test_the_command(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(runs / "run0" / "status.json", {"state": "failed", "error": "out of memory"})
    assert main(["collect", "--runs", str(runs)]) == 0
    shown = capsys.readouterr().out
    assert "2 runs\n" in shown
    assert "left out: run0: failed: out of memory" in shown
    assert main(["collect", "--runs", str(tmp_path / "nowhere")]) == 2
    assert "there is no such folder" in capsys.readouterr().err
    shutil.rmtree(runs / "collected")
    (runs / "collected").write_text("")
    assert main(["collect", "--runs", str(runs)]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_code_and_machine_are_columns_and_what_was_set_aside_is_no_run(runs: Path) -> None:
    facts = {"device": "cpu", "processor": "Abacus", "cpu_capability": "AVX2", "threads": 1}
    change(runs / "run1", "provenance.json", {"code": "c" * 64, "attempts": [{"count": 1, "facts": facts}]})
    (runs / "aside").mkdir()
    (runs / "run2").rename(runs / "aside" / "run2.1")
    store = write_store(runs)
    assert (store.done, store.left_out) == (2, {})
    table = pd.read_parquet(store.runs).set_index("run_id")
    assert table.loc["run1", ["code_sha256", "processor", "cpu_capability", "threads"]].tolist() == ["c" * 64, "Abacus", "AVX2", 1]
    assert table.loc["run0", ["code_sha256", "processor", "cpu_capability"]].isna().all()


def test_only_this_command_waits_for_pandas() -> None:
    code = "import sys, analysis.__main__; print(sorted({'pandas', 'pyarrow', 'matplotlib', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
