import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from run_folders import Suite, csv_rows, done_run, ended_run, made_twice

from analysis.__main__ import main
from analysis.figures.curves import draw_curves
from analysis.figures.panels import legend_columns, look
from analysis.tables.page import Files
from repro.errors import UserError
from sweeps.spec.load import load_scale

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


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return Suite(tmp_path, SPEC)


def folder_of(suite: Suite, row: str, seed: int) -> Path:
    return suite.folder(row, "40%", seed)


def done(suite: Suite, row: str, seed: int, error: list[float] | None = None) -> None:
    error = [value + 0.01 * seed for value in (error or ERROR)]
    done_run(folder_of(suite, row, seed), curve={"noise/label_error": error, "test/accuracy": [1 - value for value in error]})


def fill(suite: Suite, *but: tuple[str, int]) -> None:
    """Finish all runs but those."""
    for row, _, seed in suite.names:
        if (row, seed) not in but:
            done(suite, row, seed)


def plotted(files: Files) -> dict[tuple[str, str, int], dict[str, str]]:
    return {(row["row"], row["metric"], int(row["epoch"])): row for row in csv_rows(files)}


def size_of(files: Files) -> tuple[int, int]:
    width, height = struct.unpack(">II", files.contents["tried.png"][16:24])
    return width, height


