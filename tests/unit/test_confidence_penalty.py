"""The confidence penalty against a direct formula, and at extreme predictions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from repro import registry
from repro.methods.base import Batch, Method
from tests.unit.made_inputs import NUM_CLASSES, make_context


def loss_of(logits: Tensor, observed: Tensor, beta: float) -> Tensor:
    choice = registry.get("method", "confidence_penalty")
    context = make_context()
    method: Method = choice.build(choice.config(beta=beta), context)
    scores = torch.log_softmax(logits, 1)
    return method.loss(scores, Batch(torch.arange(len(observed)), observed, 0, scores.detach()))


@pytest.mark.parametrize("beta", [0.0, 0.1, 1.5])
def test_loss_and_gradient_are_those_of_the_formula(beta: float) -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, NUM_CLASSES, dtype=torch.float64, requires_grad=True)
    observed = torch.tensor([0, 1, 2, 3, 4, 0])
    entropy = torch.distributions.Categorical(logits=logits).entropy().mean()
    wanted = F.cross_entropy(logits, observed) - beta * entropy
    found = loss_of(logits, observed, beta)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    slopes = [torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (found, wanted)]
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-6, atol=1e-6)


def test_certain_predictions_give_finite_numbers() -> None:
    logits = torch.tensor([[200.0, 0.0, 0.0, 0.0, -200.0], [0.0, 0.0, 0.0, 0.0, 0.0]], requires_grad=True)
    value = loss_of(logits, torch.tensor([0, 1]), 0.5)
    value.backward()
    assert torch.isfinite(value)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_a_penalty_makes_predictions_less_certain() -> None:
    free = torch.zeros(1, NUM_CLASSES, requires_grad=True)
    held = torch.zeros(1, NUM_CLASSES, requires_grad=True)
    for logits, beta in ((free, 0.0), (held, 1.0)):
        optimizer = torch.optim.SGD([logits], lr=1.0)
        for _ in range(200):
            optimizer.zero_grad()
            loss_of(logits, torch.tensor([2]), beta).backward()
            optimizer.step()
    certain = [torch.softmax(logits.detach(), 1)[0, 2].item() for logits in (free, held)]
    assert certain[0] > certain[1] > 1 / NUM_CLASSES
