"""The parts of the W&B mirror that need neither a client nor a server."""

import math
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np

from repro.metric_names import METRICS
from repro.tracker.__main__ import _parser, metrics_table
from repro.tracker.contents import as_logged, compare, summary_names
from repro.tracker.pictures import heatmap


def test_heat_map() -> None:
    rows = [{"epoch": epoch, "class_target_probability/000": 0.0, "class_target_probability/001": epoch / 4} for epoch in range(5)]
    image = heatmap(rows, epochs=9)
    assert image.shape == (320, 640, 3)
    assert image.dtype == np.uint8
    cells = image[::160, ::64].astype(int)
    assert (cells[0, :5] == cells[0, 0]).all()
    brightness = cells[1, :5].sum(axis=1)
    assert (np.diff(brightness) > 0).all()
    assert (cells[:, 5:] == 128).all()
    assert (cells[1, 0] == cells[0, 0]).all()
    assert heatmap([{"epoch": 0, "test/loss": 1.0}], epochs=3) is None
    unknown = heatmap([{"epoch": 0, "class_target_probability/000": "NaN"}], epochs=0)
    assert (unknown == 128).all()


def test_comparing_rows() -> None:
    truth = {"epoch": 3, "step": 30, "test/loss": "NaN", "test/accuracy": 1.0, "time/epoch_s": 1.0}
    assert as_logged(truth) | {"test/loss": 0.0} == truth | {"test/loss": 0.0}
    assert math.isnan(as_logged(truth)["test/loss"])
    mirrored = {"epoch": 3, "step": 30, "test/loss": "NaN", "test/accuracy": 1, "time/epoch_s": 2.0, "_runtime": 1}

    def problems(*rows: dict[str, object], finished: bool = True) -> list[str]:
        return compare([truth], rows, finished=finished)

    assert problems(mirrored) == []
    assert problems(mirrored | {"test/accuracy": 0.9999999}) == ["epoch 3: test/accuracy is 0.9999999, not 1.0"]
    assert problems({name: value for name, value in mirrored.items() if name != "test/loss"}) == ["epoch 3: test/loss is None, not nan"]
    assert problems(mirrored | {"test/loss": {"max": 1}}) == ["epoch 3: test/loss is {'max': 1}, not nan"]
    assert problems() == ["epochs [3] missing"]
    assert problems(mirrored, mirrored) == ["epochs [3] more than once"]
    assert problems(mirrored, {"epoch": 4}) == ["epochs [4] not in metrics.jsonl"]
    assert problems(mirrored, {"epoch": 4}, finished=False) == []
    assert problems(mirrored, {"epoch": 2}) == ["epochs out of order", "epochs [2] not in metrics.jsonl"]
    assert summary_names("test/accuracy")["last"] == "final_test_accuracy"


def test_documentation_lists_every_metric() -> None:
    """`python -m repro.tracker metrics` prints what stands between the two marks."""
    text = (Path(__file__).parents[4] / "docs" / "wandb.md").read_text()
    stands = text.partition("<!-- metrics: begin -->\n")[2].partition("<!-- metrics: end -->")[0]
    assert stands == metrics_table()
    assert all(f"`{metric.name}`" in stands for metric in METRICS)


def test_documented_commands_are_understood() -> None:
    root = Path(__file__).parents[4]
    lines = [line.strip() for name in ("README.md", "docs/wandb.md") for line in (root / name).read_text().splitlines()]
    commands = [line.partition("#")[0].partition("&gt;")[0] for line in lines if line.startswith("python -m repro.tracker ")]
    assert len(commands) >= 8
    for command in commands:
        _parser().parse_args(shlex.split(command)[3:])


def test_nothing_loads_wandb_before_it_is_needed() -> None:
    code = "import sys, repro.training.run, repro.tracker.__main__; sys.exit('wandb' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
