"""Evidence: finished runs as text, and the pages made from it."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from run_folders import change, done_run, ended_run, write_rows
from sealed import seal
from two_specs import ROW, SPEC, TwoSpecs

from analysis.__main__ import main
from analysis.reading.evidence import open_evidence
from repro.errors import UserError


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TwoSpecs:
    return TwoSpecs(tmp_path, monkeypatch)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_line_a_run_and_the_curves_that_pages_draw(two: TwoSpecs) -> None:
    assert two.keep() == {}
    written = contents(two.evidence)
    assert sorted(written) == ["curves.jsonl", "plans/drawn.json", "plans/shown.json", "runs.jsonl", "sha256.json"]
    assert not any(b"secret" in content or str(two.runs).encode() in content for content in written.values())
    lines = list(map(json.loads, written["runs.jsonl"].splitlines()))
    assert [line["run_id"] for line in lines] == sorted(two.names)
    assert {line["status"]["state"] for line in lines} == {"done"}
    (curves,) = map(json.loads, written["curves.jsonl"].splitlines())
    assert curves == {"run_id": two.names[3], "epoch": [0], "class_meta_accuracy/001": [0.25]}
    for name in ("shown", "drawn"):
        assert two.page(name).contents == two.page(name, two.runs).contents
    # A table that reads a certain epoch draws a curve, too.
    two.plan("shown", SPEC.replace("epoch: last", "epoch: epoch 1"))
    for name in two.names:
        write_rows(two.runs / name, [ROW, {"epoch": 1, "test/accuracy": 0.75}])
    shutil.rmtree(two.evidence)
    two.keep("shown")
    assert set(json.loads((two.evidence / "curves.jsonl").read_text().splitlines()[0])) == {"run_id", "epoch", "test/accuracy"}
    assert "75.0 ± 0.0" in two.page("shown").page


def test_runs_are_added_to_those_that_are_there_in_any_order(two: TwoSpecs, tmp_path: Path) -> None:
    two.keep()
    whole = contents(two.evidence)
    for order in (two.names[:3], two.names[3:]), (two.names[3:], two.names[:3]):
        shutil.rmtree(two.evidence)
        for number, others in enumerate(order):
            part = tmp_path / f"part{number}"
            shutil.copytree(two.runs, part)
            for name in others:
                shutil.rmtree(part / name)
            two.keep("shown", runs=part)
            shutil.rmtree(part)
        two.keep("drawn")
        assert contents(two.evidence) == whole
    two.keep(runs=two.tables / "evidence", evidence=tmp_path / "copy")
    assert contents(tmp_path / "copy") == whole


@pytest.mark.parametrize(("file", "key"), [("final.json", "final"), ("metrics.jsonl", "class_meta_accuracy/001")])
def test_other_numbers_of_a_run_that_is_there_are_refused(two: TwoSpecs, file: str, key: str) -> None:
    two.keep()
    before, path = contents(two.evidence), two.runs / two.names[3] / file
    path.write_text(path.read_text().replace("0.9", "0.8").replace("0.25", "0.24"))
    seal(path.parent)
    with pytest.raises(UserError, match=f"run {two.names[3]}: {key} differs between .*runs.jsonl. Nothing was added"):
        two.keep()
    assert contents(two.evidence) == before


def test_a_run_that_did_not_measure_what_a_table_shows_is_replaced(two: TwoSpecs) -> None:
    two.keep()
    name = two.names[0]
    change(two.runs / name, "final.json", {"test/accuracy": {"last": 0.5}, "doubt/auroc": {"last": 0.7}})
    with pytest.raises(UserError, match="final differs"):
        two.keep("shown")
    two.plan("shown", SPEC.replace("metric: test/accuracy", "metric: doubt/auroc"))
    assert two.keep("shown") == {}
    assert open_evidence(two.evidence).record(name)["final"]["test/accuracy"] == {"last": 0.5}
    assert "70.0" in two.page("shown").page


def test_what_is_left_out_is_named(two: TwoSpecs, capsys: pytest.CaptureFixture[str]) -> None:
    (two.runs / two.names[0] / "final.json").write_text("{}")
    for name, state in zip(two.names[1:3], ("failed", "running"), strict=True):
        shutil.rmtree(two.runs / name)
        ended_run(two.runs / name, state, "out of memory")
    arguments = ["evidence", "shown", "--runs", str(two.runs), "--out", str(two.tables)]
    assert main(arguments) == 0
    written = capsys.readouterr()
    assert f"3 runs in {two.evidence}" in written.out
    for name, reason in zip(two.names, ("corrupted", "failed out of memory", "running"), strict=False):
        assert f"left out: {name}: {reason}" in written.err
    two.plan("shown", SPEC.replace("[0, 1, 2]", "[0, 1]"))
    assert main(arguments) == 0
    assert f"left out: {two.names[5]}: no plan names it any more" in capsys.readouterr().err
    assert len(open_evidence(two.evidence).run_ids) == 2


@pytest.mark.parametrize("file", ["runs.jsonl", "plans/shown.json"])
def test_a_changed_file_is_named(two: TwoSpecs, file: str) -> None:
    two.keep()
    content = (two.evidence / file).read_bytes()
    (two.evidence / file).write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    with pytest.raises(UserError, match=f"{file} is not as .* wrote it. Put it back: git checkout -- "):
        two.page("drawn")
    (two.evidence / file).unlink()
    with pytest.raises(UserError, match=f"{file} is not as .* wrote it"):
        two.page("drawn")


def test_finished_runs_and_their_curves_as_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index in range(3):
        done_run(tmp_path / f"run{index}", accuracy=0.8 + index / 100, fields={"seed": index, "optim.milestones": [1, index]})
    write_rows(tmp_path / "run0", [{"epoch": 0, "a/b": 0.5}, {"epoch": 1, "a/b": "NaN", "a/c": 3}])
    change(tmp_path / "run2", "status.json", {"state": "failed", "error": "out of memory"})
    assert main(["collect", "--runs", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "2 runs\nleft out: run2: failed out of memory\n" in shown
    runs = pd.read_csv(tmp_path / "collected" / "runs.csv").set_index("run_id")
    assert runs[["seed", "optim.milestones", "test/accuracy@last", "torch", "wall_s"]].to_numpy().tolist() == [
        [0, "[1, 0]", 0.80, "2.15.0", 36.0],
        [1, "[1, 1]", 0.81, "2.15.0", 36.0],
    ]
    curves = pd.read_csv(tmp_path / "collected" / "curves.csv.gz")
    assert curves[curves["run_id"] == "run0"].drop(columns="run_id").fillna(-1).to_numpy().tolist() == [
        ["a/b", 0, 0.5],
        ["a/b", 1, -1],
        ["a/c", 1, 3.0],
    ]
    assert main(["collect", "--runs", str(tmp_path / "nowhere")]) == 2
    assert "there is no such folder" in capsys.readouterr().err
