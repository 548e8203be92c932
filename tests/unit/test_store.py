from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pandas as pd
import pytest
from run_folders import done_run

from analysis.__main__ import main
from analysis.store import refresh
from repro.errors import UserError
from repro.files import read_json, write_json
from repro.manifest import seal


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    for index in range(3):
        done_run(folder / f"run{index}", accuracy=0.8 + index / 100)
        write_json(
            folder / f"run{index}" / "identity.json",
            {"schema": 1, "run_id": f"run{index}", "fields": {"seed": index, "optim.milestones": [1, index], "method.name": "one_hot"}},
        )
        seal(folder / f"run{index}")
    return folder


def values(runs: Path) -> dict[tuple[str, int, str], float]:
    table = pd.read_parquet(runs / "collected" / "curves.parquet")
    return {(row.run_id, row.epoch, row.metric): row.value for row in table.itertuples()}  # type: ignore[misc]


def test_a_row_for_each_run_with_its_settings_and_results(runs: Path) -> None:
    store = refresh(runs)
    assert (store.done, store.read, store.left_out) == (3, 3, {})
    table = pd.read_parquet(store.runs).set_index("run_id")
    assert table["config.seed"].tolist() == [0, 1, 2]
    assert table["config.method.name"].tolist() == ["one_hot"] * 3
    assert [json.loads(text) for text in table["config.optim.milestones"]] == [[1, 0], [1, 1], [1, 2]]
    assert table["final.test/accuracy.last"].tolist() == [0.80, 0.81, 0.8 + 2 / 100]
    assert table["torch"].tolist() == ["2.15.0"] * 3
    assert table["wall_s"].tolist() == [36.0] * 3


