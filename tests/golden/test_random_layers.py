"""The gradient of the coefficients where something in the network draws random numbers or keeps state, in float64.

The reference differentiates through the look-ahead step with the same draws: training batch first, then meta batch.
"""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_device import DEVICE
from random_layers import EXACT, GENERATOR, REFERENCE, REFUSED, Lambda
from reference import RATE, distance, meta_loss, through_the_step
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from repro.config import registry
from repro.config.schema import MetaConfig, OptimConfig
from repro.engine.compiled import RepeatedStep
from repro.engine.lookahead import coefficient_gradient
from repro.engine.method import Context
from repro.engine.optimizer import SGD
from repro.engine.step import MetaBatch, TrainingStep
from repro.errors import UserError

# What PyTorch says of the older of these layers.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

CLASSES = 5


def network(between: nn.Module) -> nn.Module:
    layers = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, bias=False), between, nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(24, CLASSES)).double().to(DEVICE)


def problem() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(3)
    values = (
        torch.randn(7, 3, 4, 4).double(),
        torch.rand(7, CLASSES).double() / 7,
        torch.randn(9, 3, 4, 4).double(),
        torch.randint(0, CLASSES, (9,)),
    )
    return tuple(value.to(DEVICE) for value in values)


def seed() -> None:
    torch.manual_seed(8)
    GENERATOR.manual_seed(8)
    np.random.seed(8)


def generators() -> list[Any]:
    own = [torch.cuda.get_rng_state()] if DEVICE == "cuda" else []
    return [np.random.get_state()[1].tolist(), *(s.tolist() for s in (torch.get_rng_state(), GENERATOR.get_state(), *own))]


def made(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(4)
    return network(build())


def errors(name: str) -> tuple[float, float]:
    """Return the relative distance from automatic differentiation, and the norm of the gradient."""
    model, other, data = made(EXACT[name]), made(REFERENCE.get(name, EXACT[name])), problem()
    # Fused kernels have no second derivative.
    with torch.backends.cudnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH):
        seed()
        reference = through_the_step(other, *data)
    seed()
    ours = coefficient_gradient(model, *data, RATE)
    return distance(ours, reference), reference.norm().item()


@pytest.mark.parametrize("name", EXACT)
def test_equals_autodiff_with_the_same_draws(name: str) -> None:
    error, norm = errors(name)
    assert error <= 1e-8
    assert norm > 1e-7


#: One of each way in which a pass draws, or keeps its derivative.
SAMPLE = ["F.alpha_dropout", "F.gumbel_softmax", "F.scaled_dot_product_attention", "nn.LSTM", "checkpoint of dropout", "NumPy's generator"]


@pytest.mark.parametrize("name", SAMPLE)
def test_equals_finite_differences_with_the_same_draws(name: str) -> None:
    model, other, (inputs, coefficients, *meta) = made(REFERENCE.get(name, EXACT[name])), made(EXACT[name]), problem()
    seed()
    ours = coefficient_gradient(other, inputs, coefficients, meta[0], meta[1], RATE)
    direction, width = torch.randn(coefficients.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(DEVICE), 1e-5
    losses = []
    for sign in (1.0, -1.0):
        seed()
        losses.append(meta_loss(model, inputs, coefficients + sign * width * direction, *meta).item())
    assert (losses[0] - losses[1]) / (2 * width) == pytest.approx((ours * direction).sum().item(), rel=1e-6)


@pytest.mark.parametrize("factor", [1.0, 0.0])
@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_second_derivative_is_named(name: str, factor: float) -> None:
    (build, word), (inputs, coefficients, *meta) = REFUSED[name], problem()
    with pytest.raises(UserError, match=word):
        coefficient_gradient(made(build), inputs, factor * coefficients, meta[0], meta[1], RATE)


@pytest.mark.parametrize(
    "name", ["F.alpha_dropout", "F.gumbel_softmax", "F.dropout", "nn.LSTM", "a generator that lives on", "NumPy's generator"]
)
def test_random_numbers_are_drawn_for_the_training_batch_then_for_the_meta_batch(name: str) -> None:
    """And for nothing else: the next step's draws follow those of the meta batch."""
    model, (inputs, coefficients, meta_inputs, meta_targets) = made(EXACT[name]), problem()
    seed()
    model(inputs)
    model(meta_inputs)
    wanted = generators()
    seed()
    before = generators()
    coefficient_gradient(model, inputs, coefficients, meta_inputs, meta_targets, RATE)
    assert generators() == wanted != before


class Counting(nn.Module):
    """Counts its calls in an attribute and in a buffer that its output depends on, keeps its last input, and caches."""

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.last: Tensor | None = None
        self.average = torch.zeros(())
        self.register_buffer("count", torch.ones(()).double())

    def forward(self, features: Tensor) -> Tensor:
        self.calls += 1
        self.last = features.detach()
        self.average.add_(1.0)
        self.cache = {"calls": self.calls}
        self.count.add_(1.0)
        # Its derivative needs the count of this very call.
        return torch.tanh(features) * self.count


class OnMeta(nn.Module):
    """Changes its buffer in the pass of the meta batch alone."""

    ticks: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("ticks", torch.zeros(()))

    def forward(self, features: Tensor) -> Tensor:
        if len(features) == 9:  # the meta batch
            self.ticks.add_(1.0)
        return features * 2.0


STATEFUL: dict[str, Callable[[], nn.Module]] = {
    "counts": Counting,
    "counts on the meta batch": OnMeta,
    "BatchNorm": lambda: nn.BatchNorm2d(6),
    "BatchNorm, cumulative": lambda: nn.BatchNorm2d(6, momentum=None),
    "BatchNorm without parameters": lambda: nn.BatchNorm2d(6, affine=False),
    "InstanceNorm": lambda: nn.InstanceNorm2d(6, affine=True, track_running_stats=True),
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Conv2d(6, 6, 1)),
    "spectral norm by a hook": lambda: nn.utils.spectral_norm(nn.Conv2d(6, 6, 1)),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(6, 6, 1)),
    "LSTM": EXACT["nn.LSTM"],
    "counts and alpha dropout": lambda: nn.Sequential(Counting(), nn.AlphaDropout(0.4)),
    "BatchNorm and alpha dropout": lambda: nn.Sequential(nn.BatchNorm2d(6), nn.AlphaDropout(0.4)),
    "InstanceNorm and alpha dropout": lambda: nn.Sequential(nn.InstanceNorm2d(6, track_running_stats=True), nn.AlphaDropout(0.4)),
}


