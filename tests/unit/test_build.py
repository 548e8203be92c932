"""Evidence, and the pages made from it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from run_folders import done_run, ended_run

import analysis.build
from analysis.__main__ import main
from analysis.build import build, check, write
from analysis.collect import collect
from analysis.evidence import keep
from analysis.make import make_files
from repro.errors import UserError
from repro.files import read_json, write_json
from repro.manifest import seal
from sweeps.plan import make_plan, write_plans
from sweeps.spec import Spec, load_scale, load_spec


@pytest.fixture(autouse=True)
def announced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a method be announced that is not there."""
    monkeypatch.setattr("sweeps.graph.ANNOUNCED", ("soon",))


SPEC = """\
title: A table
kind: table
rows:
  - {label: One-hot, set: {method: one_hot}}
  - {label: Labels, set: {method: class_labels}}
  - {label: Soon, set: {method: soon}}
columns: [{label: Clean, set: {dataset: digits}}]
repeats: {seed: [0, 1, 2]}
value: {metric: test/accuracy, epoch: last, scale: percent, better: higher}
"""
FIGURE = """\
title: A figure
kind: figure
rows: [{label: Labels, set: {method: class_labels, dataset: digits}}]
repeats: {seed: [0]}
x: epoch
panels: [{metric: "class_meta_accuracy/{k}", label: Accuracy, classes: [1]}]
"""
ROW = {"epoch": 0, "test/accuracy": 0.5, "class_meta_accuracy/001": 0.25, "class_target_probability/001": 0.75, "train/loss": "NaN"}


