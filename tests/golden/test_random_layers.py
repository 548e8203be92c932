"""The gradient of the coefficients where something in the network draws random numbers or keeps state, in float64.

The reference differentiates through the look-ahead step with the same draws: training batch first, then meta batch.
"""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from golden_device import DEVICE
from random_layers import EXACT, GENERATOR, REFERENCE, REFUSED
from reference import RATE, distance, through_the_step
from repeated_step import RepeatedStep
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from repro.config import registry
from repro.config.schema import MetaConfig, OptimConfig
from repro.engine.lookahead import coefficient_gradient
from repro.engine.method import Context
from repro.engine.optimizer import SGD
from repro.engine.step import MetaBatch, TrainingStep
from repro.errors import UserError

# What PyTorch says of the older of these layers.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

CLASSES, ROWS = 5, torch.arange(7, device=DEVICE)


def made(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(4)
    layers = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, bias=False), build(), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(24, CLASSES)).double().to(DEVICE)


def problem() -> tuple[Tensor, ...]:
    torch.manual_seed(3)
    inputs, coefficients, meta_inputs = torch.randn(7, 3, 4, 4), torch.rand(7, CLASSES) / 7, torch.randn(9, 3, 4, 4)
    return *(value.double().to(DEVICE) for value in (inputs, coefficients, meta_inputs)), torch.randint(0, CLASSES, (9,)).to(DEVICE)


def seed() -> None:
    torch.manual_seed(8)
    GENERATOR.manual_seed(8)
    np.random.seed(8)


def generators() -> list[Any]:
    cuda = [torch.cuda.get_rng_state()] if DEVICE == "cuda" else []
    return [np.random.get_state()[1].tolist(), *(state.tolist() for state in (torch.get_rng_state(), GENERATOR.get_state(), *cuda))]


@pytest.mark.parametrize("name", EXACT)
def test_equals_autodiff_with_the_same_draws(name: str) -> None:
    """And draws for the training batch, then for the meta batch, and for nothing else: the next step's draws follow those."""
    model, plain, data = made(EXACT[name]), made(REFERENCE.get(name, EXACT[name])), problem()
    # Fused kernels have no second derivative.
    with torch.backends.cudnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH):
        seed()
        exact = through_the_step(plain, *data)
    seed()
    ours = coefficient_gradient(model, *data, RATE)
    after = generators()
    assert distance(ours, exact) <= 1e-8
    assert exact.norm() > 1e-7
    # rrelu draws where its input is negative, which the look-ahead changes in the meta batch; the others draw in the backward pass.
    if name not in ("rrelu", "hook that draws", "autograd function that draws backwards"):
        seed()
        plain(data[0])
        plain(data[2])
        assert generators() == after


@pytest.mark.parametrize("factor", [1.0, 0.0])
@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_second_derivative_is_refused(name: str, factor: float) -> None:
    inputs, coefficients, *meta = problem()
    with pytest.raises(UserError, match="the network cannot be trained with a look-ahead"):
        coefficient_gradient(made(REFUSED[name]), inputs, factor * coefficients, *meta, RATE)


class Counting(nn.Module):
    """Counts its calls in an attribute and in a buffer that its output depends on, keeps its last input, and caches."""

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.last, self.average = 0, None, torch.zeros(())
        self.register_buffer("count", torch.ones(()).double())

    def forward(self, features: Tensor) -> Tensor:
        self.calls += 1
        self.last = features.detach()
        self.average.add_(1.0)
        self.cache = {"calls": self.calls}
        self.count.add_(1.0)
        # Its derivative needs the count of this very call.
        return torch.tanh(features) * self.count


STATEFUL: dict[str, Callable[[], nn.Module]] = {
    "counts and alpha dropout": lambda: nn.Sequential(Counting(), nn.AlphaDropout(0.4)),
    "BatchNorm, cumulative": lambda: nn.BatchNorm2d(6, momentum=None),
    "BatchNorm and alpha dropout": lambda: nn.Sequential(nn.BatchNorm2d(6, affine=False), nn.AlphaDropout(0.4)),
    **{name: EXACT[name] for name in ("instance norm with running statistics", "spectral norm", "LSTM")},
}


def state_of(model: nn.Module) -> dict[str, Any]:
    """Return all buffers, and all attributes that are numbers, dictionaries of numbers or constant tensors."""
    state: dict[str, Any] = {name: value.tolist() for name, value in model.named_buffers()}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor) and not value.requires_grad:
                state[f"{path}.{name}"] = value.tolist()
            elif isinstance(value, int) or name == "cache":
                state[f"{path}.{name}"] = copy.copy(value)
    return state


def stepping(model: nn.Module, *, compile_step: bool = False) -> TrainingStep:
    optim = OptimConfig(name="test", epochs=1, learning_rate=RATE, weight_decay=0.0)
    choice = registry.get("method", "instance_labels")
    method = choice.build(choice.config(), Context(CLASSES, ROWS % CLASSES, torch.device(DEVICE), 0, optim=optim))
    parts = (model, SGD(model, optim), method, optim, MetaConfig())
    return RepeatedStep(*parts, compile_step=True) if compile_step else TrainingStep(*parts)


@pytest.mark.parametrize("name", STATEFUL)
def test_modules_see_the_one_real_pass(name: str) -> None:
    """A step with a look-ahead leaves in the modules what one pass of its training batch leaves; the function leaves nothing."""
    model, plain, data = made(STATEFUL[name]), made(STATEFUL[name]), problem()
    start = state_of(model)
    coefficient_gradient(model, *data, RATE)
    assert state_of(model) == start
    step = stepping(model)
    seed()
    plain(data[0])
    seed()
    step(data[0], ROWS, ROWS % CLASSES, epoch=0, meta=MetaBatch(*data[2:]))
    assert state_of(model) == state_of(plain)
    assert (state_of(model) != start) == (name != "LSTM")


@pytest.mark.parametrize(("name", "word"), [("NumPy's generator", "NumPy"), ("a generator handed over", "aten.bernoulli")])
def test_a_program_refuses_what_it_would_draw_once_and_for_all(name: str, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda program, **_: program)
    inputs, _, *meta = problem()
    with pytest.raises(UserError, match=rf"exec\.compile=true.*{word}"):
        stepping(made(EXACT[name]), compile_step=True)(inputs, ROWS, ROWS % CLASSES, epoch=0, meta=MetaBatch(*meta))
