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
    instance = torch.full((NUM_INSTANCES,), 1.5).log().requires_grad_()
    classes = torch.full((NUM_CLASSES,), 1.5).log().requires_grad_()
    groups = {"instance": (instance, 0.7), "class": (classes, 0.3)}
    chosen = [{"params": [p], "lr": rate} for name, (p, rate) in groups.items() if kind in (name, "both")]
    optimizer = torch.optim.SGD(chosen, momentum=0.9, weight_decay=0.05)
    for seed in range(2):
        logits = some_logits(seed).requires_grad_()
        parts = {"instance": instance[ROWS].exp(), "class": classes[observed].exp()}
        sigma = sum(part for name, part in parts.items() if kind in (name, "both"))
        wanted = F.cross_entropy(logits / sigma.unsqueeze(1), observed)
        optimizer.zero_grad()
        wanted.backward()
        optimizer.step()
        loss, slope = step(method, some_logits(seed))
        torch.testing.assert_close(loss, wanted.detach(), rtol=1e-12, atol=0)
        torch.testing.assert_close(slope, logits.grad, rtol=1e-10, atol=1e-14)
    state = method.state_dict()
    if kind != "class":
        torch.testing.assert_close(state["instance.logs"][ROWS], instance.detach()[ROWS], rtol=1e-10, atol=1e-12)
    if kind != "instance":
        present = observed.unique()
        torch.testing.assert_close(state["class.logs"][present], classes.detach()[present], rtol=1e-10, atol=1e-12)


def test_only_rows_of_the_batch_move_and_only_their_velocity_decays() -> None:
    method = build_method("data_parameters", parameters="both", weight_decay=0.1, initial=2.0)
    step(method, some_logits(0))
    before = {name: value.clone() for name, value in method.state_dict().items()}
    others = torch.tensor([1, 6, 11])  # all of class 1
    step(method, some_logits(1)[:3], others)
    after = method.state_dict()
    for name, touched in (("instance", [1, 6, 11]), ("class", [1])):
        for part in ("logs", "velocity"):
            changed = (after[f"{name}.{part}"] != before[f"{name}.{part}"]).nonzero().squeeze(1).tolist()
            assert changed == touched, (name, part)


def test_a_wrong_annotation_becomes_hot_within_the_limit() -> None:
    method = build_method("data_parameters", learning_rate=5.0, largest=4.0)
    logits = torch.full((len(ROWS), NUM_CLASSES), -3.0)
    observed = method.context.observed[ROWS]
    right = (observed + torch.tensor([0, 0, 1, 1, 1])) % NUM_CLASSES  # the last three annotations are wrong
    logits[torch.arange(len(ROWS)), right] = 3.0
    for _ in range(30):
        step(method, logits)
    found = method.state_dict()["instance.logs"][ROWS].exp()
    torch.testing.assert_close(found, torch.tensor([0.25, 0.25, 4.0, 4.0, 4.0]))


def test_evaluating_the_loss_moves_nothing() -> None:
    method = build_method("data_parameters")
    scores = torch.log_softmax(some_logits(0), 1)
    batch = batch_at(method, ROWS, scores)
    method.loss(scores, batch)
    method.after_step(batch)  # nothing was differentiated
    assert (method.state_dict()["instance.logs"] == 0.0).all()
