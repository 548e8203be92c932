"""From a grid to the values and then to a table, on a SLURM."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from lab import SPEC, Lab

import slurm.__main__
from slurm.jobs.ledger import Ledger
from sweeps.plan.plan import make_plan
from sweeps.spec.load import PAPER, load_spec

pytestmark = pytest.mark.slurm

TUNED = """
runs:
  folds:
    set: {method: instance_labels, split: fold, split.num_folds: 2}
    each: {split.fold: [0, 1]}
    tuned: rate
tuning:
  rate:
    set: {method: instance_labels, split: fold, split.num_folds: 2, split.fold: 0, split.validation_size: 100, seed: 7}
    grid: {method.learning_rate: [5.0, 50.0]}
    otherwise: {method.learning_rate: 20.0}
rows: [{label: Ours, set: {method: replay, split: full}, inputs: {labels: folds}}]
"""


def test_tuning_folds_and_finals_by_one_command(
    lab: Callable[..., Lab], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPRO_TUNED", str(tmp_path / "tuned"))
    monkeypatch.setattr(slurm.__main__, "FOLLOW_S", 0.5)
    trial = lab(SPEC.format(runs=TUNED, seeds=[0], epochs=1))
    # A call that does not stay sends the grid and nothing else, and says how it goes on; so does the next, which has nothing to send.
    for sent in (2, 0):
        assert trial.submit("--tune") == 0
        said = capsys.readouterr().out
        assert f"submitted {sent} runs" in said
        assert "the grids are not done; give the same command again when they are" in said
    assert trial.call("status", "trial.tuning") == 0
    (grid,) = Ledger(trial.runs).read()
    assert trial.submit("--tune", "--follow") == 0
    assert "rate for digits, digits_cnn: method.learning_rate=" in capsys.readouterr().out
    (tuned,) = yaml.safe_load((tmp_path / "tuned" / "paper.yaml").read_text())["tuned"]
    trial.plan = make_plan([load_spec(str(trial.spec), PAPER)], trial.runs)
    trial.ids = list(trial.plan.runs)
    assert not set(trial.ids) & set(grid.runs)
    rate = tuned["chosen"]["method.learning_rate"]
    assert [trial.plan.runs[name].fields["method.learning_rate"] for name in trial.ids[:2]] == [rate, rate]
    assert rate in (5.0, 50.0)
    trial.assert_done()
    assert trial.call("tune", str(trial.spec), "--yes") == 0
    said = capsys.readouterr().out
    assert "has the scores of these runs" in said
    assert "submitted" not in said