def test_a_row_for_each_run_epoch_and_metric(runs: Path) -> None:
    lines = ['{"epoch": 0, "a/b": 0.5}', '{"a/b": 0.25, "epoch": 1, "a/c": 3}']
    (runs / "run0" / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    seal(runs / "run0")
    refresh(runs)
    of_run0 = {key[1:]: value for key, value in values(runs).items() if key[0] == "run0"}
    assert of_run0 == {(0, "a/b"): 0.5, (1, "a/b"): 0.25, (1, "a/c"): 3.0}


def test_numbers_that_are_not_finite_are_kept(runs: Path) -> None:
    (runs / "run0" / "metrics.jsonl").write_text('{"epoch": 0, "a/b": 0.5}\n{"epoch": 1, "a/b": "NaN"}\n{"epoch": 2, "a/b": "-Infinity"}\n')
    seal(runs / "run0")
    refresh(runs)
    read = [values(runs)["run0", epoch, "a/b"] for epoch in range(3)]
    assert read[0] == 0.5
    assert math.isnan(read[1])
    assert read[2] == -math.inf


def test_a_second_call_reads_only_what_changed(runs: Path) -> None:
    refresh(runs)
    files = [runs / "collected" / name for name in ("runs.parquet", "curves.parquet")]
    before = [path.read_bytes() for path in files]
    times = [path.stat().st_mtime_ns for path in files]
    assert refresh(runs).read == 0
    assert [path.stat().st_mtime_ns for path in files] == times

    # Were another run read again, its changed curve would show: its fingerprint is that of before.
    other = runs / "run0" / "metrics.jsonl"
    stat = other.stat()
    other.write_bytes(other.read_bytes().replace(b"0.1", b"0.7"))
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    done_run(runs / "run3", accuracy=0.7)
    store = refresh(runs)
    assert (store.done, store.read) == (4, 1)
    assert values(runs)["run0", 0, "test/accuracy"] == 0.1
    assert values(runs)["run3", 2, "test/accuracy"] == 0.7

    for path in (runs / "run3").iterdir():
        path.unlink()
    (runs / "run3").rmdir()
    assert (refresh(runs).done, [path.read_bytes() for path in files]) == (3, before)


def test_the_same_bytes_from_nothing_and_step_by_step(runs: Path, tmp_path: Path) -> None:
    for path in sorted((runs / "run2").iterdir()):
        (tmp_path / "aside").mkdir(exist_ok=True)
        path.rename(tmp_path / "aside" / path.name)
    refresh(runs)
    for path in sorted((tmp_path / "aside").iterdir()):
        path.rename(runs / "run2" / path.name)
    refresh(runs)
    grown = {path.name: path.read_bytes() for path in (runs / "collected").iterdir()}
    for path in (runs / "collected").iterdir():
        path.unlink()
    refresh(runs)
    assert {path.name: path.read_bytes() for path in (runs / "collected").iterdir()} == grown


def test_whatever_is_no_finished_run_is_named_and_left_out(runs: Path) -> None:
    write_json(runs / "run0" / "status.json", {"state": "failed", "error": "out of memory"})
    write_json(runs / "run1" / "identity.json", {"schema": 7})
    seal(runs / "run1")
    (runs / "run2" / "metrics.jsonl").write_text('{"epoch": 0}\n{"epoch": 1, "a/b"\n')
    done_run(runs / "run4", accuracy=0.9)
    (runs / "run4" / "final.json").write_text('{"test/acc')
    done_run(runs / "run5", accuracy=0.9)
    (runs / "notes").mkdir()
    (runs / "plans").mkdir()
    for _ in range(2):
        store = refresh(runs)
        assert store.done == 1
        assert sorted(store.left_out) == ["notes", "run0", "run1", "run2", "run4"]
        assert store.left_out["run0"] == "failed: out of memory"
        assert "its layout is 7" in store.left_out["run1"]
        assert "metrics.jsonl" in store.left_out["run2"]
        assert "final.json is not what the run wrote" in store.left_out["run4"]
        assert pd.read_parquet(store.runs)["run_id"].tolist() == ["run5"]
        assert {name for name, _, _ in values(runs)} == {"run5"}


def test_no_run_at_all(tmp_path: Path) -> None:
    store = refresh(tmp_path)
    assert store.done == 0
    assert list(pd.read_parquet(store.runs).columns[:2]) == ["run_id", "ended"]
    assert len(pd.read_parquet(store.curves)) == 0


def test_a_damaged_or_older_file_is_made_anew(runs: Path) -> None:
    store = refresh(runs)
    before = store.curves.read_bytes()
    store.curves.write_bytes(before[: len(before) // 2])
    assert refresh(runs).read == 3
    assert store.curves.read_bytes() == before
    store.runs.unlink()
    assert refresh(runs).read == 0
    assert len(pd.read_parquet(store.runs)) == 3


def test_settings_of_several_types_become_text(runs: Path) -> None:
    for index, value in enumerate((1, "auto", None)):
        identity = read_json(runs / f"run{index}" / "identity.json")
        identity["fields"]["mixed"] = value
        write_json(runs / f"run{index}" / "identity.json", identity)
        seal(runs / f"run{index}")
    column = pd.read_parquet(refresh(runs).runs)["config.mixed"]
    assert [None if pd.isna(value) else value for value in column] == ["1", '"auto"', None]


def test_the_command(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(runs / "run0" / "status.json", {"state": "failed", "error": "out of memory"})
    assert main(["collect", "--runs", str(runs)]) == 0
    shown = capsys.readouterr().out
    assert "2 runs, 2 of them read now" in shown
    assert "left out: run0: failed: out of memory" in shown
    assert main(["collect", "--runs", str(tmp_path / "nowhere")]) == 2
    assert "there is no such folder" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written(runs: Path) -> None:
    (runs / "collected").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        refresh(runs)


def test_code_and_machine_are_columns_and_what_was_set_aside_is_no_run(runs: Path) -> None:
    path = runs / "run1" / "provenance.json"
    facts = {"device": "cpu", "processor": "Abacus", "cpu_capability": "AVX2", "threads": 1}
    write_json(path, {**read_json(path), "code": "c" * 64, "attempts": [{"count": 1, "facts": facts}]})
    seal(path.parent)
    (runs / "aside").mkdir()
    (runs / "run2").rename(runs / "aside" / "run2.1")
    store = refresh(runs)
    assert (store.done, store.left_out) == (2, {})
    table = pd.read_parquet(store.runs).set_index("run_id")
    assert table.loc["run1", ["code_sha256", "processor", "cpu_capability", "threads"]].tolist() == ["c" * 64, "Abacus", "AVX2", 1]
    assert table.loc["run0", ["code_sha256", "processor", "cpu_capability"]].isna().all()