def state_of(model: nn.Module) -> dict[str, Any]:
    """Return all buffers, and all attributes that are numbers, dictionaries of numbers or constant tensors."""
    found: dict[str, Any] = {name: value.tolist() for name, value in model.named_buffers()}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor) and not value.requires_grad:
                found[f"{path}.{name}"] = value.tolist()
            elif isinstance(value, int) or name == "cache":
                found[f"{path}.{name}"] = copy.copy(value)
    return found


def stepping(model: nn.Module, *, compile_step: bool = False) -> TrainingStep:
    optim = OptimConfig(name="test", epochs=1, learning_rate=RATE, weight_decay=0.0)
    choice = registry.get("method", "instance_labels")
    method = choice.build(choice.config(), Context(CLASSES, torch.arange(7, device=DEVICE) % CLASSES, torch.device(DEVICE), 0, optim=optim))
    parts = (model, SGD(model, optim), method, optim, MetaConfig())
    return RepeatedStep(*parts, compile_step=True) if compile_step else TrainingStep(*parts)


@pytest.mark.parametrize("name", STATEFUL)
def test_modules_see_the_one_real_pass(name: str) -> None:
    """A step with a look-ahead leaves in the modules what one pass of its training batch leaves."""
    model, plain, (inputs, _, meta_inputs, meta_targets) = made(STATEFUL[name]), made(STATEFUL[name]), problem()
    step = stepping(model)
    rows = torch.arange(7, device=DEVICE)
    start = state_of(model)
    seed()
    plain(inputs)
    seed()
    step(inputs, rows, rows % CLASSES, epoch=0, meta=MetaBatch(meta_inputs, meta_targets))
    assert state_of(model) == state_of(plain)
    assert (state_of(model) != start) == (name not in ("counts on the meta batch", "weight norm", "LSTM"))


@pytest.mark.parametrize("name", STATEFUL)
def test_the_function_leaves_no_trace(name: str) -> None:
    model = made(STATEFUL[name])
    start = state_of(model)
    coefficient_gradient(model, *problem(), RATE)
    assert state_of(model) == start


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", ["module", "in place", "function"])
def test_compiled_modules_run_uncompiled(how: str) -> None:
    """Compiled code has no second derivative."""

    def plain() -> nn.Module:
        layer = nn.Sequential(nn.Conv2d(6, 6, 1), nn.Tanh(), nn.AlphaDropout(0.4))
        return Lambda(lambda x: torch.tanh(x) * F.alpha_dropout(x, 0.4, True)) if how == "function" else layer

    def build() -> nn.Module:
        layer = plain()
        if isinstance(layer, Lambda):
            layer.function = torch.compile(layer.function, backend="aot_eager")
        elif how == "in place":
            layer.compile(backend="aot_eager")
        else:
            return torch.compile(layer, backend="aot_eager")
        return layer

    torch.compiler.reset()
    model, other, data = made(build), made(plain), problem()
    seed()
    reference = through_the_step(other, *data)
    seed()
    ours = coefficient_gradient(model, *data, RATE)
    assert distance(ours, reference) <= 1e-8


def stepped(step: TrainingStep) -> list[Tensor]:
    """Take two steps; return what they change, and PyTorch's generator."""
    inputs, _, meta_inputs, meta_targets = problem()
    rows = torch.arange(7, device=DEVICE)
    seed()
    for _ in range(2):
        step(inputs, rows, rows % CLASSES, epoch=0, meta=MetaBatch(meta_inputs, meta_targets))
    return [*(tensor.double() for tensor in step.state()), torch.get_rng_state()]


#: Programs of layers with and without a record, with repeated operations, and with state.
PROGRAMS = [
    "F.alpha_dropout",
    "F.rrelu",
    "nn.TransformerEncoderLayer",
    "instance norm with running statistics",
    "spectral norm",
    "F.dropout, in place",
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_takes_the_same_steps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda program, **_: program)
    wanted = stepped(stepping(made(EXACT[name])))
    found = stepped(stepping(made(EXACT[name]), compile_step=True))
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("name", "word"), [("NumPy's generator", "NumPy"), ("a generator that lives on", "aten.bernoulli")])
def test_a_program_refuses_what_it_would_draw_once_and_for_all(name: str, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda program, **_: program)
    with pytest.raises(UserError, match=rf"exec\.compile=true.*{word}"):
        stepped(stepping(made(EXACT[name]), compile_step=True))
