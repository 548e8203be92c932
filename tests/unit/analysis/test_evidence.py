"""Evidence: a few files of JSON lines that hold the runs behind the pages, and run folders made of them again."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_runs import digits, label_run, noisy, one_sided, true_hashes
from run_folders import done_run, ended_run, write_rows
from two_specs import FIGURE, ROW, SPEC, Suite

from analysis.__main__ import main
from analysis.build import make_files
from analysis.figures.figure import make_figure
from analysis.reading.cells import collect
from analysis.reading.evidence import common, evidence_files, merged, read_evidence, same, without
from analysis.reading.keep import keep, restore
from analysis.reading.runs import read_run
from repro.errors import UserError
from repro.files import read_json, write_json
from repro.runs.folder import read_state
from repro.runs.manifest import DamagedError, seal
from sweeps.plan.plan import make_plan, write_plans
from sweeps.spec.load import load_spec


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Suite:
    return Suite(tmp_path, monkeypatch)


def evidence(suite: Suite) -> Path:
    return suite.tables / "evidence"


def file_of(suite: Suite, name: str) -> Path:
    return evidence(suite) / "paper" / name


def files_of(suite: Suite) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in evidence(suite).rglob("*.jsonl")}


@pytest.fixture
def drawn(suite: Suite) -> str:
    """The id of the figure's run."""
    (name,) = [repeat.run.run_id for cell in collect(suite.specs[1], suite.runs) for repeat in cell.repeats]
    return name


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_file_for_each_spec_with_a_line_for_each_cell_and_each_run(suite: Suite) -> None:
    suite.keep()
    names = sorted(path.name for path in evidence(suite).rglob("*") if path.is_file())
    assert names == ["drawn.curves.jsonl", "drawn.jsonl", "shown.jsonl"]
    head, *rest = lines_of(file_of(suite, "shown.jsonl"))
    assert (head["spec"], head["scale"], head["cells"], head["runs"]) == ("shown", "paper", 2, 6)
    assert [line["row"] for line in rest[:2]] == ["One-hot", "Labels"]
    assert [line["run_id"] for line in rest[2:]] == sorted(suite.names)
    assert head["shared"]["provenance"]["device"] == "cpu (abacus)"
    assert all("device" not in line["provenance"] and "seed" in line["fields"] for line in rest[2:])
    assert not any("secret" in path.read_text() for path in evidence(suite).rglob("*.jsonl"))


def test_of_the_series_per_class_those_that_the_figure_draws(suite: Suite, drawn: str) -> None:
    suite.keep()
    (line,) = lines_of(file_of(suite, "drawn.curves.jsonl"))
    assert set(line) == set(ROW) - {"class_target_probability/001"} | {"run_id", "sha256"}
    kept = read_evidence(file_of(suite, "drawn.jsonl")).runs[drawn]
    assert list(kept.rows()) == [{name: value for name, value in ROW.items() if name != "class_target_probability/001"}]
    with pytest.raises(UserError, match=f"of run {drawn} only the results were kept"):
        list(read_evidence(file_of(suite, "shown.jsonl")).runs[drawn].rows())


@pytest.mark.parametrize("order", [("shown", "drawn"), ("drawn", "shown")])
def test_the_same_pages_from_the_runs_and_from_the_evidence(suite: Suite, order: tuple[str, ...]) -> None:
    for name in order:
        keep([load_spec(name)], suite.runs, evidence(suite))
    for spec in suite.specs:
        assert make_files(spec, suite.runs).contents == make_files(spec, evidence(suite)).contents


