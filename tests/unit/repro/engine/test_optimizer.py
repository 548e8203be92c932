"""Adam against PyTorch's own, and the schedules of learning rate and momentum."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from repro.config.compose import compose
from repro.config.schema import OptimConfig
from repro.engine.optimizer import make_optimizer
from repro.engine.schedule import Schedule
from repro.errors import UserError


def recipe(**changes: Any) -> OptimConfig:
    return OptimConfig(
        **{"name": "test", "algorithm": "adam", "epochs": 10, "learning_rate": 0.01, "weight_decay": 0.0, "momentum": 0.9, **changes}
    )


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, 3)).double()


def gradients(model: nn.Module, step: int) -> tuple[Tensor, ...]:
    """Return made-up ones: Adam divides a slope by its own size, so that rounding alone moves a parameter without a slope."""
    torch.manual_seed(step)
    return tuple(torch.randn_like(parameter) * 10.0 ** (index - 3) for index, parameter in enumerate(model.parameters()))


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("decay_norm_and_bias", [True, False])
def test_adam_is_pytorch_s(weight_decay: float, decay_norm_and_bias: bool) -> None:
    """Also when learning rate and beta_1 change on the way, as in Co-teaching's recipe."""
    model = network()
    reference = copy.deepcopy(model)
    optimizer = make_optimizer(model, recipe(weight_decay=weight_decay, decay_norm_and_bias=decay_norm_and_bias))
    parameters = list(reference.parameters())
    decayed = [p for p in parameters if decay_norm_and_bias or p.ndim > 1]
    others = [p for p in parameters if not decay_norm_and_bias and p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    expected = torch.optim.Adam([group for group in groups if group["params"]], lr=0.01)
    for step in range(30):
        if step == 12:
            optimizer.learning_rate, optimizer.momentum = 0.003, 0.1
            for group in expected.param_groups:
                group.update(lr=0.003, betas=(0.1, 0.999))
        for parameter, gradient in zip(parameters, gradients(reference, step), strict=True):
            parameter.grad = gradient
        optimizer.step(gradients(model, step))
        expected.step()
        for mine, wanted in zip(model.parameters(), parameters, strict=True):
            torch.testing.assert_close(mine, wanted, rtol=1e-11, atol=1e-13)


def rates(epochs: int, **changes: Any) -> list[float]:
    schedule = Schedule(recipe(learning_rate=1.0, **changes))
    return [schedule.learning_rate(epoch) for epoch in range(epochs)]


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
    assert Schedule(recipe()).momentum(9) == 0.9


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["method=instance_labels", "optim.algorithm=adam"], "optim.algorithm=adam contradicts method=instance_labels, whose look-ahead"),
        (["optim.algorithm=adam"], "optim.algorithm=adam contradicts optim.momentum=0, which is its beta_1"),
        (["optim.algorithm=adam", "optim.nesterov=true"], "optim.nesterov=true contradicts optim.algorithm=adam"),
        (["optim.decay_from=3"], "optim.decay_from=3 contradicts optim.schedule=constant"),
        (["optim.schedule=linear", "optim.decay_from=61"], "optim.decay_from=61: must be at most optim.epochs=60"),
        (["optim.schedule=linear", "optim.late_momentum=0.1"], "optim.late_momentum=0.1 needs optim.algorithm=adam"),
        (["optim.algorithm=adagrad"], "must be one of sgd, adam"),
    ],
)
def test_settings_that_contradict_each_other_are_named(overrides: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        compose(["method=one_hot", "dataset=digits", "seed=0", *overrides])
