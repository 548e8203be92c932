from __future__ import annotations

import csv
import json
import math
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from run_folders import done_run, ended_run, plan_by_hand

from analysis.__main__ import main
from analysis.curves import draw_curves
from analysis.figures import look, make_figure
from analysis.page import Files
from repro.errors import UserError
from sweeps.spec import PAPER, FigureSpec, Scale, load_scale, load_spec

SPEC = """\
title: Curves
kind: figure
caption: What they show.
rows:
  - {label: One-hot, set: {method: one_hot}}
  - {label: Instance, set: {method: instance_labels}}
columns:
  - {label: "40%", set: {noise: uniform}}
repeats: {seed: [0, 1, 2]}
x: epoch
panels:
  - {metric: noise/label_error, label: Label error (%), scale: percent}
  - {metric: test/accuracy, label: Test accuracy (%), scale: percent}
"""
ERROR = [0.4, 0.3, 0.2]


class Suite:
    def __init__(self, folder: Path, text: str = SPEC, scale: Scale = PAPER) -> None:
        folder.mkdir(exist_ok=True)
        self.path = folder / "curves.yaml"
        self.path.write_text(text)
        self.runs = folder / "runs"
        spec = load_spec(str(self.path), scale)
        assert isinstance(spec, FigureSpec)
        self.spec = spec
        self.names = plan_by_hand(spec, self.runs)

    def folder(self, row: str, seed: int) -> Path:
        return self.runs / self.names[row, "40%", seed]

    def fill(self, *but: tuple[str, int]) -> None:
        for row, _, seed in self.names:
            if (row, seed) not in but:
                self.done(row, seed)

    def done(self, row: str, seed: int, error: list[float] | None = None) -> None:
        shift = 0.01 * seed
        error = [value + shift for value in (error or ERROR)]
        done_run(self.folder(row, seed), curve={"noise/label_error": error, "test/accuracy": [1 - value for value in error]})

    def make(self) -> Files:
        return make_figure(self.spec, self.runs)


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return Suite(tmp_path)


def plotted(files: Files) -> dict[tuple[str, str, int], dict[str, str]]:
    rows = csv.DictReader(files.contents["curves.csv"].decode().splitlines())
    return {(row["row"], row["metric"], int(row["epoch"])): row for row in rows}


def test_a_full_figure(suite: Suite) -> None:
    suite.fill()
    files = suite.make()
    assert list(files.contents) == ["curves.png", "curves.svg", "curves.pdf", "curves.csv", "curves.provenance.json", "curves.md"]
    points = plotted(files)
    assert len(points) == 2 * 2 * 3
    point = points["Instance", "noise/label_error", 2]
    assert float(point["mean"]) == pytest.approx(0.21, rel=1e-12)
    assert float(point["sd"]) == pytest.approx(0.01, rel=1e-12)
    assert (point["n"], point["expected"], point["diverged"]) == ("3", "3", "0")
    width, height = struct.unpack(">II", files.contents["curves.png"][16:24])
    assert width == 1440
    assert height > 500
    assert files.contents["curves.pdf"].startswith(b"%PDF")
    page = files.page
    assert "![Curves](curves.png)" in page
    assert "Filled: 6 of 6 runs are done." in page
    assert "`python -m analysis figures curves.yaml`" in page
    lines = json.loads(files.contents["curves.provenance.json"])["lines"]
    assert [run["run_id"] for run in lines[1]["runs"]] == [f"Instance-40-{seed}" for seed in range(3)]


