"""Two networks that choose images for each other: index sets by hand, steps against two plain networks, states."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from repro import registry
from repro.compose import compose
from repro.config import MetaConfig, OptimConfig
from repro.methods.base import Batch, Context
from repro.methods.co_teaching import CoTeaching
from repro.optimizer import SGD, make_optimizer
from repro.rundir import read_metrics
from repro.step import TrainingStep, momentum_at
from tests.unit.made_inputs import NUM_CLASSES, make_context

B = 10
OPTIM = OptimConfig(name="test", epochs=1, learning_rate=0.3, weight_decay=1e-3, momentum=0.9)


def build(context: Context, **settings: Any) -> CoTeaching:
    choice = registry.get("method", "co_teaching")
    method = choice.build(choice.config(**settings), context)
    assert isinstance(method, CoTeaching)
    return method


def problem() -> tuple[Context, torch.nn.Module, Tensor, Tensor]:
    """Return a context of small linear networks, the run's model, a batch of inputs and its annotations."""
    torch.manual_seed(0)
    inputs, observed = torch.randn(B, 6), torch.randint(0, NUM_CLASSES, (B,))
    model, peer = torch.nn.Linear(6, NUM_CLASSES), torch.nn.Linear(6, NUM_CLASSES)
    context = Context(
        NUM_CLASSES,
        observed,
        torch.device("cpu"),
        0,
        optim=OPTIM,
        make_network=lambda name: copy.deepcopy(peer),
        transition=0.6 * torch.eye(NUM_CLASSES) + 0.4 / NUM_CLASSES,
    )
    return context, model, inputs, observed


def test_the_share_that_is_kept_falls_with_the_epochs() -> None:
    context, *_ = problem()
    method = build(context, forget_rate=0.4, gradual_epochs=4)
    assert [method.kept(10, epoch) for epoch in (0, 1, 2, 3, 4, 9)] == [10, 9, 8, 7, 6, 6]
    assert method.kept(1, 9) == 1
    # The noise's own rate: a label is wrong with probability 0.4 * 4 / 5.
    assert build(context).kept(1000, 99) == 680


def test_each_network_trains_on_the_small_losses_of_the_other() -> None:
    """A batch made by hand: the first network finds images 0 to 5 easy, the second 4 to 9; 6 of 10 are kept."""
    context, _, inputs, observed = problem()
    method = build(context, forget_rate=0.4, gradual_epochs=1)
    hot = F.one_hot(observed, NUM_CLASSES).float()
    first_losses, second_losses = torch.arange(10.0) / 5, 2.0 - torch.arange(10.0) / 5

    def scores(losses: Tensor) -> Tensor:
        own = (-losses - 0.1).exp().unsqueeze(1)
        return (hot * own + (1 - hot) * (1 - own) / (NUM_CLASSES - 1)).log()

    batch = Batch(torch.arange(B), observed, 5, scores(first_losses), inputs=inputs)
    # On the second network's graph, so that a gradient passes it on its way.
    second = scores(second_losses) + 0.0 * sum(p.sum() for p in method.networks()["peer"].parameters())
    slopes: list[Tensor] = []
    second.register_hook(slopes.append)
    method._passed = batch, second
    found = method.coefficients(batch)
    torch.testing.assert_close(found, hot / 6 * (torch.arange(10) >= 4).unsqueeze(1))
    method._passed = batch, second
    method.after_step(batch, 0.1)
    torch.testing.assert_close(-slopes[0], hot / 6 * (torch.arange(10) < 6).unsqueeze(1))
    again = build(context, forget_rate=0.4, gradual_epochs=1, divide_again=True)
    again._passed = batch, second
    torch.testing.assert_close(again.coefficients(batch), found / 6)


