"""The committed pages, and the commands that make and check them."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from markdown_blocks import ROOT
from run_folders import done_run
from two_specs import SPEC, TwoSpecs

from analysis.__main__ import main
from analysis.build import build, check, write
from analysis.reading.evidence import open_source
from analysis.reading.keep import add
from repro.errors import UserError
from sweeps.scales import load_scale
from sweeps.spec import load_spec


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TwoSpecs:
    return TwoSpecs(tmp_path, monkeypatch)


def test_the_commands_find_every_difference(two: TwoSpecs, capsys: pytest.CaptureFixture[str]) -> None:
    two.keep("shown")
    out = ["--out", str(two.tables)]
    assert main(["check", *out]) == 1
    assert "missing: " in capsys.readouterr().err
    assert main(["build", *out]) == 0
    assert "shown.md" in capsys.readouterr().out
    assert main(["check", *out]) == 0
    page = two.tables / "shown" / "shown.md"
    page.write_text(page.read_text().replace("91.0", "99.0"))
    (two.tables / "shown" / "old.csv").write_text("")
    (two.tables / "shown" / "shown.tex").unlink()
    (two.tables / "reported").mkdir()
    (two.tables / "reported" / "README.md").write_text("by hand")
    differences = {"shown/old.csv": "left over", "shown/shown.tex": "missing", "shown/shown.md": "changed"}
    assert {str(path): what for path, what in check(two.tables).items()} == differences
    assert main(["check", *out]) == 1
    assert "error: 3 files are not what" in capsys.readouterr().err
    assert sorted(path.name for path in write(two.tables)) == ["shown.md", "shown.tex"]


def test_pictures_are_compared_under_the_locked_versions_alone(two: TwoSpecs, capsys: pytest.CaptureFixture[str]) -> None:
    two.keep()
    write(two.tables)
    (picture,) = two.tables.glob("drawn/*.png")
    picture.write_bytes(b"drawn elsewhere")
    lock = two.tables.parent / "requirements.lock"
    lock.write_text(f"matplotlib=={version('matplotlib')}\n")
    assert list(check(two.tables).values()) == ["changed"]
    lock.write_text("matplotlib==3.0.0\nother==1\n")
    assert main(["check", "--out", str(two.tables)]) == 0
    assert (
        f"pictures are not compared: they were drawn with other versions than matplotlib {version('matplotlib')} ("
        in capsys.readouterr().out
    )
    picture.unlink()
    (two.tables / "drawn" / "drawn.csv").write_text("")
    assert sorted(check(two.tables).values()) == ["changed", "missing"]


def test_the_index_and_other_scales(two: TwoSpecs) -> None:
    for name in two.plan("shown", scale="smoke")[:4]:
        done_run(two.runs / name, accuracy=0.5)
    two.keep()
    scale = load_scale("smoke")
    add([load_spec("shown")], scale, open_source(two.runs, scale), two.evidence.parent / "smoke")
    contents = build(two.tables)
    assert Path("smoke/shown/shown.md") in contents
    paper, _, smoke = contents[Path("README.md")].decode().partition("## Scale: smoke\n\n> **Smoke scale")
    for index, link, count in ((paper, "shown/shown.md", "6 of 6"), (smoke, "smoke/shown/shown.md", "4 of 6")):
        line = next(line for line in index.splitlines() if line.startswith(f"| [shown]({link})"))
        assert line.split("|")[3].strip() == count


def test_evidence_of_a_spec_that_does_not_come_with_the_suite_is_refused(two: TwoSpecs) -> None:
    two.keep()
    (two.suite / "specs" / "shown.yaml").unlink()
    with pytest.raises(UserError, match="shown"):
        check(two.tables)


def test_a_report_without_names_shows_what_has_a_plan(two: TwoSpecs, capsys: pytest.CaptureFixture[str]) -> None:
    report = two.tables / "report.html"
    own = two.tables.parent / "own.yaml"
    own.write_text(SPEC.replace("A table", "My own table"))
    two.plan(str(own))
    assert main(["report", "--runs", str(two.runs), "--out", str(report)]) == 0
    assert all(title in report.read_text() for title in ("A table", "A figure", "My own table"))
    assert main(["report", "shown", "--runs", str(two.runs)]) == 0
    assert "A figure" not in (two.runs / "pages" / "report.html").read_text()
    assert main(["report", "--runs", str(two.runs), "--out", str(two.tables / "of" / "mine")]) == 0
    assert (two.tables / "of" / "mine" / "report.html").exists()
    (two.tables / "a file").touch()
    assert main(["report", "--runs", str(two.runs), "--out", str(two.tables / "a file" / "mine")]) == 2
    assert f"error: {two.tables}/a file/mine cannot be written" in capsys.readouterr().err


def test_what_is_not_there_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    for command in ("check", "build", "claims", "report"):
        assert main([command]) == 2
        assert "comes with a checkout" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_committed_pages_are_what_the_committed_evidence_makes(tmp_path: Path) -> None:
    tables = ROOT / "paper_tables"
    environment = os.environ | {"LC_ALL": "C", "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment |= {"REPRO_DATA": str(tmp_path)}
    environment.pop("REPRO_TUNED", None)
    command = [sys.executable, "-m", "analysis", "check", "--out", os.path.relpath(tables, tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
