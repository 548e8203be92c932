"""Learned temperatures against automatic differentiation, and what their sparse optimiser touches."""

import pytest
import torch
import torch.nn.functional as F
from made_inputs import NUM_CLASSES, NUM_INSTANCES, batch_at, build_method
from torch import Tensor

from repro.methods.learned.data_parameters import DataParameters

pytestmark = pytest.mark.usefixtures("double")

ROWS = torch.tensor([3, 17, 5, 28, 8])  # classes 3, 2, 0, 3, 3


def step(method: DataParameters, logits: Tensor, rows: Tensor = ROWS) -> tuple[Tensor, Tensor]:
    """Take a step; return the loss and its gradient by the logits."""
    logits = logits.clone().requires_grad_()
    scores = torch.log_softmax(logits, 1)
    batch = batch_at(method, rows, scores.detach())
    loss = method.loss(scores, batch)
    loss.backward()
    method.after_step(batch)
    return loss.detach(), logits.grad


def some_logits(seed: int) -> Tensor:
    return 3.0 * torch.randn(len(ROWS), NUM_CLASSES, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", ["instance", "class", "both"])
def test_two_steps_are_those_of_autodiff_and_sgd(kind: str) -> None:
    """PyTorch's own dense SGD on the logarithms: on rows that are in both batches, it is the same as a sparse one."""
    method = build_method("data_parameters", parameters=kind, learning_rate=0.7, class_learning_rate=0.3, weight_decay=0.05, initial=1.5)
    observed = method.context.observed[ROWS]
    rows = {"instance": ROWS, "class": observed}
    logs = {name: torch.full((size,), 1.5).log().requires_grad_() for name, size in (("instance", NUM_INSTANCES), ("class", NUM_CLASSES))}
    chosen = [name for name in logs if kind in (name, "both")]
    groups = [{"params": [logs[name]], "lr": 0.7 if name == "instance" else 0.3} for name in chosen]
    optimizer = torch.optim.SGD(groups, momentum=0.9, weight_decay=0.05)
    for seed in range(2):
        logits = some_logits(seed).requires_grad_()
        sigma = torch.stack([logs[name][rows[name]].exp() for name in chosen]).sum(0)
        wanted = F.cross_entropy(logits / sigma.unsqueeze(1), observed)
        optimizer.zero_grad()
        wanted.backward()
        optimizer.step()
        loss, slope = step(method, some_logits(seed))
        torch.testing.assert_close(loss, wanted.detach(), rtol=1e-12, atol=0)
        torch.testing.assert_close(slope, logits.grad, rtol=1e-10, atol=1e-14)
    for name in chosen:
        torch.testing.assert_close(method.state_dict()[f"{name}.logs"][rows[name]], logs[name].detach()[rows[name]], rtol=1e-10, atol=1e-12)


def test_only_rows_of_the_batch_move_within_the_limit_and_only_their_velocity_decays() -> None:
    method = build_method("data_parameters", parameters="both", weight_decay=0.1, initial=2.0, learning_rate=100.0, largest=4.0)
    step(method, some_logits(0))
    before = {name: value.clone() for name, value in method.state_dict().items()}
    assert before["instance.logs"][ROWS].exp().max() == pytest.approx(4.0)
    step(method, some_logits(1)[:3], torch.tensor([1, 6, 11]))  # all of class 1
    for name, value in method.state_dict().items():
        touched = [1, 6, 11] if name.startswith("instance") else [1]
        assert (value != before[name]).nonzero().squeeze(1).tolist() == touched, name
