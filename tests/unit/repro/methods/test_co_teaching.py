"""Two networks that choose images for each other: index sets by hand, steps against two plain networks, states."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from made_inputs import NUM_CLASSES, batch_at, build_method
from real_runs import read_metrics
from torch import Tensor

from repro.config.compose import compose
from repro.config.schema import MetaConfig, OptimConfig
from repro.engine.method import Context
from repro.engine.optimizer import make_optimizer
from repro.engine.schedule import Schedule
from repro.engine.step import TrainingStep

B = 10
OPTIM = OptimConfig(name="test", epochs=1, learning_rate=0.3, weight_decay=1e-3, momentum=0.9)


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
    method = build_method("co_teaching", context, forget_rate=0.4, gradual_epochs=4)
    assert [method.kept(10, epoch) for epoch in (0, 1, 2, 3, 4, 9)] == [10, 9, 8, 7, 6, 6]
    assert method.kept(1, 9) == 1
    # The noise's own rate: a label is wrong with probability 0.4 * 4 / 5.
    assert build_method("co_teaching", context).kept(1000, 99) == 680


@pytest.mark.parametrize("algorithm", ["sgd", "adam"])
def test_steps_are_those_of_two_networks_trained_side_by_side(algorithm: str) -> None:
    context, model, inputs, observed = problem()
    optim = replace(
        OPTIM,
        algorithm=algorithm,
        learning_rate=0.03,
        schedule="linear",
        epochs=20,
        decay_from=4,
        late_momentum=0.1 if algorithm == "adam" else None,
    )
    context = replace(context, optim=optim)
    method = build_method("co_teaching", context, forget_rate=0.5, gradual_epochs=1)
    pair = [copy.deepcopy(model), copy.deepcopy(method.networks()["peer"])]
    # PyTorch's own: an independent reference.
    if algorithm == "adam":
        optimizers: list[torch.optim.Optimizer] = [torch.optim.Adam(network.parameters(), lr=0.3, weight_decay=1e-3) for network in pair]
    else:
        optimizers = [torch.optim.SGD(network.parameters(), lr=0.3, weight_decay=1e-3, momentum=0.9) for network in pair]
    optimizer = make_optimizer(model, optim)
    step = TrainingStep(model, optimizer, method, optim, MetaConfig())
    for epoch, rate in ((3, 0.03), (18, 0.00375), (19, 0.001875)):
        Schedule(optim).apply(optimizer, epoch)
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


def test_the_authors_code_divides_by_the_number_of_kept_images_twice() -> None:
    context, _, inputs, _ = problem()
    methods = [build_method("co_teaching", context, forget_rate=0.4, gradual_epochs=1, divide_again=again) for again in (False, True)]
    once, twice = (method.coefficients(batch_at(method, torch.arange(B), epoch=5, inputs=inputs)) for method in methods)
    assert once.count_nonzero() == 6
    torch.testing.assert_close(twice, once / 6)


def test_a_run_reports_both_networks(tmp_path: Path) -> None:
    from repro.training.run import execute

    common = ["dataset=digits", "seed=0", "noise=uniform", "noise.rate=0.4", "optim.epochs=2", "tracker=none", f"paths.runs={tmp_path}"]
    folder = execute(compose(["method=co_teaching", *common, "exec.threads=1"]))
    rows = read_metrics(folder)
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert rows[-1]["peer_test/accuracy"] != rows[-1]["test/accuracy"]
    assert all(0.0 <= row["peer_val/accuracy"] <= 1.0 for row in rows)
    # Both learn: more than half of the images right after two epochs, a tenth by chance.
    assert min(rows[-1]["test/accuracy"], rows[-1]["peer_test/accuracy"]) > 0.5