class Suite:
    """Two specs that stand for those of the suite, their runs, and a folder for their pages."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runs, self.tables = folder / "runs", folder / "tables"
        for name, text in (("shown", SPEC), ("drawn", FIGURE)):
            (folder / f"{name}.yaml").write_text(text)
        self.paths = {name: folder / f"{name}.yaml" for name in ("shown", "drawn")}
        monkeypatch.setattr("sweeps.spec.known_specs", lambda: self.paths)
        monkeypatch.setattr(analysis.build, "known_specs", lambda: self.paths)
        # The claims are of specs that are not among these.
        monkeypatch.setattr(analysis.build, "claims_files", lambda runs: {})
        self.specs: list[Spec] = [load_spec(name) for name in self.paths]
        plan = make_plan(self.specs, self.runs)
        write_plans(plan)
        self.names = list(plan.runs)
        for index, name in enumerate(self.names):
            done_run(self.runs / name, accuracy=0.9 + index / 100)
            write_json(self.runs / name / "status.json", {"state": "done", "ended": "2025-01-02T03:04:05Z", "host": "secret", "pid": 7})
            provenance = read_json(self.runs / name / "provenance.json")
            write_json(self.runs / name / "provenance.json", {**provenance, "host": "secret"})
            write_json(self.runs / name / "identity.json", {"schema": 1, "run_id": name, "fields": plan.runs[name].fields})
            (self.runs / name / "model.safetensors").write_bytes(b"weights")
            (self.runs / name / "metrics.jsonl").write_text(json.dumps(ROW) + "\n")
            seal(self.runs / name)

    def keep(self) -> None:
        keep(self.specs, self.runs, self.tables / "evidence")

    def fill(self) -> None:
        self.keep()
        write(self.tables)


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Suite:
    return Suite(tmp_path, monkeypatch)


def test_evidence_has_what_the_pages_need_and_nothing_else(suite: Suite) -> None:
    suite.keep()
    evidence = suite.tables / "evidence"
    assert sorted(path.name for path in evidence.iterdir()) == sorted([*suite.names, "plans"])
    for name in suite.names:
        assert sorted(path.name for path in (evidence / name).iterdir()) == [
            "cost.json",
            "final.json",
            "identity.json",
            "manifest.json",
            "metrics.jsonl",
            "provenance.json",
            "status.json",
        ]
        assert not any("secret" in path.read_text() for path in (evidence / name).iterdir())
    series = {name: set(json.loads((evidence / name / "metrics.jsonl").read_text())) for name in suite.names}
    (drawn,) = [repeat.run.run_id for cell in collect(suite.specs[1], suite.runs) for repeat in cell.repeats]
    assert series.pop(drawn) == set(ROW) - {"class_target_probability/001"}
    assert set(map(frozenset, series.values())) == {frozenset(("epoch", "test/accuracy", "train/loss"))}


@pytest.mark.parametrize("order", [("shown", "drawn"), ("drawn", "shown")])
def test_the_same_pages_from_the_runs_and_from_the_evidence(suite: Suite, order: tuple[str, ...]) -> None:
    for name in order:
        keep([load_spec(name)], suite.runs, suite.tables / "evidence")
    for spec in suite.specs:
        assert make_files(spec, suite.runs).contents == make_files(spec, suite.tables / "evidence").contents


def test_failed_runs_are_evidence_and_others_that_are_not_done_are_not(suite: Suite) -> None:
    names = [name for name in suite.names if name.startswith("one_hot")]
    for name in names[:2]:
        shutil.rmtree(suite.runs / name)
    ended_run(suite.runs / names[0], "failed", "out of memory")
    ended_run(suite.runs / names[1], "running")
    suite.keep()
    page = make_files(suite.specs[0], suite.tables / "evidence").page
    assert "out of memory" in page
    assert "(1/3)" in page
    assert not (suite.tables / "evidence" / names[1]).exists()


def test_short_trajectories_are_evidence_where_a_figure_shows_single_labels(suite: Suite, tmp_path: Path) -> None:
    text = FIGURE.replace('{metric: "class_meta_accuracy/{k}", label: Accuracy, classes: [1]}', "{type: top_classes, label: Others}")
    text = text.replace("class_labels", "instance_labels")
    suite.paths["drawn"].write_text(text)
    spec = load_spec("drawn")
    write_plans(make_plan([spec], suite.runs))
    (drawn,) = [repeat.run.run_id for cell in collect(spec, suite.runs) for repeat in cell.repeats]
    done_run(suite.runs / drawn)
    for size in (1_000_000, 3_000_000):
        labels = suite.runs / drawn / "labels"
        labels.mkdir(exist_ok=True)
        (labels / "classes.f32").write_bytes(bytes(size))
        seal(suite.runs / drawn)
        target = tmp_path / f"evidence{size}"
        keep([spec], suite.runs, target)
        assert (target / drawn / "labels" / "classes.f32").exists() == (size == 1_000_000)


def test_check_finds_every_difference(suite: Suite) -> None:
    suite.fill()
    assert check(suite.tables) == []
    assert write(suite.tables) == []
    page = suite.tables / "shown" / "shown.md"
    page.write_text(page.read_text().replace("91.0", "99.0"))
    (suite.tables / "shown" / "old.csv").write_text("")
    (suite.tables / "drawn" / "drawn.csv").unlink()
    (suite.tables / "reported").mkdir()
    (suite.tables / "reported" / "README.md").write_text("by hand")
    assert [(str(item.path), item.what) for item in check(suite.tables)] == [
        ("shown/old.csv", "left over"),
        ("drawn/drawn.csv", "missing"),
        ("shown/shown.md", "changed"),
    ]
    assert sorted(path.name for path in write(suite.tables)) == ["drawn.csv", "shown.md"]


def test_a_changed_run_shows(suite: Suite) -> None:
    suite.fill()
    final = suite.tables / "evidence" / suite.names[0] / "final.json"
    final.write_text(final.read_text().replace("0.9", "0.8"))
    seal(final.parent)
    assert {str(item.path) for item in check(suite.tables)} >= {"shown/shown.md", "shown/shown.runs.csv"}


def test_a_plan_of_an_older_or_unknown_spec_is_refused(suite: Suite) -> None:
    suite.fill()
    suite.paths["shown"].write_text(SPEC + "# changed\n")
    with pytest.raises(UserError, match="another version of .*Call: python -m sweeps plan shown"):
        check(suite.tables)
    suite.paths.pop("shown")
    with pytest.raises(UserError, match="no spec of that name comes with the suite"):
        check(suite.tables)


def test_the_index_says_how_much_is_filled(suite: Suite) -> None:
    suite.fill()
    index = (suite.tables / "README.md").read_text()
    line = next(text for text in index.splitlines() if text.startswith("| [shown](shown/shown.md)"))
    assert [cell.strip() for cell in line.split("|")[2:5]] == ["A table", "6 of 6", "2 filled, 1 not built"]
    shutil.rmtree(suite.tables / "evidence" / next(name for name in suite.names if name.startswith("one_hot")))
    write(suite.tables)
    assert "5 of 6" in (suite.tables / "README.md").read_text()
    assert "1 filled, 1 partly, 1 not built" in (suite.tables / "README.md").read_text()


def test_other_scales_have_a_folder_and_a_stamp(suite: Suite) -> None:
    scale = load_scale("smoke")
    spec = load_spec("shown", scale)
    plan = make_plan([spec], suite.runs)
    write_plans(plan)
    for name in plan.runs:
        if not (suite.runs / name).exists():
            done_run(suite.runs / name, accuracy=0.5)
    keep([spec], suite.runs, suite.tables / "evidence")
    contents = build(suite.tables)
    assert Path("smoke/shown/shown.md") in contents
    assert "## Scale: smoke\n\nSmoke scale" in contents[Path("README.md")].decode()


def test_the_commands(suite: Suite, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(suite.tables)]
    assert main(["evidence", "shown", "drawn", "--runs", str(suite.runs), *out]) == 0
    assert "6 runs kept in" in capsys.readouterr().out
    assert main(["check", *out]) == 1
    assert "missing: " in capsys.readouterr().err
    assert main(["build", *out]) == 0
    assert "shown.md" in capsys.readouterr().out
    assert main(["check", *out]) == 0
    assert "every file is what the evidence makes" in capsys.readouterr().out


def test_the_report_shows_what_has_a_plan(suite: Suite, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--runs", str(suite.runs)]) == 0
    page = (suite.runs / "pages" / "report.html").read_text()
    assert str(suite.runs / "pages" / "report.html") in capsys.readouterr().out
    assert "A table" in page
    assert "A figure" in page
    assert "no momentum given" in page
    assert main(["report", "shown", "--runs", str(suite.runs), "--out", str(suite.tables / "one.html")]) == 0
    assert "A figure" not in (suite.tables / "one.html").read_text()
    assert main(["report", "--runs", str(suite.tables)]) == 2
    assert "name at least one spec" in capsys.readouterr().err


def test_the_committed_pages_are_what_the_committed_evidence_makes(tmp_path: Path) -> None:
    tables = Path(__file__).parents[2] / "paper_tables"
    environment = os.environ | {"LC_ALL": "C", "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "analysis", "check", "--out", os.path.relpath(tables, tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_a_report_goes_on_past_a_plan_that_it_cannot_read(suite: Suite, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("mine", "gone", "changed"):
        (elsewhere / f"{name}.yaml").write_text(SPEC.replace("title: A table", f"title: The table {name}"))
        write_plans(make_plan([load_spec(str(elsewhere / f"{name}.yaml"))], suite.runs))
    (elsewhere / "gone.yaml").unlink()
    (elsewhere / "changed.yaml").write_text(SPEC)
    (suite.runs / "plans" / "old.json").write_text("{}")
    (suite.runs / "plans" / "torn.json").write_text("{")
    assert main(["report", "--runs", str(suite.runs), "--out", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "shown: A table" in page
    assert "mine: The table mine" in page
    said = capsys.readouterr().err
    assert [line.split(": ")[1] for line in said.splitlines()] == ["changed", "gone", "old", "torn"]
    assert "there is no such file" in said
    assert "another version" in said