def test_missing_and_failed_runs_are_said_in_legend_and_page(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    suite.fill(("Instance", 0), ("Instance", 1))
    ended_run(suite.folder("Instance", 1), "failed", "ValueError: no")
    # What an unfinished run has written so far is not plotted.
    (suite.folder("Instance", 1) / "metrics.jsonl").write_text('{"epoch": 1, "test/accuracy": 0.0}\n')
    files = suite.make()
    point = plotted(files)["Instance", "test/accuracy", 1]
    assert (point["n"], point["expected"], point["sd"]) == ("1", "3", "")
    assert "failed: Instance, 40%, seed=1 (`Instance-40-1`): ValueError: no" in files.page
    assert "(n/N): only n of the line's N runs" in files.page
    assert legend(suite, monkeypatch) == ["One-hot", "Instance (1/3)"]


def legend(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    seen: list[str] = []
    real = Figure.legend

    def noting(self: Figure, *args: object, **options: object) -> object:
        seen.extend(handle.get_label() for handle in options["handles"])  # type: ignore[attr-defined]
        return real(self, *args, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Figure, "legend", noting)
        suite.make()
    return seen


def test_a_diverged_run_ends_the_line(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    suite.fill(("Instance", 1), ("One-hot", 2))
    suite.done("Instance", 1, [0.4, 0.3, math.nan])
    suite.done("One-hot", 2, [0.4, 0.3])
    points = plotted(suite.make())
    assert points["Instance", "test/accuracy", 2]["mean"] == "NaN"
    assert points["Instance", "test/accuracy", 2]["diverged"] == "1"
    # A run that has no such epoch any more is not averaged around either.
    assert points["One-hot", "test/accuracy", 2]["mean"] == "NaN"
    assert float(points["Instance", "test/accuracy", 1]["mean"]) == pytest.approx(0.69, rel=1e-12)
    assert legend(suite, monkeypatch) == ["One-hot div (1/3)", "Instance div (1/3)"]


def test_a_metric_that_a_method_has_not_is_no_error(suite: Suite) -> None:
    suite.fill(*(("One-hot", seed) for seed in range(3)))
    for seed in range(3):
        done_run(suite.folder("One-hot", seed), curve={"test/accuracy": [0.1, 0.2, 0.3]})
    files = suite.make()
    assert ("One-hot", "noise/label_error", 1) not in plotted(files)
    assert ("One-hot", "test/accuracy", 1) in plotted(files)
    assert "have the metric" in files.page


def test_nothing_done_still_makes_a_page(suite: Suite) -> None:
    files = suite.make()
    header = "spec,panel,row,column,metric,class,class_name,instance,annotated,true,repeat,epoch,mean,sd,n,expected,diverged,source\n"
    assert files.contents["curves.csv"].decode() == header
    assert "Filled: 0 of 6 runs are done" in files.page


def test_a_panel_draws_its_rows_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one_panel = "Test accuracy (%), scale: percent, rows: Instance}"
    suite = Suite(tmp_path, SPEC.replace("Test accuracy (%), scale: percent}", one_panel))
    suite.fill()
    assert {(row, metric) for row, metric, _ in plotted(suite.make())} == {
        ("One-hot", "noise/label_error"),
        ("Instance", "noise/label_error"),
        ("Instance", "test/accuracy"),
    }
    assert legend(suite, monkeypatch) == ["One-hot", "Instance"]


@pytest.mark.parametrize(
    ("panel", "message"),
    [
        ("{metric: test/accuracy, label: A, classes: [1]}", r"panels\[0\]\.classes has no effect"),
        ("{metric: test/accuracy, label: A, instances: [1]}", r"panels\[0\]\.instances has no effect"),
        ("{type: examples, metric: test/accuracy, label: A, classes: [0]}", r"panels\[0\]\.metric has no effect"),
    ],
)
def test_a_setting_that_a_panel_cannot_show_is_refused(tmp_path: Path, panel: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Suite(tmp_path, SPEC[: SPEC.index("panels:")] + f"panels: [{panel}]\n")


REPORTED = """\
row,column,mean,sd,unit,own_run,source
Instance,Label error (%),33,,percent,yes,"Somebody 2020, Figure 4; 40 at the start"
Instance,Accuracy,0.75,,fraction,no,Somebody 2020
"""


def test_published_values_stand_at_the_edges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "reported.csv").write_text(REPORTED)
    text = SPEC.replace("label: Test accuracy (%), scale: percent", "label: Accuracy") + "reported: {file: reported.csv}\n"
    suite = Suite(tmp_path, text)
    suite.fill()
    files = suite.make()
    lines = [row for row in csv.DictReader(files.contents["curves.csv"].decode().splitlines()) if row["source"] == "published"]
    # As fractions, like everything in a CSV.
    assert [(row["row"], row["metric"], row["epoch"], float(row["mean"])) for row in lines] == [
        ("Instance", "noise/label_error", "start", pytest.approx(0.4)),
        ("Instance", "noise/label_error", "end", pytest.approx(0.33)),
        ("Instance", "test/accuracy", "end", pytest.approx(0.75)),
    ]
    assert "Label error (%), Instance: 40 at the start, 33 at the end (Somebody 2020, Figure 4; 40 at the start)." in files.page
    assert "Accuracy, Instance: 0.75 at the end (Somebody 2020)." in files.page
    assert legend(suite, monkeypatch) == ["One-hot", "Instance", "published"]
    axes = Figure().subplots()
    draw_curves(axes, suite.spec, suite.spec.panels[0], [], title="", looks={})
    markers = [(*line.get_xdata(), *line.get_ydata()) for line in axes.lines if line.get_marker() == "o"]
    assert markers == [(0.0, pytest.approx(40.0)), (1.0, pytest.approx(33.0))]


def test_another_scale_is_stamped_in_the_picture_and_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny.yaml").write_text("title: tiny\nstamp: Tiny scale, these numbers mean nothing.\nrules: [{set: {optim.epochs: 1}}]\n")
    suite = Suite(tmp_path)
    suite.fill()
    assert texts(suite, monkeypatch) == []
    scaled = Suite(tmp_path / "scaled", scale=load_scale(str(tmp_path / "tiny.yaml")))
    scaled.fill()
    assert texts(scaled, monkeypatch) == ["Tiny scale, these numbers mean nothing."]
    assert "Tiny scale, these numbers mean nothing." in scaled.make().page


def texts(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what stands in the figure outside its panels."""
    seen: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(Figure, "text", lambda self, x, y, text, **options: seen.append(text))
        suite.make()
    return seen


def test_figures_of_one_and_of_four_panels(tmp_path: Path) -> None:
    panels = [f"{{metric: {metric}, label: A}}" for metric in ("test/accuracy", "train/accuracy", "val/accuracy", "meta/accuracy")]
    sizes = []
    for count in (1, 4):
        (tmp_path / str(count)).mkdir()
        suite = Suite(tmp_path / str(count), SPEC[: SPEC.index("panels:")] + f"panels: [{', '.join(panels[:count])}]\n")
        suite.fill()
        sizes.append(struct.unpack(">II", suite.make().contents["curves.png"][16:24]))
    (narrow, low), (wide, high) = sizes
    # Two panels beside each other, in two lines.
    assert (narrow, wide) == (720, 1440)
    assert high > 1.8 * low


def test_damaged_metrics_are_named(suite: Suite) -> None:
    suite.fill()
    path = suite.folder("One-hot", 1) / "metrics.jsonl"
    path.write_text(path.read_text() + '{"epoch": 3, "test/acc')
    with pytest.raises(UserError, match=r"metrics\.jsonl is not what the run wrote"):
        suite.make()


def test_many_lines_are_told_apart() -> None:
    assert len({(look(index)["color"], look(index)["linestyle"]) for index in range(28)}) == 28


def test_the_same_bytes_whatever_the_folder_locale_time_zone_and_settings(suite: Suite, tmp_path: Path) -> None:
    suite.fill()
    made = []
    for index, (locale, zone) in enumerate([("C.UTF-8", "UTC"), ("de_DE.UTF-8", "Asia/Tokyo")]):
        cwd = tmp_path / f"cwd{index}"
        cwd.mkdir()
        if index:
            (cwd / "matplotlibrc").write_text(
                "axes.facecolor: black\nfont.size: 20\nsavefig.dpi: 30\nsavefig.bbox: tight\npath.simplify: False\n"
            )
        command = [sys.executable, "-m", "analysis", "figures", str(suite.path), "--runs", os.path.relpath(suite.runs, cwd), "--out", "out"]
        environment = os.environ | {"LC_ALL": locale, "TZ": zone, "PYTHONHASHSEED": str(index), "SOURCE_DATE_EPOCH": str(index)}
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        made.append({path.name: path.read_bytes() for path in sorted((cwd / "out" / "curves").iterdir())})
    assert made[0] == made[1]
    everything = b"".join(made[0].values())
    assert b"Date" not in made[0]["curves.pdf"]
    assert str(tmp_path).encode() not in everything


def test_the_command(suite: Suite, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite.fill()
    assert main(["figures", str(suite.path), "--runs", str(suite.runs), "--out", str(tmp_path / "out")]) == 0
    assert "curves.png" in capsys.readouterr().out
    assert main(["tables", str(suite.path), "--runs", str(suite.runs)]) == 2
    assert "Call: python -m analysis figures" in capsys.readouterr().err
