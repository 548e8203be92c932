"""The derivative played back from a record, on every kind of operation that a network may have, in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from repro import registry
from repro.linearize import Linearization
from repro.lookahead import coefficient_gradient, recorded_forward
from repro.network import Network


class Lambda(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, features: Tensor) -> Tensor:
        return self.function(features)


class Kept(nn.Module):
    """Changes its input in place and returns something else, so that only the input carries the change."""

    def forward(self, features: Tensor) -> Tensor:
        doubled = features * 2.0
        doubled.mul_(1.5)
        doubled.add_(features)
        doubled.add_(features, alpha=0.5)
        F.relu(doubled, inplace=True)
        return doubled


def scripted() -> nn.Module:
    with pytest.warns((DeprecationWarning, FutureWarning)):
        return torch.jit.script(nn.Sequential(nn.Conv2d(6, 6, 1), nn.Tanh()))


def frozen(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module


BETWEEN: dict[str, Callable[[], nn.Module]] = {
    "nothing": nn.Identity,
    "batch norm": lambda: nn.BatchNorm2d(6),
    "batch norm, cumulative": lambda: nn.BatchNorm2d(6, momentum=None),
    "batch norm, no parameters": lambda: nn.BatchNorm2d(6, affine=False),
    "batch norm, evaluating": lambda: nn.BatchNorm2d(6).eval(),
    "batch norm, frozen": lambda: frozen(nn.BatchNorm2d(6)),
    "group norm": lambda: nn.GroupNorm(2, 6),
    "convolution with bias": lambda: nn.Conv2d(6, 6, 3, padding=1),
    "grouped, strided convolution": lambda: nn.Conv2d(6, 6, 3, padding=2, stride=2, dilation=2, groups=3),
    "frozen convolution": lambda: frozen(nn.Conv2d(6, 6, 3, padding=1)),
    "transposed convolution": lambda: nn.ConvTranspose2d(6, 6, 3, padding=1),
    "gelu": nn.GELU,
    "relu in place": lambda: nn.ReLU(inplace=True),
    "leaky relu": lambda: nn.LeakyReLU(0.1),
    "leaky relu in place": lambda: nn.LeakyReLU(0.1, inplace=True),
    "leaky relu that folds": lambda: nn.LeakyReLU(-0.3),
    "hardtanh in place": lambda: nn.Hardtanh(inplace=True),
    "max pooling": lambda: nn.MaxPool2d(3, stride=2, padding=1),
    "average pooling": lambda: nn.AvgPool2d(2),
    "dropout": lambda: nn.Dropout(0.4),
    "dropout in place": lambda: nn.Dropout(0.4, inplace=True),
    "dropout of channels": lambda: nn.Dropout2d(0.4),
    "dropout of channels in place": lambda: nn.Dropout2d(0.4, inplace=True),
    "dropout of channels, evaluating": lambda: Lambda(lambda x: F.dropout2d(x, 0.4, training=False)),
    "dropout along a row": lambda: nn.AlphaDropout(0.4),
    "padding": lambda: Lambda(lambda x: F.pad(x, (1, 0, 0, 2, 1, 1)).mean(1, keepdim=True) * x.new_ones(1, 6, 1, 1)),
    "padding with a number": lambda: Lambda(lambda x: F.pad(x, (1, 2), value=0.7)),
    "reflected padding": lambda: Lambda(lambda x: F.pad(x, (1, 2, 1, 2), mode="reflect")),
    "every second position": lambda: Lambda(lambda x: x[:, :, ::2, 1::2]),
    "positions by number": lambda: Lambda(lambda x: x[:, [0, 1, 2, 3, 4, 5]][..., torch.tensor([0, 2])]),
    "sum of branches": lambda: Lambda(lambda x: torch.tanh(x) + x),
    "sum with a number": lambda: Lambda(lambda x: 3.0 + x + 1),
    "sum, broadcast": lambda: Lambda(lambda x: x + x.mean((2, 3), keepdim=True)),
    "concatenation": lambda: Lambda(lambda x: torch.cat([x, x * x], dim=1)[:, 1:7]),
    "split": lambda: Lambda(lambda x: torch.cat([part * part for part in x.chunk(2, dim=1)], dim=1)),
    "detached branch": lambda: Lambda(lambda x: x * x.detach().sigmoid()),
    "no gradient inside": lambda: Lambda(lambda x: x * _untracked(x)),
    "changes in place": Kept,
    "view and shape": lambda: Lambda(lambda x: x.view(x.shape[0], 6, -1).transpose(1, 2).reshape(x.size(0), -1, 6).mT.unflatten(2, (4, 4))),
    "scripted module": scripted,
}
#: Where the record ends and the derivative is taken by a second pass.
NOT_FOLLOWED = ("dropout along a row", "scripted module")


def _untracked(features: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cos(features)


def network(name: str) -> nn.Module:
    torch.manual_seed(4)
    between = BETWEEN[name]()
    layers = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, bias=False), between, nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    model = nn.Sequential(layers, nn.Linear(24, 5)).double()
    model.train()
    if name == "batch norm, evaluating":
        between.train = lambda mode=True: between  # type: ignore[method-assign]
        between.training = False
    return model


def exact(model: nn.Module, inputs: Tensor, coefficients: Tensor, meta_inputs: Tensor, meta_targets: Tensor) -> Tensor:
    """Differentiate through the look-ahead step: a second-order graph."""
    coefficients = coefficients.clone().requires_grad_()
    names, parameters = zip(*((n, p) for n, p in model.named_parameters() if p.requires_grad), strict=True)
    gradients = torch.autograd.grad(-(coefficients * F.log_softmax(model(inputs), 1)).sum(), parameters, create_graph=True)
    ahead = {n: p.detach() - 0.3 * g for n, p, g in zip(names, parameters, gradients, strict=True)}
    return torch.autograd.grad(F.cross_entropy(functional_call(model, ahead, (meta_inputs,)), meta_targets), coefficients)[0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", BETWEEN)
def test_equals_autodiff_through_the_step(name: str) -> None:
    model = network(name)
    inputs, meta_inputs = torch.randn(7, 3, 4, 4).double(), torch.randn(9, 3, 4, 4).double()
    problem = (inputs, torch.rand(7, 5).double() / 7, meta_inputs, torch.randint(0, 5, (9,)))
    torch.manual_seed(8)
    ours = coefficient_gradient(model, *problem, 0.3)
    torch.manual_seed(8)
    reference = exact(model, *problem)
    assert ((ours - reference).norm() / reference.norm()).item() <= 1e-10
    assert reference.norm() > 1e-6


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", BETWEEN)
def test_a_second_pass_is_taken_only_where_the_record_ends(name: str) -> None:
    model = network(name)
    forward = recorded_forward(Network(model), torch.randn(7, 3, 4, 4).double())
    assert forward.record.follows(forward.log_probabilities) == (name not in NOT_FOLLOWED)
    assert (forward.record.lost_at is None) == (name not in NOT_FOLLOWED)


MODELS = {
    "resnet18": {"width": 4},
    "wrn_28_10": {"depth": 10, "widen_factor": 1, "dropout": 0.3},
    "digits_cnn": {"width": 4},
    "vgg16": {},
    "alexnet": {},
    "resnet_cifar": {"depth": 8},
    "small_cnn": {"block": "residual"},
    "cnn_9": {"width": 8},
}


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_followed_without_forward_mode(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And so none of them pays for a second pass or for dual numbers."""
    monkeypatch.setattr(Linearization, "_by_forward_mode", lambda *_: pytest.fail("an operation without a rule"))
    torch.manual_seed(0)
    choice = registry.get("model", name)
    shape = (1, 8, 8) if name == "digits_cnn" else (3, 32, 32)
    model = choice.build(choice.config(**MODELS[name]), num_classes=5, image_shape=shape).double()
    problem = (torch.randn(3, *shape).double(), torch.rand(3, 5).double() / 3, torch.randn(4, *shape).double(), torch.randint(0, 5, (4,)))
    torch.manual_seed(8)
    ours = coefficient_gradient(model, *problem, 0.3)
    torch.manual_seed(8)
    reference = exact(model, *problem)
    assert ((ours - reference).norm() / reference.norm()).item() <= 1e-8


def test_every_model_is_in_the_list() -> None:
    assert set(MODELS) == set(registry.choices("model"))


def test_an_input_changed_before_its_derivative_is_named() -> None:
    weight = torch.randn(4, 4, requires_grad=True)
    scale = torch.ones(4)
    with Linearization([weight]) as record:
        output = weight.cumsum(0) * scale
    scale.mul_(2.0)
    with pytest.raises(RuntimeError, match="mul was changed in place"):
        record.derivative(output, [torch.ones(4, 4)])
