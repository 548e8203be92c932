"""Losses that correct for label noise, and the focal loss, against direct formulas in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from repro import registry
from repro.corrections import estimated_transition, inverse
from repro.errors import UserError
from repro.inputs import Inputs
from repro.methods.base import Batch, Context, Method
from tests.unit.made_inputs import NUM_CLASSES, made_data, make_context, write_teacher

K = NUM_CLASSES
OBSERVED = torch.tensor([0, 1, 2, 3, 4, 0, 3])


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def made_matrix(seed: int = 0) -> Tensor:
    """Return a transition matrix without symmetry and with a zero in it."""
    raw = torch.rand(K, K, generator=torch.Generator().manual_seed(seed)) + 2.0 * torch.eye(K)
    raw[1, 3] = 0.0
    return raw / raw.sum(1, keepdim=True)


def build(name: str, matrix: Tensor | None, **settings: Any) -> Method:
    choice = registry.get("method", name)
    method: Method = choice.build(choice.config(**settings), Context(K, OBSERVED, torch.device("cpu"), 0, transition=matrix))
    return method


def batch_of(scores: Tensor) -> Batch:
    return Batch(torch.arange(len(OBSERVED)), OBSERVED, 0, scores.detach())


def compare(method: Method, formula: Callable[[Tensor, int], Tensor]) -> None:
    """Check loss and gradient against the mean of ``formula(f, y)`` over the batch."""
    logits = (2.0 * torch.randn(len(OBSERVED), K, generator=torch.Generator().manual_seed(1))).requires_grad_()
    scores = torch.log_softmax(logits, 1)
    found = method.loss(scores, batch_of(scores))
    rows = torch.softmax(logits, 1)
    wanted = torch.stack([formula(row, int(label)) for row, label in zip(rows, OBSERVED, strict=True)]).mean()
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    slopes = [torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (found, wanted)]
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_focal_loss_is_the_formula(gamma: float) -> None:
    compare(build("focal", None, gamma=gamma), lambda f, y: -((1 - f[y]) ** gamma) * f[y].log())


def test_focal_loss_of_certain_predictions_is_finite() -> None:
    for gamma in (0.5, 1.0, 2.0):
        logits = torch.zeros(len(OBSERVED), K, dtype=torch.float32)
        logits[torch.arange(len(OBSERVED)), OBSERVED] = 200.0
        logits[0] = -logits[0]
        logits.requires_grad_()
        scores = torch.log_softmax(logits, 1)
        value = build("focal", None, gamma=gamma).loss(scores, batch_of(scores))
        value.backward()
        assert torch.isfinite(value)
        assert logits.grad is not None
        assert torch.isfinite(logits.grad).all()
        assert (logits.grad[1:] == 0.0).all()


def test_forward_correction_is_the_formula() -> None:
    matrix = made_matrix()
    compare(build("forward_correction", matrix), lambda f, y: -(matrix.T @ f)[y].log())


def test_backward_correction_is_the_formula() -> None:
    matrix = made_matrix()
    compare(build("backward_correction", matrix), lambda f, y: (torch.linalg.inv(matrix) @ -f.log())[y])


def test_smoothing_by_the_noise_is_the_formula() -> None:
    matrix = made_matrix()
    compare(build("label_smoothing", matrix, form="noise"), lambda f, y: (matrix @ -f.log())[y])


@pytest.mark.parametrize("name", ["forward_correction", "backward_correction"])
def test_without_noise_a_correction_is_cross_entropy(name: str) -> None:
    for matrix in (None, torch.eye(K)):
        compare(build(name, matrix), lambda f, y: -f[y].log())


def test_forward_correction_is_finite_where_a_network_is_certain_of_the_impossible() -> None:
    matrix = torch.eye(K, dtype=torch.float32)
    matrix[0] = torch.tensor([0.5, 0.5, 0.0, 0.0, 0.0])
    logits = torch.zeros(len(OBSERVED), K, dtype=torch.float32)
    logits[:, 2] = 90.0
    logits.requires_grad_()
    scores = torch.log_softmax(logits, 1)
    value = build("forward_correction", matrix).loss(scores, batch_of(scores))
    value.backward()
    assert torch.isfinite(value)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_backward_correction_is_unbiased() -> None:
    """The mean of the corrected loss over the annotations of a class is the loss of the class."""
    matrix = made_matrix()
    method = build("backward_correction", matrix)
    every = Batch(torch.arange(K), torch.arange(K), 0, torch.zeros(K, K))
    torch.testing.assert_close(matrix @ method.coefficients(every) * K, torch.eye(K), rtol=0, atol=1e-12)


def test_closed_forms_of_uniform_noise() -> None:
    """With a = 0.4: smearing (1 - a) I + a J / K, its inverse I / (1 - a) - a J / ((1 - a) K); smoothing by the rate is the former."""
    identity, ones, a = torch.eye(K), torch.ones(K, K), 0.4
    uniform = registry.get("noise", "uniform")
    matrix = torch.from_numpy(uniform.transition(uniform.config(name="uniform", rate=a), K))
    torch.testing.assert_close(matrix, (1 - a) * identity + a / K * ones)
    torch.testing.assert_close(inverse(matrix), identity / (1 - a) - a / ((1 - a) * K) * ones)
    without = torch.from_numpy(uniform.transition(uniform.config(name="uniform", rate=a, include_true=False), K))
    more = a * K / (K - 1)
    torch.testing.assert_close(without, (1 - more) * identity + more / K * ones)
    rows = torch.arange(len(OBSERVED))
    by_noise, by_rate = (build("label_smoothing", matrix, form=form, alpha=a).targets(rows) for form in ("noise", "uniform"))
    torch.testing.assert_close(by_noise, by_rate)


def test_a_matrix_that_cannot_be_inverted_is_named() -> None:
    with pytest.raises(UserError, match=r"condition number of .*forward_correction"):
        build("backward_correction", torch.full((K, K), 1.0 / K))


@pytest.mark.parametrize("percentile", [100.0, 50.0])
def test_the_estimate_is_the_prediction_for_the_image_at_the_percentile(tmp_path: Path, percentile: float) -> None:
    torch.set_default_dtype(torch.float32)
    context = make_context(Inputs(teacher=write_teacher(tmp_path)))
    from repro.teacher import load_model

    assert context.inputs.teacher is not None
    predicted = torch.softmax(load_model(context.inputs.teacher, context)(made_data().train.images / 255.0), 1).detach()
    found = estimated_transition(context, percentile)
    for k in range(K):
        chosen = sorted(predicted[:, k].tolist())[-1 if percentile == 100.0 else len(predicted) // 2 - 1]
        row = (predicted[:, k] == chosen).nonzero()[0]
        torch.testing.assert_close(found[k], predicted[row[0]])
    forward = registry.get("method", "forward_correction")
    config = forward.config(matrix="estimated", percentile=percentile)
    assert forward.build.reads_inputs(config) == ("teacher",)
    torch.testing.assert_close(forward.build(config, context)._log_matrix, found.log())
