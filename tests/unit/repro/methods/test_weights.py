"""Weights learned by a look-ahead against automatic differentiation through the step; random ones against their distribution."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from made_inputs import batch_at, build_method
from real_runs import read_metrics
from torch import Tensor, nn
from torch.func import functional_call

from repro.config.compose import compose
from repro.config.schema import MetaConfig, OptimConfig
from repro.engine.method import Batch, Context, Method
from repro.engine.optimizer import SGD
from repro.engine.step import MetaBatch, TrainingStep
from repro.errors import UserError
from repro.methods.weights.meta_weight_net import MetaWeightNet
from repro.training.run import execute

pytestmark = pytest.mark.usefixtures("double")

K, B, LEARNING_RATE = 4, 9, 0.3


def problem() -> tuple[nn.Module, Tensor, Tensor, MetaBatch]:
    """Return a network with BatchNorm, a batch with its annotations, and a meta batch."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, K))
    return model, torch.randn(B, 5), torch.randint(0, K, (B,)), MetaBatch(torch.randn(11, 5), torch.randint(0, K, (11,)))


def context_of(observed: Tensor) -> Context:
    return Context(K, observed, torch.device("cpu"), 0)


def take_step(model: nn.Module, method: Method, inputs: Tensor, observed: Tensor, meta: MetaBatch | None) -> Tensor:
    """Take one step and return the coefficients that the real step was taken with."""
    optim = OptimConfig(name="test", epochs=1, learning_rate=LEARNING_RATE, weight_decay=0.0)
    seen: list[Tensor] = []
    original = method.coefficients

    def coefficients(batch: Batch) -> Tensor:
        seen.append(original(batch))
        return seen[-1]

    method.coefficients = coefficients
    step = TrainingStep(model, SGD(model, optim), method, optim, MetaConfig())
    step(inputs, torch.arange(B), observed, epoch=0, meta=meta)
    return seen[-1]


