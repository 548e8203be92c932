"""Losses that correct for label noise, the focal loss and the confidence penalty, against direct formulas in float64."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from made_inputs import NUM_CLASSES, build_method, made_data, make_context, make_network, teacher_run
from torch import Tensor

from repro.engine.method import Batch, Context, Method
from repro.errors import UserError
from repro.runs.inputs import Inputs

pytestmark = pytest.mark.usefixtures("double")

K, OBSERVED = NUM_CLASSES, torch.tensor([0, 1, 2, 3, 4, 0, 3])
#: A transition matrix without symmetry and with a zero in it.
MATRIX = torch.rand(K, K, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 2.0 * torch.eye(K, dtype=torch.float64)
MATRIX[1, 3] = 0.0
MATRIX /= MATRIX.sum(1, keepdim=True)


def build(name: str, matrix: Tensor | None = None, **settings: Any) -> Method:
    return build_method(name, Context(K, OBSERVED, torch.device("cpu"), 0, transition=matrix), **settings)


def loss_of(method: Method, scores: Tensor) -> Tensor:
    """Return the loss; where the method gives none of its own, it is linear in its coefficients."""
    batch = Batch(torch.arange(len(OBSERVED)), OBSERVED, scores.detach())
    own = method.loss(scores, batch)
    return -(method.coefficients(batch) * scores).sum() if own is None else own


@pytest.mark.parametrize(
    ("name", "matrix", "settings", "formula"),
    [
        *(("focal", None, {"gamma": g}, lambda f, y, g=g: -((1 - f[y]) ** g) * f[y].log()) for g in (0.0, 0.5, 2.0)),
        *(("confidence_penalty", None, {"beta": b}, lambda f, y, b=b: -f[y].log() + b * (f * f.log()).sum()) for b in (0.0, 1.5)),
        *((f"{kind}_correction", None, {}, lambda f, y: -f[y].log()) for kind in ("forward", "backward")),
        ("forward_correction", MATRIX, {}, lambda f, y: -(MATRIX.T @ f)[y].log()),
        ("backward_correction", MATRIX, {}, lambda f, y: (torch.linalg.inv(MATRIX) @ -f.log())[y]),
        ("label_smoothing", MATRIX, {"form": "noise"}, lambda f, y: (MATRIX @ -f.log())[y]),
        ("label_smoothing", None, {"alpha": 0.2}, lambda f, y: -0.8 * f[y].log() - 0.2 * f.log().mean()),
        ("label_smoothing", None, {"alpha": 0.2, "form": "nontarget"}, lambda f, y: -0.75 * f[y].log() - 0.05 * f.log().sum()),
    ],
)
def test_the_loss_is_the_formula(
    name: str, matrix: Tensor | None, settings: dict[str, Any], formula: Callable[[Tensor, int], Tensor]
) -> None:
    logits = (2.0 * torch.randn(len(OBSERVED), K, generator=torch.Generator().manual_seed(1))).requires_grad_()
    loss = loss_of(build(name, matrix, **settings), torch.log_softmax(logits, 1))
    wanted = torch.stack([formula(row, int(label)) for row, label in zip(torch.softmax(logits, 1), OBSERVED, strict=True)]).mean()
    torch.testing.assert_close(loss, wanted, rtol=1e-12, atol=1e-12)
    slopes = [torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (loss, wanted)]
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "settings"), [("focal", {"gamma": 0.5}), ("forward_correction", {}), ("confidence_penalty", {"beta": 0.5})]
)
def test_certain_predictions_give_finite_numbers(name: str, settings: dict[str, Any]) -> None:
    """Also a prediction that is certain of a class that is never annotated so."""
    matrix = torch.eye(K, dtype=torch.float32)
    matrix[0] = torch.tensor([0.5, 0.5, 0.0, 0.0, 0.0])
    for certain_of in (OBSERVED, torch.full_like(OBSERVED, 2), (OBSERVED + 1) % K):
        logits = (200.0 * torch.nn.functional.one_hot(certain_of, K)).to(torch.float32).requires_grad_()
        value = loss_of(build(name, matrix, **settings), torch.log_softmax(logits, 1))
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(logits.grad).all()


def test_a_matrix_that_cannot_be_inverted_is_named() -> None:
    with pytest.raises(UserError, match=r"condition number of .*forward_correction"):
        build("backward_correction", torch.full((K, K), 1.0 / K))


@pytest.mark.parametrize("percentile", [100.0, 50.0])
def test_the_estimate_is_the_prediction_for_the_image_at_the_percentile(tmp_path: Path, percentile: float) -> None:
    torch.set_default_dtype(torch.float32)
    context = make_context(Inputs(teacher=teacher_run(tmp_path)))
    predicted = torch.softmax(make_network("teacher").eval()(made_data().train.images / 255.0), 1).detach()
    method = build_method("forward_correction", context, matrix="estimated", percentile=percentile)
    assert method.reads_inputs(method.config) == ("teacher",)
    for k in range(K):
        chosen = sorted(predicted[:, k].tolist())[-1 if percentile == 100.0 else len(predicted) // 2 - 1]
        torch.testing.assert_close(method.transition[k], predicted[int((predicted[:, k] == chosen).nonzero()[0])])