@pytest.fixture
def drawn_text(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """The entries of the figure's legend, and what stands outside its panels."""
    seen: dict[str, list[str]] = {"legend": [], "text": []}
    legend = Figure.legend

    def noting(self: Figure, *arguments: Any, **options: Any) -> Any:
        seen["legend"] = [handle.get_label() for handle in options["handles"]]
        return legend(self, *arguments, **options)

    monkeypatch.setattr(Figure, "legend", noting)
    monkeypatch.setattr(Figure, "text", lambda self, x, y, text, **options: seen["text"].append(text))
    return seen


def test_a_full_figure(suite: Suite) -> None:
    fill(suite)
    files = suite.make()
    assert list(files.contents) == ["tried.png", "tried.svg", "tried.pdf", "tried.csv", "tried.provenance.json", "tried.md"]
    points = plotted(files)
    assert len(points) == 2 * 2 * 3
    point = points["Instance", "noise/label_error", 2]
    assert float(point["mean"]) == pytest.approx(0.21, rel=1e-12)
    assert float(point["sd"]) == pytest.approx(0.01, rel=1e-12)
    assert (point["n"], point["expected"], point["diverged"]) == ("3", "3", "0")
    width, height = size_of(files)
    assert width == 1440
    assert height > 500
    assert files.contents["tried.pdf"].startswith(b"%PDF")
    page = files.page
    assert "![Curves](tried.png)" in page
    assert "Runs: 6 of 6 are done." in page
    assert "`python -m analysis figures tried.yaml`" in page
    lines = json.loads(files.contents["tried.provenance.json"])["lines"]
    assert [run["run_id"] for run in lines[1]["runs"]] == [f"Instance-40-{seed}" for seed in range(3)]


def test_missing_and_failed_runs_are_said_in_legend_and_page(suite: Suite, drawn_text: dict[str, list[str]]) -> None:
    fill(suite, ("Instance", 0), ("Instance", 1))
    ended_run(folder_of(suite, "Instance", 1), "failed", "ValueError: no")
    # What an unfinished run has written so far is not plotted.
    (folder_of(suite, "Instance", 1) / "metrics.jsonl").write_text('{"epoch": 1, "test/accuracy": 0.0}\n')
    files = suite.make()
    point = plotted(files)["Instance", "test/accuracy", 1]
    assert (point["n"], point["expected"], point["sd"]) == ("1", "3", "")
    assert "failed: Instance, 40%, seed=1 (`Instance-40-1`): ValueError: no" in files.page
    assert "(n/N): only n of the line's N runs" in files.page
    assert drawn_text["legend"] == ["One-hot", "Instance (1/3)"]


def test_a_diverged_run_ends_the_line(suite: Suite, drawn_text: dict[str, list[str]]) -> None:
    fill(suite, ("Instance", 1), ("One-hot", 2))
    done(suite, "Instance", 1, [0.4, 0.3, math.nan])
    done(suite, "One-hot", 2, [0.4, 0.3])
    points = plotted(suite.make())
    assert points["Instance", "test/accuracy", 2]["mean"] == "NaN"
    assert points["Instance", "test/accuracy", 2]["diverged"] == "1"
    # A run that has no such epoch any more is not averaged around either.
    assert points["One-hot", "test/accuracy", 2]["mean"] == "NaN"
    assert float(points["Instance", "test/accuracy", 1]["mean"]) == pytest.approx(0.69, rel=1e-12)
    assert drawn_text["legend"] == ["One-hot div (1/3)", "Instance div (1/3)"]


def test_a_metric_that_a_method_has_not_is_no_error(suite: Suite) -> None:
    fill(suite, ("One-hot", 0), ("One-hot", 1), ("One-hot", 2))
    for seed in range(3):
        done_run(folder_of(suite, "One-hot", seed), curve={"test/accuracy": [0.1, 0.2, 0.3]})
    files = suite.make()
    assert ("One-hot", "noise/label_error", 1) not in plotted(files)
    assert ("One-hot", "test/accuracy", 1) in plotted(files)
    assert "have the metric" in files.page


def test_nothing_done_still_makes_a_page(suite: Suite) -> None:
    files = suite.make()
    header = "spec,panel,row,column,metric,class,class_name,instance,annotated,true,repeat,epoch,mean,sd,n,expected,diverged,source\n"
    assert files.contents["tried.csv"].decode() == header
    assert "Runs: 0 of 6 are done" in files.page
    # An empty picture says nothing.
    assert "No picture: no run is done." in files.page
    assert sorted(files.contents) == ["tried.csv", "tried.md", "tried.provenance.json"]


def test_a_panel_without_a_line_is_left_out_and_named(suite: Suite) -> None:
    for row, _, seed in suite.names:
        done_run(folder_of(suite, row, seed), curve={"test/accuracy": [0.1, 0.2]})
    files = suite.make()
    assert "- Not drawn: 40%, Label error (%): no done run has this metric." in files.page
    assert size_of(files)[0] == 720


def test_epochs_are_counted_in_round_steps_and_a_share_ends_at_one(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Axes] = []
    monkeypatch.setattr("analysis.figures.figure._freeze", lambda figure: found.extend(figure.axes))
    for row, _, seed in suite.names:
        done_run(folder_of(suite, row, seed), curve={"noise/label_error": [1.0] * 61, "test/accuracy": [0.0] * 61})
    suite.make()
    assert [tick for tick in found[0].get_xticks() if 0 <= tick <= 60] == [0, 10, 20, 30, 40, 50, 60]
    for axes in found[:2]:
        low, high = axes.get_ylim()
        assert [tick for tick in axes.get_yticks() if low <= tick <= high and not 0.0 <= tick <= 100.0] == []


def test_a_panel_draws_its_rows_only(tmp_path: Path, drawn_text: dict[str, list[str]]) -> None:
    one_panel = "Test accuracy (%), scale: percent, rows: Instance}"
    suite = Suite(tmp_path, SPEC.replace("Test accuracy (%), scale: percent}", one_panel))
    fill(suite)
    assert {(row, metric) for row, metric, _ in plotted(suite.make())} == {
        ("One-hot", "noise/label_error"),
        ("Instance", "noise/label_error"),
        ("Instance", "test/accuracy"),
    }
    assert drawn_text["legend"] == ["One-hot", "Instance"]


REPORTED = """\
row,column,mean,sd,unit,own_run,source
Instance,Label error (%),33,,percent,yes,"Somebody 2020, Figure 4; 40 at the start"
Instance,Accuracy,0.75,,fraction,no,Somebody 2020
"""


def test_published_values_stand_at_the_edges(tmp_path: Path, drawn_text: dict[str, list[str]]) -> None:
    (tmp_path / "reported.csv").write_text(REPORTED)
    text = SPEC.replace("label: Test accuracy (%), scale: percent", "label: Accuracy") + "reported: {file: reported.csv}\n"
    suite = Suite(tmp_path, text)
    fill(suite)
    files = suite.make()
    lines = [row for row in csv_rows(files) if row["source"] == "published"]
    # As fractions, like everything in a CSV.
    assert [(row["row"], row["metric"], row["epoch"], float(row["mean"])) for row in lines] == [
        ("Instance", "noise/label_error", "start", pytest.approx(0.4)),
        ("Instance", "noise/label_error", "end", pytest.approx(0.33)),
        ("Instance", "test/accuracy", "end", pytest.approx(0.75)),
    ]
    assert "Label error (%), Instance: 40 at the start, 33 at the end (Somebody 2020, Figure 4; 40 at the start)." in files.page
    assert "Accuracy, Instance: 0.75 at the end (Somebody 2020)." in files.page
    assert drawn_text["legend"] == ["One-hot", "Instance", "published"]
    (tmp_path / "tiny.yaml").write_text("title: tiny\nstamp: Tiny.\nrules: [{set: {optim.epochs: 1}}]\n")
    scaled = Suite(tmp_path / "scaled", text.replace("reported.csv", "../reported.csv"), load_scale(str(tmp_path / "tiny.yaml")))
    fill(scaled)
    assert {row["source"] for row in csv_rows(scaled.make())} == {"runs"}
    axes = Figure().subplots()
    draw_curves(axes, suite.spec, suite.spec.panels[0], [], title="", looks={})
    markers = [(*line.get_xdata(), *line.get_ydata()) for line in axes.lines if line.get_marker() == "o"]
    assert markers == [(0.0, pytest.approx(40.0)), (1.0, pytest.approx(33.0))]


def test_another_scale_is_stamped_in_the_picture_and_on_the_page(suite: Suite, tmp_path: Path, drawn_text: dict[str, list[str]]) -> None:
    (tmp_path / "tiny.yaml").write_text("title: tiny\nstamp: Tiny scale, these numbers mean nothing.\nrules: [{set: {optim.epochs: 1}}]\n")
    scaled = Suite(tmp_path / "scaled", SPEC, load_scale(str(tmp_path / "tiny.yaml")))
    fill(suite)
    fill(scaled)
    suite.make()
    assert drawn_text["text"] == []
    page = scaled.make().page
    assert drawn_text["text"] == ["Tiny scale, these numbers mean nothing."]
    assert "Tiny scale, these numbers mean nothing." in page


def test_figures_of_one_and_of_four_panels(tmp_path: Path) -> None:
    panels = [f"{{metric: {metric}, label: A}}" for metric in ("test/accuracy", "train/accuracy", "val/accuracy", "meta/accuracy")]
    sizes = []
    for count in (1, 4):
        suite = Suite(tmp_path / str(count), SPEC[: SPEC.index("panels:")] + f"panels: [{', '.join(panels[:count])}]\n")
        curve = {metric: [0.1, 0.2] for metric in ("test/accuracy", "train/accuracy", "val/accuracy", "meta/accuracy")}
        done_run(folder_of(suite, "Instance", 0), curve=curve)
        sizes.append(size_of(suite.make()))
    (narrow, low), (wide, high) = sizes
    # Two panels beside each other, in two lines.
    assert (narrow, wide) == (720, 1440)
    assert high > 1.8 * low


def test_damaged_metrics_are_named(suite: Suite) -> None:
    fill(suite)
    path = folder_of(suite, "One-hot", 1) / "metrics.jsonl"
    path.write_text(path.read_text() + '{"epoch": 3, "test/acc')
    with pytest.raises(UserError, match=r"metrics\.jsonl is not what the run wrote"):
        suite.make()


def test_many_lines_are_told_apart() -> None:
    assert len({(look(index)["color"], look(index)["linestyle"]) for index in range(28)}) == 28


def test_the_same_bytes_whatever_the_folder_locale_time_zone_and_settings(suite: Suite, tmp_path: Path) -> None:
    fill(suite)
    settings = "axes.facecolor: black\nfont.size: 20\nsavefig.dpi: 30\nsavefig.bbox: tight\npath.simplify: False\n"
    made = made_twice(suite, "figures", ("C.UTF-8", "de_DE.UTF-8"), matplotlibrc=settings)
    assert b"Date" not in made["tried.pdf"]
    assert str(tmp_path).encode() not in b"".join(made.values())


def test_the_command(suite: Suite, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(suite)
    assert main(["figures", str(suite.path), "--runs", str(suite.runs), "--out", str(tmp_path / "out")]) == 0
    assert "tried.png" in capsys.readouterr().out
    assert main(["tables", str(suite.path), "--runs", str(suite.runs)]) == 2
    assert "Call: python -m analysis figures" in capsys.readouterr().err


def test_a_band_is_cut_where_no_run_can_be(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    bands: list[tuple[float, float]] = []

    def note(self: Axes, epochs: Any, low: Any, high: Any, **style: Any) -> None:
        bands.append((float(np.min(low)), float(np.max(high))))

    monkeypatch.setattr(Axes, "fill_between", note)
    for row, _, seed in suite.names:
        done_run(
            folder_of(suite, row, seed), curve={"noise/label_error": [0.0, 0.0, 0.9 * (seed == 1)], "test/accuracy": [0.5, 1.0, 0.1 * seed]}
        )
    suite.make()
    assert bands
    assert min(low for low, _ in bands) == 0.0
    assert max(high for _, high in bands) <= 100.0


@pytest.mark.parametrize(
    ("names", "inches", "columns"),
    [
        (["One-hot", "Label smoothing", "Class labels (ours)", "Instance labels (ours)"], 7.2, 4),
        # One long name does not widen the columns of the others.
        (["a", "b", "c", "d", "e", "f", "a name of thirty-five letters, here"], 7.2, 7),
        (["a name of thirty-five letters, here"] * 3, 7.2, 2),
        (["a name of thirty-five letters, here"] * 3, 2.0, 1),
        ([], 7.2, 1),
    ],
)
def test_a_legend_stands_in_one_row_where_it_fits(names: list[str], inches: float, columns: int) -> None:
    assert legend_columns(names, inches) == columns
