"""The derivative played back from a record, on every kind of operation that a network may have, in float64."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from made_models import COLOR, SMALL, build_model
from random_layers import Lambda
from reference import RATE, distance, through_the_step
from torch import Tensor, nn

from repro.config import registry
from repro.engine.lookahead import coefficient_gradient, recorded_forward
from repro.engine.network import Network


def tied() -> nn.Module:
    """Return two convolutions that share a weight, and a bias that does not train."""
    first, second = nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1)
    second.weight = first.weight
    return nn.Sequential(first, nn.ReLU(), frozen(second, "bias"))


def changed_in_place(features: Tensor) -> Tensor:
    """Return a tensor, and not what the operations that change it return."""
    doubled = features + features
    doubled += features
    F.relu(doubled, inplace=True)
    return doubled


def scripted() -> nn.Module:
    with pytest.warns((DeprecationWarning, FutureWarning)):
        return torch.jit.script(nn.Sequential(nn.Conv2d(6, 6, 1), nn.Tanh()))


def frozen(module: nn.Module, *names: str) -> nn.Module:
    """Let the named parameters, or all, not train."""
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(bool(names) and name not in names)
    return module


#: What has a rule.
FOLLOWED: dict[str, Callable[[], nn.Module]] = {
    "nothing": nn.Identity,
    "shared weight": tied,
    "batch norm, no parameters": lambda: nn.BatchNorm2d(6, affine=False),
    "convolution whose bias alone trains": lambda: frozen(nn.Conv2d(6, 6, 3), "weight"),
    "grouped, strided convolution": lambda: nn.Conv2d(6, 6, 3, padding=2, stride=2, dilation=2, groups=3),
    "linear layer whose bias alone trains": lambda: frozen(nn.Linear(4, 4), "weight"),
    "relu in place": lambda: nn.ReLU(inplace=True),
    "max pooling": lambda: nn.MaxPool2d(3, stride=2, padding=1),
    "dropout of channels": lambda: nn.Dropout2d(0.4),
    "padding with a number": lambda: Lambda(lambda x: F.pad(x, (1, 2), value=0.7)),
    "every second position": lambda: Lambda(lambda x: x[:, :, ::2, 1::2]),
    "detached branch": lambda: Lambda(lambda x: x + x.detach().sigmoid()),
    "changes in place": lambda: Lambda(changed_in_place),
    "products of matrices": lambda: Lambda(lambda x: torch.bmm(x.flatten(2), x.flatten(2).transpose(1, 2)).reshape(-1, 6, 3, 2)),
}
#: What has none, or none in this form: the record ends, and the derivative is taken through the backward pass.
NOT_FOLLOWED: dict[str, Callable[[], nn.Module]] = {
    "leaky relu that folds": lambda: nn.LeakyReLU(-0.3),
    "dropout in place": lambda: nn.Dropout(0.4, inplace=True),
    "positions by number": lambda: Lambda(lambda x: x[:, [0, 1, 2, 3, 4, 5]][..., torch.tensor([0, 2])]),
    "sum, broadcast": lambda: Lambda(lambda x: x + x.mean((2, 3), keepdim=True)),
    "scripted module": scripted,
}


def distance_with_the_same_draws(model: nn.Module, shape: tuple[int, int, int]) -> float:
    """Return how far the gradient is from automatic differentiation through the step."""
    inputs, meta_inputs = torch.randn(5, *shape).double(), torch.randn(6, *shape).double()
    problem = (inputs, torch.rand(5, 5).double() / 5, meta_inputs, torch.randint(0, 5, (6,)))
    torch.manual_seed(8)
    ours = coefficient_gradient(model, *problem, RATE)
    torch.manual_seed(8)
    exact = through_the_step(model, *problem)
    assert exact.norm() > 1e-6
    return distance(ours, exact)


def follows(model: nn.Module, shape: tuple[int, int, int]) -> bool:
    forward = recorded_forward(Network(model.train()), torch.randn(5, *shape).double())
    assert forward.record.follows(forward.log_probabilities) == (forward.record.lost_at is None)
    return forward.record.lost_at is None


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", FOLLOWED | NOT_FOLLOWED)
def test_equals_autodiff_through_the_step_and_the_record_ends_only_where_there_is_no_rule(name: str) -> None:
    torch.manual_seed(4)
    layers = (nn.Conv2d(3, 6, 3, padding=1, bias=False), (FOLLOWED | NOT_FOLLOWED)[name](), nn.LeakyReLU(0.2))
    model = nn.Sequential(*layers, Lambda(lambda x: x.mean((2, 3))), nn.Linear(6, 5)).double()
    assert distance_with_the_same_draws(model, (3, 4, 4)) <= 1e-10
    assert follows(model, (3, 4, 4)) == (name in FOLLOWED)


@pytest.mark.parametrize("name", registry.choices("model"))
def test_every_model_is_followed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And so none of them pays for a second-order graph."""
    monkeypatch.setattr("repro.models.vgg16._STAGES", ((4, 4), (4, 4), (4, 4, 4), (4, 4, 4), (4, 4, 4)))  # it has no setting for its size
    torch.manual_seed(0)
    shape = (1, 8, 8) if name == "digits_cnn" else COLOR
    model = build_model(name, shape, 5, **SMALL[name]).double()
    assert follows(model, shape)
    assert distance_with_the_same_draws(model, shape) <= 1e-8