def test_a_report_of_all_evidence(suite: Suite, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite.keep()
    change(file_of(suite, "drawn.jsonl"), 2, "Labels", "labels")
    assert main(["report", "--runs", str(evidence(suite)), "--out", str(tmp_path / "report.html")]) == 0
    assert "shown: A table" in (tmp_path / "report.html").read_text()
    assert "left out: drawn: " in capsys.readouterr().err


def test_failed_runs_are_evidence_and_others_that_are_not_done_are_not(suite: Suite) -> None:
    names = [name for name in suite.names if name.startswith("one_hot")]
    for name in names[:2]:
        shutil.rmtree(suite.runs / name)
    ended_run(suite.runs / names[0], "failed", "out of memory")
    ended_run(suite.runs / names[1], "running")
    suite.keep()
    page = make_files(suite.specs[0], evidence(suite)).page
    assert "out of memory" in page
    assert "(1/3)" in page
    assert set(read_evidence(file_of(suite, "shown.jsonl")).runs) == set(suite.names) - {names[1]}


def test_runs_are_added_to_those_that_are_there(suite: Suite, tmp_path: Path) -> None:
    suite.keep()
    whole = files_of(suite)
    shutil.rmtree(evidence(suite))
    first, second = suite.names[:3], suite.names[3:]
    for number, others in enumerate((first, second)):
        part = tmp_path / f"part{number}"
        shutil.copytree(suite.runs, part)
        for name in others:
            shutil.rmtree(part / name)
        keep([suite.specs[0]], part, evidence(suite))
    # The second part adds nothing that it has not; the figure's run was in the first.
    keep(suite.specs, suite.runs, evidence(suite))
    assert files_of(suite) == whole


def test_evidence_is_added_to_evidence(suite: Suite, tmp_path: Path) -> None:
    suite.keep()
    for spec in suite.specs:
        keep([spec], evidence(suite), tmp_path / "home")
    for path in evidence_files(evidence(suite)):
        assert (tmp_path / "home" / "paper" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("file", ["final.json", "metrics.jsonl"])
def test_other_numbers_of_a_run_that_is_there_are_refused(suite: Suite, drawn: str, file: str) -> None:
    suite.keep()
    before = files_of(suite)
    path = suite.runs / drawn / file
    path.write_text(path.read_text().replace("0.9", "0.8") if file == "final.json" else path.read_text().replace("0.5", "0.4"))
    seal(suite.runs / drawn)
    with pytest.raises(UserError, match=rf"run {drawn}: .*/runs/{drawn} and .*\.jsonl:\d+ have other numbers: test/accuracy"):
        suite.keep()
    assert files_of(suite) == before


def test_a_run_that_was_tried_again_takes_the_place_of_its_failure_and_stays(suite: Suite) -> None:
    name = suite.names[0]
    done = suite.runs.parent / "done"
    (suite.runs / name).rename(done)
    ended_run(suite.runs / name, "failed", "out of memory")
    suite.keep()
    shutil.rmtree(suite.runs / name)
    done.rename(suite.runs / name)
    suite.keep()
    shutil.rmtree(suite.runs / name)
    ended_run(suite.runs / name, "failed", "out of memory")
    suite.keep()
    assert read_evidence(file_of(suite, "shown.jsonl")).runs[name].done


def test_a_damaged_run_is_left_out_and_named(suite: Suite, drawn: str, capsys: pytest.CaptureFixture[str]) -> None:
    (suite.runs / suite.names[0] / "final.json").write_text("{}")
    assert main(["evidence", "shown", "--runs", str(suite.runs), "--out", str(suite.tables)]) == 0
    said = capsys.readouterr()
    assert "5 runs kept in" in said.out
    assert f"left out: {suite.names[0]}: run {suite.names[0]}: " in said.err
    (suite.runs / drawn / "metrics.jsonl").write_text("{}\n")
    shutil.rmtree(evidence(suite))
    for spec in suite.specs:
        with pytest.raises(DamagedError, match=r"metrics\.jsonl is not what the run wrote"):
            keep([spec], suite.runs, evidence(suite))
    assert not evidence(suite).exists()


def test_runs_that_no_cell_names_any_more_go(suite: Suite, capsys: pytest.CaptureFixture[str]) -> None:
    suite.keep()
    suite.change("shown", SPEC.replace("[0, 1, 2]", "[0, 1]"))
    assert main(["evidence", "shown", "--runs", str(suite.runs), "--out", str(suite.tables)]) == 0
    assert capsys.readouterr().out.count("no cell names it any more") == 2
    assert len(read_evidence(file_of(suite, "shown.jsonl")).runs) == 4


def test_a_new_plan_needs_no_run_folders(suite: Suite, tmp_path: Path) -> None:
    suite.keep()
    before, cells = lines_of(file_of(suite, "shown.jsonl")), make_files(suite.specs[0], suite.runs).contents["shown.cells.csv"]
    suite.paths["shown"].write_text(suite.paths["shown"].read_text() + "# another version\n")
    spec = load_spec("shown")
    write_plans(make_plan([spec], tmp_path / "empty"))
    keep([spec], tmp_path / "empty", evidence(suite))
    assert lines_of(file_of(suite, "shown.jsonl"))[1:] == before[1:]
    assert make_files(spec, evidence(suite)).contents["shown.cells.csv"] == cells


def change(path: Path, number: int, old: str, new: str) -> None:
    lines = path.read_text().split("\n")
    assert old in lines[number - 1]
    lines[number - 1] = lines[number - 1].replace(old, new, 1)
    path.write_text("\n".join(lines))


def test_cut_and_missing_lines_are_found(suite: Suite) -> None:
    suite.keep()
    path, curves = file_of(suite, "shown.jsonl"), file_of(suite, "drawn.curves.jsonl")
    whole = path.read_text()
    for text, message in (
        (whole[:-30], r"shown\.jsonl:9: .* it is cut short"),
        (whole[: whole.rindex("\n", 0, -1) + 1], r"shown\.jsonl:1: .*it names 2 cells and 6 runs, and 7 lines follow"),
        (whole.replace("\n", " \n", 1), r"shown\.jsonl:1: .*not that of the line"),
        ("", r"shown\.jsonl:1: .* it is cut short"),
    ):
        path.write_text(text)
        with pytest.raises(DamagedError, match=message):
            make_files(suite.specs[0], evidence(suite))
    curves.unlink()
    with pytest.raises(
        DamagedError, match=r"drawn\.curves\.jsonl: .*the curves of run \S+ are not those that line 3 of drawn\.jsonl names"
    ):
        make_files(suite.specs[1], evidence(suite))


def read_all(path: Path) -> None:
    for run in read_evidence(path).runs.values():
        list(run.rows() if run.read_rows else ())


@pytest.mark.parametrize(("file", "bit"), [("shown.jsonl", 1), ("drawn.jsonl", 128), ("drawn.curves.jsonl", 16)])
def test_a_flipped_bit_is_named_wherever_it_is(suite: Suite, file: str, bit: int) -> None:
    suite.keep()
    path = file_of(suite, file)
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
        named = rf"{file}:{whole[:place].count(10) + 1}: the evidence is not as it was written.* git checkout -- .*{file}"
        with pytest.raises(DamagedError, match=named):
            read_all(file_of(suite, file.replace(".curves", "")))


CURVE = '{metric: "class_meta_accuracy/{k}", label: Accuracy, classes: [1]}'
PANELS = {
    "top_classes": "{type: top_classes, label: Others, instances: {count: 2, seed: 0}}",
    "examples": "{type: examples, label: Corrected, instances: {count: 2, seed: 0}}",
    "listed": "{type: examples, label: Corrected, instances: [4, 1]}",
}


@pytest.mark.parametrize("panel", PANELS)
def test_of_single_labels_those_that_the_figure_draws(suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, panel: str) -> None:
    noise = "noise: uniform, noise.rate: 0.4, noise.include_true: false"
    text = FIGURE.replace(CURVE, PANELS[panel]).replace("[0]}", "[0, 1, 2]}")
    text = text.replace("class_labels, dataset: digits", f"instance_labels, dataset: digits, {noise}")
    spec, plan = suite.change("drawn", text)
    indices = range(0, 200, 2)
    for seed, (name, run) in enumerate(plan.runs.items()):
        observed, true = noisy(indices, seed), digits().train.labels[np.asarray(indices)]
        last = np.where(np.arange(100) < 50, true, observed)
        blocks = [one_sided(observed, 0.7), one_sided(last, 0.6 + seed / 10)]
        # The first did not reach its end.
        planned = 3 if seed == 0 else None
        label_run(suite.runs / name, indices, blocks, hashes=true_hashes(observed), planned=planned, **run.fields)
    keep([spec], suite.runs, evidence(suite))
    wrote = make_figure(spec, suite.runs).contents
    # The names of classes and images of the dataset come from the evidence, too, and evidence is made from evidence.
    monkeypatch.setattr("analysis.reading.images.TrainingSets._load", lambda *given: None)
    keep([spec], evidence(suite), tmp_path / "again")
    for folder in (evidence(suite), tmp_path / "again"):
        read = make_figure(spec, folder, published=False).contents
        assert {name for name in wrote if wrote[name] != read[name]} == set()
    held = read_evidence(file_of(suite, "drawn.jsonl")).runs[next(iter(plan.runs))]
    assert held.labels() is None
    assert file_of(suite, "drawn.jsonl").stat().st_size < 40_000
    restore([spec], evidence(suite), tmp_path / "restored")
    assert not list((tmp_path / "restored").glob("*/labels"))


def test_labels_without_their_dataset_do_not_take_the_place_of_those_with_it(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, plan = suite.change(
        "drawn", FIGURE.replace(CURVE, "{type: top_classes, label: Others}").replace("class_labels", "instance_labels")
    )
    (name,) = plan.runs
    true = digits().train.labels[np.array([7, 3])]
    label_run(suite.runs / name, [7, 3], [one_sided(true, 0.9)], hashes=true_hashes(true), **plan.runs[name].fields)
    keep([spec], suite.runs, evidence(suite))
    before = file_of(suite, "drawn.jsonl").read_bytes()
    monkeypatch.setattr("analysis.reading.images.TrainingSets._load", lambda *given: None)
    keep([spec], suite.runs, evidence(suite))
    assert file_of(suite, "drawn.jsonl").read_bytes() == before
    # A figure that shows no labels keeps none.
    keep([suite.change("drawn", FIGURE.replace("class_labels", "instance_labels"))[0]], suite.runs, evidence(suite))
    assert "excerpts" not in file_of(suite, "drawn.jsonl").read_text()


def test_a_table_that_reads_an_epoch_keeps_that_curve(suite: Suite) -> None:
    spec, _ = suite.change("shown", SPEC.replace("epoch: last", "epoch: epoch 1"))
    for name in suite.names:
        write_rows(suite.runs / name, [ROW | {"epoch": epoch} for epoch in (0, 1)])
    keep([spec], suite.runs, evidence(suite))
    assert set(lines_of(file_of(suite, "shown.curves.jsonl"))[0]) == {"run_id", "epoch", "test/accuracy", "sha256"}
    assert make_files(spec, suite.runs).contents == make_files(spec, evidence(suite)).contents


def test_restored_runs_are_done_for_planners_and_pages(suite: Suite, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite.keep()
    runs = tmp_path / "restored"
    arguments = ["evidence", "--restore", "shown", "--runs", str(runs), "--out", str(suite.tables)]
    assert main(arguments) == 0
    assert "6 runs restored in" in capsys.readouterr().out
    plan = make_plan(suite.specs, runs)
    assert {run.state for run in plan.runs.values()} == {"done"}
    assert all(read_state(runs / name) == "done" for name in plan.runs)
    assert make_files(suite.specs[0], runs).contents == make_files(suite.specs[0], suite.runs).contents
    # The curves of the figure's run came along, although the table has none.
    write_plans(plan)
    assert make_files(suite.specs[1], runs).contents == make_files(suite.specs[1], suite.runs).contents
    for name in suite.names:
        for file in ("identity.json", "final.json", "cost.json"):
            assert (runs / name / file).read_bytes() == (suite.runs / name / file).read_bytes()
    assert main(arguments) == 0
    assert "0 runs restored in" in capsys.readouterr().out


def test_restoring_leaves_runs_that_are_there_alone(suite: Suite, tmp_path: Path) -> None:
    suite.keep()
    runs = tmp_path / "restored"
    done_run(runs / suite.names[0], accuracy=0.1)
    ended_run(runs / suite.names[1], "running")
    (runs / "plans").mkdir()
    write_json(runs / "plans" / "shown.json", {"mine": True})
    assert set(restore(suite.specs, evidence(suite), runs)) == set(suite.names[2:])
    assert read_run(runs / suite.names[0]).final["test/accuracy"]["last"] == 0.1
    assert read_json(runs / "plans" / "shown.json") == {"mine": True}
    with pytest.raises(UserError, match=r"there is no evidence of shown\. Call: python -m analysis evidence shown"):
        restore([suite.specs[0]], tmp_path / "nothing", runs)


def test_what_runs_have_in_common_is_taken_apart_and_put_together() -> None:
    items: list[dict[str, Any]] = [
        {"a": 0, "b": {"c": [1], "d": 0.1}, "e": {}, "g": {"h": {"i": 1}}},
        {"a": 0.0, "b": {"c": [1], "d": 0.2}, "e": {}, "f": None, "g": {"h": {}}},
    ]
    shared = common(items)
    assert shared == {"b": {"c": [1]}, "e": {}}
    for item in items:
        rest = without(item, shared)
        assert same(merged(shared, rest), item)
        assert "c" not in rest["b"]
    assert common([]) == {}
    assert without(items[0], common(items[:1])) == {}
