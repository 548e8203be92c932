"""Losses that correct for label noise, the focal loss and the confidence penalty, against direct formulas in float64."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from made_inputs import NUM_CLASSES, build_method, made_data, make_context, write_teacher
from torch import Tensor

from repro.config import registry
from repro.engine.method import Batch, Context, Method
from repro.errors import UserError
from repro.methods.shared.transition import estimated_transition, inverse
from repro.runs.inputs import Inputs

pytestmark = pytest.mark.usefixtures("double")

K = NUM_CLASSES
OBSERVED = torch.tensor([0, 1, 2, 3, 4, 0, 3])


def made_matrix() -> Tensor:
    """Return a transition matrix without symmetry and with a zero in it."""
    raw = torch.rand(K, K, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 2.0 * torch.eye(K, dtype=torch.float64)
    raw[1, 3] = 0.0
    return raw / raw.sum(1, keepdim=True)


def noisy(matrix: Tensor | None) -> Context:
    return Context(K, OBSERVED, torch.device("cpu"), 0, transition=matrix)


def batch_of(scores: Tensor) -> Batch:
    return Batch(torch.arange(len(OBSERVED)), OBSERVED, scores.detach())


def loss_of(method: Method, scores: Tensor) -> Tensor:
    """Return the loss; where the method gives none of its own, it is linear in its coefficients."""
    batch = batch_of(scores)
    own = method.loss(scores, batch)
    return -(method.coefficients(batch) * scores).sum() if own is None else own


def compare(method: Method, formula: Callable[[Tensor, int], Tensor]) -> None:
    """Check loss and gradient against the mean of ``formula(f, y)`` over the batch."""
    logits = (2.0 * torch.randn(len(OBSERVED), K, generator=torch.Generator().manual_seed(1))).requires_grad_()
    scores = torch.log_softmax(logits, 1)
    found = loss_of(method, scores)
    rows = torch.softmax(logits, 1)
    wanted = torch.stack([formula(row, int(label)) for row, label in zip(rows, OBSERVED, strict=True)]).mean()
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    slopes = [torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (found, wanted)]
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-10, atol=1e-12)


MATRIX, IDENTITY = made_matrix(), torch.eye(K, dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "matrix", "settings", "formula"),
    [
        *(("focal", None, {"gamma": g}, lambda f, y, g=g: -((1 - f[y]) ** g) * f[y].log()) for g in (0.0, 0.5, 1.0, 2.0, 5.0)),
        *(("confidence_penalty", None, {"beta": b}, lambda f, y, b=b: -f[y].log() + b * (f * f.log()).sum()) for b in (0.0, 0.1, 1.5)),
        ("forward_correction", MATRIX, {}, lambda f, y: -(MATRIX.T @ f)[y].log()),
        ("backward_correction", MATRIX, {}, lambda f, y: (torch.linalg.inv(MATRIX) @ -f.log())[y]),
        ("label_smoothing", MATRIX, {"form": "noise"}, lambda f, y: (MATRIX @ -f.log())[y]),
        *((f"{kind}_correction", matrix, {}, lambda f, y: -f[y].log()) for kind in ("forward", "backward") for matrix in (None, IDENTITY)),
    ],
)
def test_the_loss_is_the_formula(
    name: str, matrix: Tensor | None, settings: dict[str, Any], formula: Callable[[Tensor, int], Tensor]
) -> None:
    compare(build_method(name, noisy(matrix), **settings), formula)


@pytest.mark.parametrize(
    ("name", "settings"),
    [*(("focal", {"gamma": gamma}) for gamma in (0.5, 1.0, 2.0)), ("forward_correction", {}), ("confidence_penalty", {"beta": 0.5})],
)
def test_certain_predictions_give_finite_numbers(name: str, settings: dict[str, Any]) -> None:
    """Also a prediction that is certain of a class that is never annotated so."""
    matrix = torch.eye(K, dtype=torch.float32)
    matrix[0] = torch.tensor([0.5, 0.5, 0.0, 0.0, 0.0])
    for certain_of in (OBSERVED, torch.full_like(OBSERVED, 2), (OBSERVED + 1) % K):
        logits = (200.0 * torch.nn.functional.one_hot(certain_of, K)).to(torch.float32).requires_grad_()
        value = loss_of(build_method(name, noisy(matrix), **settings), torch.log_softmax(logits, 1))
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(logits.grad).all()


def test_backward_correction_is_unbiased() -> None:
    """The mean of the corrected loss over the annotations of a class is the loss of the class."""
    method = build_method("backward_correction", noisy(MATRIX))
    every = Batch(torch.arange(K), torch.arange(K), torch.zeros(K, K))
    torch.testing.assert_close(MATRIX @ method.coefficients(every) * K, torch.eye(K), rtol=0, atol=1e-12)


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
    by_noise, by_rate = (build_method("label_smoothing", noisy(matrix), form=form, alpha=a).targets(rows) for form in ("noise", "uniform"))
    torch.testing.assert_close(by_noise, by_rate)


def test_a_matrix_that_cannot_be_inverted_is_named() -> None:
    with pytest.raises(UserError, match=r"condition number of .*forward_correction"):
        build_method("backward_correction", noisy(torch.full((K, K), 1.0 / K)))


@pytest.mark.parametrize("percentile", [100.0, 50.0])
def test_the_estimate_is_the_prediction_for_the_image_at_the_percentile(tmp_path: Path, percentile: float) -> None:
    torch.set_default_dtype(torch.float32)
    context = make_context(Inputs(teacher=write_teacher(tmp_path)))
    from repro.methods.shared.teacher import load_model

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