def meta_loss_after(model: nn.Module, weights: Tensor, inputs: Tensor, observed: Tensor, meta: MetaBatch) -> Tensor:
    """Return the meta loss after a step on the loss with ``weights`` (B,), as a function of them: a second-order graph."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    loss = (weights * F.cross_entropy(model(inputs), observed, reduction="none")).sum()
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    ahead = {n: p.detach() - LEARNING_RATE * g for n, p, g in zip(names, parameters, gradients, strict=True)}
    return F.cross_entropy(functional_call(model, ahead, (meta.inputs,)), meta.targets)


def test_l2rw_weights_are_those_of_autodiff_at_zero() -> None:
    model, inputs, observed, meta = problem()
    perturbation = torch.zeros(B, requires_grad=True)
    (slope,) = torch.autograd.grad(meta_loss_after(model, perturbation, inputs, observed, meta), perturbation)
    helps = (-slope).clamp(min=0.0)
    assert 0 < int((helps > 0).sum()) < B
    wanted = F.one_hot(observed, K) * (helps / helps.sum()).unsqueeze(1)
    found = take_step(model, build_method("l2rw", context_of(observed)), inputs, observed, meta)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_l2rw_moves_nothing_where_no_image_helps() -> None:
    observed = torch.randint(0, K, (B,))
    method = build_method("l2rw", context_of(observed))
    batch = batch_at(method, torch.arange(B))
    method.update(batch, torch.ones(B, K))
    assert (method.coefficients(batch) == 0.0).all()


def test_l2rw_forgets_the_weights_of_a_batch() -> None:
    model, inputs, observed, meta = problem()
    method = build_method("l2rw", context_of(observed))
    take_step(model, method, inputs, observed, meta)
    assert method.__dict__["_weights"] is None
    later = batch_at(method, torch.arange(B))
    torch.testing.assert_close(method.coefficients(later), F.one_hot(observed, K) / B)


@pytest.mark.parametrize("setting", ["meta.interval=2", "meta.use_updated=false"])
def test_l2rw_refuses_what_leaves_it_without_weights(setting: str) -> None:
    with pytest.raises(UserError, match=f"{setting} contradicts method=l2rw"):
        compose(["method=l2rw", "dataset=digits", "seed=0", setting])


@pytest.mark.parametrize("variant", ["paper", "first_code", "stable_code"])
def test_meta_weight_net_step_is_that_of_autodiff(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Phi after one step, and the weights of the real step, from a second-order graph through weights, step and network."""
    model, inputs, observed, meta = problem()
    method = build_method("meta_weight_net", context_of(observed), variant=variant, learning_rate=0.5)
    net = method._network
    copy = nn.Sequential(nn.Linear(1, 100), nn.ReLU(), nn.Linear(100, 1), nn.Sigmoid())
    copy.load_state_dict(net.state_dict())
    optimizer: torch.optim.Optimizer
    if variant == "stable_code":
        optimizer = torch.optim.Adam(copy.parameters(), lr=0.5, weight_decay=1e-4)
    elif variant == "first_code":
        optimizer = torch.optim.SGD(copy.parameters(), lr=0.5, momentum=0.9, weight_decay=5e-4)
    else:
        optimizer = torch.optim.SGD(copy.parameters(), lr=0.5)
    losses = F.cross_entropy(model(inputs), observed, reduction="none").detach().unsqueeze(1)

    def weights() -> Tensor:
        raw: Tensor = copy(losses).squeeze(1)
        return raw / (raw.sum() if variant == "first_code" else B)

    meta_loss_after(model, weights(), inputs, observed, meta).backward()
    slopes = [p.grad for p in copy.parameters()]
    for parameter in model.parameters():
        parameter.grad = None
    optimizer.step()
    stepped, usual = [], method._optimizer.step
    monkeypatch.setattr(method._optimizer, "step", lambda gradients: (stepped.extend(gradients), usual(gradients)))
    found = take_step(model, method, inputs, observed, meta)
    torch.testing.assert_close(stepped, slopes, rtol=1e-9, atol=1e-9)
    for mine, wanted in zip(net.parameters(), copy.parameters(), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(found, F.one_hot(observed, K) * weights().detach().unsqueeze(1), rtol=1e-6, atol=1e-9)


def test_the_variants_of_meta_weight_net_start_alike_and_apart_from_the_model() -> None:
    observed = torch.zeros(B, dtype=torch.int64)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    states = [build_method("meta_weight_net", context_of(observed), variant=variant).state_dict() for variant in ("paper", "stable_code")]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_random_weights_are_rectified_normal_ones() -> None:
    size = 4000
    observed = torch.zeros(size, dtype=torch.int64)
    method = build_method("random_weights", context_of(observed))

    def weights(epoch: int, step: int) -> Tensor:
        batch = batch_at(method, torch.arange(size), epoch=epoch, step=step)
        rows = method.coefficients(batch)
        assert (rows[:, 1:] == 0.0).all()
        return rows[:, 0]

    first = weights(0, 0)
    assert first.sum().item() == pytest.approx(1.0)
    # Of a standard normal variable above 0: half of it, with mean sqrt(2 / pi) and second moment 1.
    kept = first[first > 0]
    assert len(kept) / size == pytest.approx(0.5, abs=0.03)
    assert (kept.mean() ** 2 / (kept**2).mean()).item() == pytest.approx(2 / torch.pi, abs=0.03)
    assert torch.equal(first, weights(0, 0))
    assert not torch.equal(first, weights(0, 1))
    assert not torch.equal(first, weights(1, 0))


def test_weights_are_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_default_dtype(torch.float32)
    common = ["dataset=digits", "seed=0", "optim.epochs=3", "tracker=none", "exec.device=cpu", f"paths.runs={tmp_path}"]
    random = read_metrics(execute(compose(["method=random_weights", *common])))
    assert [row["weight/mean"] for row in random[1:]] == pytest.approx([1.0] * 3, abs=1e-6)
    assert 0.1 < random[-1]["weight/unused"] < 0.9
    plain = read_metrics(execute(compose(["method=one_hot", *common])))
    assert not [name for row in plain for name in row if name.startswith("weight/")]
    before = MetaWeightNet._coefficients
    monkeypatch.setattr(MetaWeightNet, "_coefficients", lambda method, batch: 1e-3 * before(method, batch))
    vanished = read_metrics(execute(compose(["method=meta_weight_net", *common])))
    assert [(0.0 < row["weight/mean"] < 1e-3, row["weight/unused"]) for row in vanished[1:]] == [(True, 1.0)] * 3
