"""SGD and Adam against PyTorch's own, and the schedules of learning rate and momentum."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from repro.config.compose import compose
from repro.config.schema import OptimConfig
from repro.engine.optimizer import make_optimizer
from repro.engine.schedule import Schedule


def recipe(**changes: Any) -> OptimConfig:
    return OptimConfig(**{"name": "test", "epochs": 10, "learning_rate": 0.01, "weight_decay": 0.0, **changes})


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"weight_decay": 0.1},
        {"momentum": 0.9, "weight_decay": 0.1},
        {"momentum": 0.9, "weight_decay": 0.1, "nesterov": True},
        {"momentum": 0.9, "weight_decay": 0.1, "decay_norm_and_bias": False},
        {"algorithm": "adam", "momentum": 0.9},
        {"algorithm": "adam", "momentum": 0.9, "weight_decay": 0.1, "decay_norm_and_bias": False},
    ],
)
def test_steps_are_those_of_pytorch(settings: dict[str, Any], as_tensor: bool) -> None:
    """Also when the learning rate and Adam's beta_1 change on the way, as in Co-teaching's recipe."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, 3)).double()
    reference, config = copy.deepcopy(model), recipe(**settings)
    parameters = list(reference.parameters())
    spared = [p for p in parameters if p.ndim == 1 and not config.decay_norm_and_bias]
    decayed = [p for p in parameters if not any(p is other for other in spared)]
    groups: list[Any] = [{"params": decayed, "weight_decay": config.weight_decay}, *([{"params": spared}] if spared else [])]
    adam = config.algorithm == "adam"
    theirs = torch.optim.Adam(groups) if adam else torch.optim.SGD(groups, momentum=config.momentum, nesterov=config.nesterov)
    ours = make_optimizer(model, config)
    for index in range(20):
        rate = 0.01 if index < 10 else 0.003
        ours.learning_rate = torch.tensor(rate, dtype=torch.float64) if as_tensor else rate
        if adam:
            ours.momentum = 0.9 if index < 10 else 0.1
        for group in theirs.param_groups:
            group.update({"lr": rate, **({"betas": (ours.momentum, 0.999)} if adam else {})})
        # Made-up ones: Adam divides a slope by its own size, so that rounding alone moves a parameter without a slope.
        gradients = [torch.randn_like(p) * 10.0 ** (place - 3) for place, p in enumerate(parameters)]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        theirs.step()
        ours.step(gradients)
        torch.testing.assert_close(list(model.parameters()), parameters, rtol=1e-11, atol=1e-13)


def rates(epochs: int, **changes: Any) -> list[float]:
    return [Schedule(recipe(learning_rate=1.0, **changes)).learning_rate(epoch) for epoch in range(epochs)]


def test_schedules() -> None:
    assert rates(6, milestones=[2, 4], gamma=0.1) == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert rates(6, schedule="constant", warmup_epochs=4) == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])
    cosine = rates(10, schedule="cosine")
    assert (cosine[0], cosine[5]) == (1.0, pytest.approx(0.5))
    assert cosine == sorted(cosine, reverse=True)


def test_the_linear_schedule_and_the_late_momentum() -> None:
    """Co-teaching's: learning rate and beta_1 of its public code, epoch by epoch."""
    schedule = Schedule(compose(["method=co_teaching", "dataset=cifar10", "model=cnn_9", "augment=pixels", "seed=0"]).optim)
    assert {schedule.learning_rate(epoch) for epoch in range(81)} == {1e-3}
    assert [schedule.learning_rate(epoch) for epoch in (140, 199)] == pytest.approx([0.5e-3, 1e-3 / 120])
    assert [schedule.momentum(epoch) for epoch in (0, 79, 80, 199)] == [0.9, 0.9, 0.1, 0.1]
