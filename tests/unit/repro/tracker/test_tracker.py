"""The parts of the W&B mirror that need neither a client nor a server."""

import os
import shlex
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from markdown_blocks import ROOT

from repro.metric_names import MAX_CLASS_SERIES, METRICS, NOT_IN_ROWS
from repro.tracker.__main__ import _parser
from repro.tracker.contents import mismatch
from repro.tracker.mirror import WandbTracker, isolate
from repro.tracker.pictures import heatmap

PAGE = (ROOT / "docs" / "wandb.md").read_text()


def test_what_the_client_keeps_is_open_to_the_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    before = os.umask(0o002)
    isolate(tmp_path)
    os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in (tmp_path / "wandb-data").rglob("*")] == [0o775, 0o775]


def test_heat_map() -> None:
    rows = [{"epoch": epoch, "class_target_probability/000": 0.0, "class_target_probability/001": epoch / 4} for epoch in range(5)]
    image = heatmap(rows, epochs=9)
    assert (image.shape, image.dtype) == ((320, 640, 3), np.uint8)
    cells = image[::160, ::64].astype(int)
    assert (cells[0, :5] == cells[0, 0]).all()
    assert (np.diff(cells[1, :5].sum(axis=1)) > 0).all()
    assert (cells[:, 5:] == 128).all()
    assert (cells[1, 0] == cells[0, 0]).all()
    assert heatmap([{"epoch": 0, "test/loss": 1.0}], epochs=3) is None
    unknown = heatmap([{"epoch": 0, "class_target_probability/000": "NaN"}], epochs=0)
    assert (unknown == 128).all()


ROW = {"epoch": 3, "step": 30, "test/loss": "NaN", "test/accuracy": 1.0, "time/epoch_s": 1.0}
MIRRORED = {"epoch": 3, "step": 30, "test/loss": "NaN", "test/accuracy": 1, "time/epoch_s": 2.0, "_runtime": 1}


@pytest.mark.parametrize(
    ("mirrored", "difference"),
    [
        ([], None),
        ([MIRRORED], None),
        ([MIRRORED | {"test/loss": float("nan")}], None),
        ([MIRRORED | {"test/accuracy": 0.9999999}], "epoch 3: test/accuracy is 0.9999999, not 1.0"),
        ([MIRRORED | {"test/loss": None}], "epoch 3: test/loss is None, not 'NaN'"),
        ([MIRRORED | {"test/loss": {"max": 1}}], "epoch 3: test/loss is {'max': 1}, not 'NaN'"),
        ([MIRRORED | {"epoch": 2}], "epoch 2 where epoch 3 should stand"),
        ([MIRRORED, {"epoch": 4}], "2 rows, and metrics.jsonl has 1"),
    ],
)
def test_comparing_rows(mirrored: list[dict[str, object]], difference: str | None) -> None:
    assert mismatch([ROW], mirrored, finished=True) == difference
    assert (mismatch([ROW], mirrored, finished=False) is None) == (difference is None or len(mirrored) > 1)


def test_the_documentation_lists_every_metric() -> None:
    """Where this fails, put what it expects between the two marks of docs/wandb.md."""
    lines = ["| name | unit | what it is | in metrics.jsonl |", "|---|---|---|---|"]
    for metric in METRICS:
        limit = f"; for up to {MAX_CLASS_SERIES} classes" if "{k}" in metric.name else ""
        definition = metric.definition.replace("|", "\\|") + limit
        lines.append(f"| `{metric.name}` | {metric.unit} | {definition} | {'no' if metric.name in NOT_IN_ROWS else 'yes'} |")
    assert PAGE.partition("<!-- metrics: begin -->\n")[2].partition("\n<!-- metrics: end -->")[0].splitlines() == lines


def test_only_epochs_after_the_last_of_the_server_are_logged(tmp_path: Path) -> None:
    run = SimpleNamespace(steps=[], log=lambda row, step, commit: run.steps.append(step))
    tracker = WandbTracker(run, SimpleNamespace(tracker={"picture_epochs": 0}, epochs=4, attempt=2, folder=tmp_path), last_epoch=1)  # type: ignore[arg-type]  # all that it reads
    for epoch in range(5):
        tracker.log({"epoch": epoch, "step": epoch, "test/loss": 1.0})
    assert (run.steps, tracker.last_error) == ([2, 3, 4], None)


def test_documented_commands_are_understood() -> None:
    commands = [line.strip().partition("#")[0].partition(">")[0] for line in PAGE.splitlines() if "-m repro.tracker " in line]
    assert len(commands) >= 5
    for command in commands:
        _parser().parse_args(shlex.split(command.partition("-m repro.tracker ")[2]))
