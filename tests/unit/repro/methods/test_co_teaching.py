"""Two networks that choose images for each other, against two plain networks trained side by side by PyTorch's own optimisers."""

import copy

import pytest
import torch
import torch.nn.functional as F
from made_inputs import NUM_CLASSES, batch_at, build_method

from repro.config.schema import MetaConfig, OptimConfig
from repro.engine.method import Context
from repro.engine.optimizer import make_optimizer
from repro.engine.schedule import Schedule
from repro.engine.step import TrainingStep

B = 10
torch.manual_seed(0)
INPUTS, OBSERVED = torch.randn(B, 6), torch.randint(0, NUM_CLASSES, (B,))
MODEL, PEER = torch.nn.Linear(6, NUM_CLASSES), torch.nn.Linear(6, NUM_CLASSES)


def context(algorithm: str = "sgd") -> Context:
    late = 0.1 if algorithm == "adam" else None
    rate = {"learning_rate": 0.03, "schedule": "linear", "decay_from": 4, "late_momentum": late}
    optim = OptimConfig(name="test", algorithm=algorithm, epochs=20, weight_decay=1e-3, momentum=0.9, **rate)
    noise = 0.6 * torch.eye(NUM_CLASSES) + 0.4 / NUM_CLASSES
    network = lambda name: copy.deepcopy(PEER)  # noqa: E731
    return Context(NUM_CLASSES, OBSERVED, torch.device("cpu"), 0, optim=optim, make_network=network, transition=noise)


def test_the_share_that_is_kept_falls_with_the_epochs_and_the_authors_code_divides_by_it_twice() -> None:
    method, again = (build_method("co_teaching", context(), forget_rate=0.4, gradual_epochs=4, divide_again=on) for on in (False, True))
    assert [method.kept(10, epoch) for epoch in (0, 1, 2, 3, 4, 9)] == [10, 9, 8, 7, 6, 6]
    assert method.kept(1, 9) == 1
    # The noise's own rate: a label is wrong with probability 0.4 * 4 / 5.
    assert build_method("co_teaching", context()).kept(1000, 99) == 680
    once, twice = (one.coefficients(batch_at(one, torch.arange(B), epoch=5, inputs=INPUTS)) for one in (method, again))
    assert once.count_nonzero() == 6
    torch.testing.assert_close(twice, once / 6)


@pytest.mark.parametrize("algorithm", ["sgd", "adam"])
def test_steps_are_those_of_two_networks_trained_side_by_side(algorithm: str) -> None:
    given = context(algorithm)
    assert given.optim is not None
    method, model = build_method("co_teaching", given, forget_rate=0.5, gradual_epochs=1), copy.deepcopy(MODEL)
    pair, optimizers = [copy.deepcopy(MODEL), copy.deepcopy(PEER)], []
    for network in pair:
        if algorithm == "adam":
            optimizers.append(torch.optim.Adam(network.parameters(), lr=0.3, weight_decay=1e-3))
        else:
            optimizers.append(torch.optim.SGD(network.parameters(), lr=0.3, weight_decay=1e-3, momentum=0.9))
    optimizer = make_optimizer(model, given.optim)
    step = TrainingStep(model, optimizer, method, given.optim, MetaConfig())
    for epoch, rate in ((3, 0.03), (18, 0.00375), (19, 0.001875)):
        Schedule(given.optim).apply(optimizer, epoch)
        losses = [F.cross_entropy(network(INPUTS), OBSERVED, reduction="none") for network in pair]
        easy = [values.argsort()[: B // 2] for values in losses]
        assert set(easy[0].tolist()) != set(easy[1].tolist())
        for mine, other in ((0, 1), (1, 0)):
            optimizers[mine].param_groups[0].update({"lr": rate, "betas": (0.9 if epoch < 4 else 0.1, 0.999)})
            optimizers[mine].zero_grad()
            losses[mine][easy[other]].mean().backward()
        for reference in optimizers:
            reference.step()
        step(INPUTS, torch.arange(B), OBSERVED, epoch=epoch, meta=None)
        for network, wanted in zip((model, method.networks()["peer"]), pair, strict=True):
            torch.testing.assert_close(list(network.parameters()), list(wanted.parameters()))