@pytest.mark.parametrize("algorithm", ["sgd", "adam"])
def test_steps_are_those_of_two_networks_trained_side_by_side(algorithm: str) -> None:
    context, model, inputs, observed = problem()
    optim = replace(
        OPTIM, algorithm=algorithm, schedule="linear", epochs=20, decay_from=4, late_momentum=0.1 if algorithm == "adam" else None
    )
    context = replace(context, optim=optim)
    method = build(context, forget_rate=0.5, gradual_epochs=1)
    pair = [copy.deepcopy(model), copy.deepcopy(method.networks()["peer"])]
    # PyTorch's own: an independent reference.
    if algorithm == "adam":
        optimizers: list[torch.optim.Optimizer] = [torch.optim.Adam(network.parameters(), lr=0.3, weight_decay=1e-3) for network in pair]
    else:
        optimizers = [torch.optim.SGD(network.parameters(), lr=0.3, weight_decay=1e-3, momentum=0.9) for network in pair]
    optimizer = make_optimizer(model, optim)
    step = TrainingStep(model, optimizer, method, optim, MetaConfig())
    for epoch, rate in ((3, 0.3), (4, 0.03), (5, 0.03)):
        optimizer.learning_rate, optimizer.momentum = rate, momentum_at(optim, epoch)
        for owned in optimizers:
            owned.param_groups[0]["lr"] = rate
            if algorithm == "adam":
                owned.param_groups[0]["betas"] = (0.9 if epoch < 4 else 0.1, 0.999)
        losses = [F.cross_entropy(network(inputs), observed, reduction="none") for network in pair]
        easy = [values.argsort()[: B // 2] for values in losses]
        assert set(easy[0].tolist()) != set(easy[1].tolist())
        for own, index in enumerate((1, 0)):
            optimizers[own].zero_grad()
            losses[own][easy[index]].mean().backward()
        for owned in optimizers:
            owned.step()
        step(inputs, torch.arange(B), observed, epoch=epoch, meta=None)
        for mine, wanted in ((model, pair[0]), (method.networks()["peer"], pair[1])):
            for found, expected in zip(mine.parameters(), wanted.parameters(), strict=True):
                torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("algorithm", ["sgd", "adam"])
def test_the_second_network_goes_on_from_its_state(algorithm: str) -> None:
    context, model, inputs, observed = problem()
    context = replace(context, optim=replace(OPTIM, algorithm=algorithm))
    one = build(context)
    step = TrainingStep(model, SGD(model, OPTIM), one, OPTIM, MetaConfig())
    step(inputs, torch.arange(B), observed, epoch=0, meta=None)
    other = build(context)
    other.load_state_dict({name: value.clone() for name, value in one.state_dict().items()})
    batch = Batch(torch.arange(B), observed, 0, torch.log_softmax(model(inputs), 1).detach(), inputs=inputs)
    for method in (one, other):
        method.after_step(batch, 0.3)
    for mine, wanted in zip(other.networks()["peer"].parameters(), one.networks()["peer"].parameters(), strict=True):
        assert torch.equal(mine, wanted)


def test_the_networks_start_differently() -> None:
    context = make_context()
    assert context.make_network is not None
    first, second = (context.make_network(name).state_dict() for name in ("a", "peer"))
    assert not torch.equal(first["classifier.weight"], second["classifier.weight"])


def test_a_run_reports_both_networks(tmp_path: Path) -> None:
    from repro.run import execute

    common = ["dataset=digits", "seed=0", "noise=uniform", "noise.rate=0.4", "optim.epochs=2", "tracker=none", f"paths.runs={tmp_path}"]
    folder = execute(compose(["method=co_teaching", *common, "exec.threads=1"]))
    rows = read_metrics(folder)
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert rows[-1]["peer_test/accuracy"] != rows[-1]["test/accuracy"]
    assert all(0.0 <= row["peer_val/accuracy"] <= 1.0 for row in rows)
    # Both learn: more than half of the images right after two epochs, a tenth by chance.
    assert min(rows[-1]["test/accuracy"], rows[-1]["peer_test/accuracy"]) > 0.5
