"""Which way the gradient of instance labels points: counted by hand, and without a trace in what is trained."""

from pathlib import Path

import pytest
import torch
from real_runs import lasting_rows, read_metrics, stopped, tiny

from repro.config import registry
from repro.engine.label_gradient import GradientDirections
from repro.engine.method import Batch, Context
from repro.errors import UserError
from repro.training.run import execute

NOISY = ("optim.epochs=3", "noise=uniform", "noise.rate=0.4")


def test_directions_are_counted_by_the_annotated_and_the_true_class() -> None:
    observed, true = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 2, 2])
    choice = registry.get("method", "instance_labels")
    method = choice.build(choice.config(learning_rate=0.0), Context(3, observed, torch.device("cpu"), 0))
    directions = GradientDirections(method, observed, true)
    # Rightly annotated: the mass on class 0 is 0.9, so a gradient of -1 there lies below the mean, and one of +1 above it.
    gradient = torch.tensor([[-1.0, 0, 0], [1.0, 0, 0], [9.0, 0.5, 0.4], [9.0, 0.5, 0.6]])
    rows = torch.arange(4)
    directions.count(Batch(rows=rows, observed=observed, log_probabilities=gradient), gradient)
    assert directions.metrics() == {"label/gradient_right_clean": 0.5, "label/gradient_right_noisy": 0.5}
    directions.count(Batch(rows=rows[3:], observed=observed[3:], log_probabilities=gradient[3:]), gradient[3:])
    assert directions.metrics() == {"label/gradient_right_noisy": 0.0}


def test_counting_changes_nothing_and_goes_on_after_a_stop(tmp_path: Path) -> None:
    settings = (*NOISY, "method=instance_labels")
    plain = execute(tiny(tmp_path / "plain", *settings))
    counted = execute(tiny(tmp_path / "whole", *settings, "trajectory.gradient=true"))
    assert plain.name != counted.name
    assert (plain / "model.safetensors").read_bytes() == (counted / "model.safetensors").read_bytes()
    rows = read_metrics(counted)
    assert "label/gradient_right_noisy" not in rows[0]
    assert all(0.0 < row[f"label/gradient_right_{kind}"] < 1.0 for row in rows[1:] for kind in ("clean", "noisy"))

    again = tiny(tmp_path / "stopped", *settings, "trajectory.gradient=true")
    stopped(again, epoch=1, batch=7)
    assert lasting_rows(execute(again)) == lasting_rows(counted)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["method=class_labels"], "trajectory.gradient=true contradicts method=class_labels, which learns no instance labels"),
        (["method=instance_labels", "exec.compile=true"], "trajectory.gradient=true contradicts exec.compile and exec.cuda_graphs"),
    ],
)
def test_what_cannot_be_counted_is_refused(settings: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tiny(Path(), *settings, *NOISY, "trajectory.gradient=true")
