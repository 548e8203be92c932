"""Adam against PyTorch's own, as an update in place, as a program of tensor operations, and from its state."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from repro.config.compose import compose
from repro.config.schema import OptimConfig
from repro.engine.compiled import noted
from repro.engine.optimizer import SGD, Adam, Optimizer, make_optimizer
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


@pytest.mark.parametrize("algorithm", ["sgd", "adam"])
def test_an_optimiser_goes_on_from_its_state(algorithm: str) -> None:
    model = network()
    one = make_optimizer(model, recipe(algorithm=algorithm))
    for step in range(3):
        one.step(gradients(model, step))
    other_model = network(1)
    other_model.load_state_dict(model.state_dict())
    other = make_optimizer(other_model, recipe(algorithm=algorithm))
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for step in range(3, 5):
        one.step(gradients(model, step))
        other.step(gradients(other_model, step))
    for mine, wanted in zip(other_model.parameters(), model.parameters(), strict=True):
        assert torch.equal(mine, wanted)


def test_adam_is_a_program_of_tensor_operations() -> None:
    """Noted at its first step, it counts the later ones: no number of a step is part of the program."""
    model, other_model = network(), network()
    eager, repeated = Adam(model, recipe()), Adam(other_model, recipe())

    def step(rate: Tensor, *slopes: Tensor) -> tuple[Tensor, ...]:
        repeated.learning_rate = rate
        repeated.step(slopes)
        return (rate,)

    first = (torch.tensor(0.01, dtype=torch.float64), *gradients(model, 0))
    program = noted(step, first, [parameter.detach() for parameter in other_model.parameters()] + repeated.tensors())
    for number in range(4):
        eager.learning_rate = 0.01 / (1 + number)
        eager.step(gradients(model, number))
        with torch.no_grad():
            program(torch.tensor(0.01 / (1 + number), dtype=torch.float64), *gradients(other_model, number))
    for mine, wanted in zip(other_model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-12, atol=1e-14)


def test_the_algorithm_is_chosen_by_name() -> None:
    made: list[Optimizer] = [make_optimizer(network(), recipe(algorithm=name)) for name in ("sgd", "adam")]
    assert [type(optimizer) for optimizer in made] == [SGD, Adam]


def test_the_linear_schedule_and_the_late_momentum() -> None:
    """Co-teaching's: learning rate and beta_1 of its public code, epoch by epoch."""
    config = compose(["method=co_teaching", "dataset=cifar10", "model=cnn_9", "augment=pixels", "seed=0"]).optim
    rates = [Schedule(config).learning_rate(epoch) for epoch in range(200)]
    assert rates[:81] == [1e-3] * 81
    assert rates[140] == pytest.approx(0.5e-3)
    assert rates[199] == pytest.approx(1e-3 / 120)
    assert [Schedule(config).momentum(epoch) for epoch in (0, 79, 80, 199)] == [0.9, 0.9, 0.1, 0.1]
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


def test_runs_from_before_adam_keep_their_ids() -> None:
    from repro.config.identity import scientific_fields

    fields = scientific_fields(compose(["method=one_hot", "dataset=digits", "seed=0"]))
    assert not {"optim.algorithm", "optim.decay_from", "optim.late_momentum"} & set(fields)
    fields = scientific_fields(compose(["method=one_hot", "dataset=digits", "seed=0", "optim.algorithm=adam", "optim.momentum=0.9"]))
    assert fields["optim.algorithm"] == "adam"
