"""Weights learned by a look-ahead against automatic differentiation through the step; random ones against their distribution."""

import pytest
import torch
import torch.nn.functional as F
from made_inputs import batch_at, build_method
from torch import Tensor, nn
from torch.func import functional_call

from repro.config.compose import compose
from repro.config.schema import MetaConfig, OptimConfig
from repro.engine.method import Batch, Context, Method
from repro.engine.optimizer import SGD
from repro.engine.step import MetaBatch, TrainingStep
from repro.errors import UserError

pytestmark = pytest.mark.usefixtures("double")

K, B, LEARNING_RATE = 4, 9, 0.3
torch.manual_seed(0)
OBSERVED = torch.randint(0, K, (B,))
CONTEXT = Context(K, OBSERVED, torch.device("cpu"), 0)


def problem() -> tuple[nn.Module, Tensor, MetaBatch]:
    """Return a network with BatchNorm, a batch, and a meta batch."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, K))
    return model, torch.randn(B, 5), MetaBatch(torch.randn(11, 5), torch.randint(0, K, (11,)))


def take_step(model: nn.Module, method: Method, inputs: Tensor, meta: MetaBatch) -> Tensor:
    """Take one step and return the coefficients that the real step was taken with."""
    optim = OptimConfig(name="test", epochs=1, learning_rate=LEARNING_RATE, weight_decay=0.0)
    seen, coefficients = [], method.coefficients

    def noted(batch: Batch) -> Tensor:
        seen.append(coefficients(batch))
        return seen[-1]

    method.coefficients = noted
    TrainingStep(model, SGD(model, optim), method, optim, MetaConfig())(inputs, torch.arange(B), OBSERVED, epoch=0, meta=meta)
    return seen[-1]


def meta_loss_after(model: nn.Module, weights: Tensor, inputs: Tensor, meta: MetaBatch) -> Tensor:
    """Return the meta loss after a step on the loss with ``weights`` (B,), as a function of them: a second-order graph."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    loss = (weights * F.cross_entropy(model(inputs), OBSERVED, reduction="none")).sum()
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    ahead = {n: p.detach() - LEARNING_RATE * g for n, p, g in zip(names, parameters, gradients, strict=True)}
    return F.cross_entropy(functional_call(model, ahead, (meta.inputs,)), meta.targets)


def test_l2rw_weights_are_those_of_autodiff_at_zero() -> None:
    model, inputs, meta = problem()
    method, perturbation = build_method("l2rw", CONTEXT), torch.zeros(B, requires_grad=True)
    (slope,) = torch.autograd.grad(meta_loss_after(model, perturbation, inputs, meta), perturbation)
    helps = (-slope).clamp(min=0.0)
    assert 0 < int((helps > 0).sum()) < B
    wanted = F.one_hot(OBSERVED, K) * (helps / helps.sum()).unsqueeze(1)
    torch.testing.assert_close(take_step(model, method, inputs, meta), wanted, rtol=1e-9, atol=1e-9)
    # They are forgotten after the step, and where no image helps all are 0.
    batch = batch_at(method, torch.arange(B))
    torch.testing.assert_close(method.coefficients(batch), F.one_hot(OBSERVED, K) / B)
    method.update(batch, torch.ones(B, K))
    assert (method.coefficients(batch) == 0.0).all()


def test_l2rw_refuses_what_leaves_it_without_weights() -> None:
    with pytest.raises(UserError, match="meta.interval=2 contradicts method=l2rw"):
        compose(["method=l2rw", "dataset=digits", "seed=0", "meta.interval=2"])


@pytest.mark.parametrize("variant", ["paper", "first_code", "stable_code"])
def test_meta_weight_net_step_is_that_of_autodiff(variant: str) -> None:
    """Phi after one step, and the weights of the real step, from a second-order graph through weights, step and network."""
    model, inputs, meta = problem()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    method = build_method("meta_weight_net", CONTEXT, variant=variant, learning_rate=0.5)
    assert torch.equal(torch.get_rng_state(), before)  # its first weights are drawn apart from the model's
    copy = nn.Sequential(nn.Linear(1, 100), nn.ReLU(), nn.Linear(100, 1), nn.Sigmoid())
    copy.load_state_dict(method.network.state_dict())
    optimizer: torch.optim.Optimizer = {
        "paper": torch.optim.SGD(copy.parameters(), lr=0.5),
        "first_code": torch.optim.SGD(copy.parameters(), lr=0.5, momentum=0.9, weight_decay=5e-4),
        "stable_code": torch.optim.Adam(copy.parameters(), lr=0.5, weight_decay=1e-4),
    }[variant]
    losses = F.cross_entropy(model(inputs), OBSERVED, reduction="none").detach().unsqueeze(1)

    def weights() -> Tensor:
        raw: Tensor = copy(losses).squeeze(1)
        return raw / (raw.sum() if variant == "first_code" else B)

    meta_loss_after(model, weights(), inputs, meta).backward()
    optimizer.step()
    found = take_step(model, method, inputs, meta)
    for mine, wanted in zip(method.network.parameters(), copy.parameters(), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(found, F.one_hot(OBSERVED, K) * weights().detach().unsqueeze(1), rtol=1e-6, atol=1e-9)


def test_random_weights_are_rectified_normal_ones() -> None:
    size = 4000
    method = build_method("random_weights", Context(K, torch.zeros(size, dtype=torch.int64), torch.device("cpu"), 0))
    first, again, *others = (
        method.coefficients(batch_at(method, torch.arange(size), epoch=epoch, step=step))[:, 0]
        for epoch, step in ((0, 0), (0, 0), (0, 1), (1, 0))
    )
    assert first.sum().item() == pytest.approx(1.0)
    # Of a standard normal variable above 0: half of it, with mean sqrt(2 / pi) and second moment 1.
    kept = first[first > 0]
    assert len(kept) / size == pytest.approx(0.5, abs=0.03)
    assert (kept.mean() ** 2 / (kept**2).mean()).item() == pytest.approx(2 / torch.pi, abs=0.03)
    assert torch.equal(first, again)
    assert not any(torch.equal(first, other) for other in others)
