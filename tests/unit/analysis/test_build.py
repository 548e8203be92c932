"""Evidence, and the pages made from it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from run_folders import done_run
from two_specs import SPEC, Suite

from analysis.__main__ import main
from analysis.build import build, check, write
from analysis.reading.keep import keep
from repro.errors import UserError
from sweeps.plan.plan import make_plan, write_plans
from sweeps.spec.load import load_scale, load_spec


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Suite:
    return Suite(tmp_path, monkeypatch)


def test_check_finds_every_difference(suite: Suite) -> None:
    suite.fill()
    assert check(suite.tables) == {}
    assert write(suite.tables) == []
    page = suite.tables / "shown" / "shown.md"
    page.write_text(page.read_text().replace("91.0", "99.0"))
    (suite.tables / "shown" / "old.csv").write_text("")
    (suite.tables / "drawn" / "drawn.csv").unlink()
    (suite.tables / "reported").mkdir()
    (suite.tables / "reported" / "README.md").write_text("by hand")
    assert {str(path): what for path, what in check(suite.tables).items()} == {
        "shown/old.csv": "left over",
        "drawn/drawn.csv": "missing",
        "shown/shown.md": "changed",
    }
    assert sorted(path.name for path in write(suite.tables)) == ["drawn.csv", "shown.md"]


def test_a_plan_of_an_older_or_unknown_spec_is_refused(suite: Suite) -> None:
    suite.fill()
    suite.paths["shown"].write_text(SPEC + "# changed\n")
    with pytest.raises(
        UserError,
        match=r"shown\.jsonl was made from another version of .*Call: python -m sweeps plan shown, then python -m analysis evidence shown",
    ):
        check(suite.tables)
    suite.paths.pop("shown")
    with pytest.raises(UserError, match="no spec of that name comes with the suite"):
        check(suite.tables)


def test_the_index_says_how_much_is_filled(suite: Suite) -> None:
    suite.fill()
    index = (suite.tables / "README.md").read_text()
    line = next(text for text in index.splitlines() if text.startswith("| [shown](shown/shown.md)"))
    assert [cell.strip() for cell in line.split("|")[2:5]] == ["A table", "6 of 6", "2 filled"]
    shutil.rmtree(suite.tables / "evidence")
    shutil.rmtree(suite.runs / next(name for name in suite.names if name.startswith("one_hot")))
    suite.fill()
    assert "5 of 6" in (suite.tables / "README.md").read_text()
    assert "1 filled, 1 partly" in (suite.tables / "README.md").read_text()


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
    tables = Path(__file__).parents[3] / "paper_tables"
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
    assert "its spec" in said
    assert "gone.yaml, is not there any more. Plan it again from where it is now" in said
    assert "another version" in said
