"""The engine against automatic differentiation, finite differences and a closed form, in float64."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from reference import RATE, distance, meta_loss, through_the_step
from torch import Tensor, nn

from repro.engine.lookahead import coefficient_gradient
from repro.engine.optimizer import Lookahead


def make_problem() -> tuple[nn.Module, Tensor, Tensor, Tensor, Tensor]:
    """Return two convolutions with BatchNorm, a smooth and a kinked activation, and a linear layer; and the batches."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.Tanh()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 36, 5)).double()
    inputs, coefficients = torch.randn(7, 3, 8, 8).double(), torch.rand(7, 5).double() / 7
    return model, inputs, coefficients, torch.randn(11, 3, 8, 8).double(), torch.randint(0, 5, (11,))


VELOCITIES = [torch.randn(p.shape, generator=torch.Generator().manual_seed(5)).double() for p in make_problem()[0].parameters()]
VARIANTS = {
    "plain": Lookahead(RATE),
    "weight decay": Lookahead(RATE, weight_decay=0.1),
    "weight decay by parameter": Lookahead(RATE, weight_decay=[0.1 * (index % 2) for index in range(len(VELOCITIES))]),
    "first momentum step": Lookahead(RATE, momentum=0.9),
    "momentum": Lookahead(RATE, weight_decay=0.1, momentum=0.9, velocities=VELOCITIES),
    "nesterov": Lookahead(RATE, weight_decay=0.1, momentum=0.9, nesterov=True, velocities=VELOCITIES),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_equals_autodiff_through_the_step_and_finite_differences(name: str) -> None:
    model, inputs, coefficients, *meta = make_problem()
    settings = VARIANTS[name]
    settings = replace(settings, velocities=[velocity.to(coefficients.device) for velocity in settings.velocities])
    ours = coefficient_gradient(model, inputs, coefficients, *meta, RATE, lookahead=settings)
    assert distance(ours, through_the_step(model, inputs, coefficients, *meta, settings)) <= 1e-10
    for place in [(0, 0), (3, 2), (6, 4)]:
        shift = torch.zeros_like(coefficients)
        shift[place] = 1e-5
        losses = [meta_loss(model, inputs, coefficients + sign * shift, *meta, settings).item() for sign in (1, -1)]
        assert (losses[0] - losses[1]) / 2e-5 == pytest.approx(ours[place].item(), rel=1e-5, abs=1e-9)


def test_closed_form_of_a_linear_model() -> None:
    """For f = softmax(W x) the derivative is lr (x_i V_k - sum_j f_ij x_i V_j), with V the meta gradient at W*."""
    torch.manual_seed(1)
    model = nn.Linear(4, 3, bias=False).double()
    inputs, coefficients = torch.randn(6, 4).double(), torch.rand(6, 3).double()
    meta_inputs, meta_targets = torch.randn(8, 4).double(), torch.randint(0, 3, (8,))
    weight = model.weight.detach()
    probabilities = torch.softmax(inputs @ weight.T, 1)
    ahead = weight - RATE * (coefficients.sum(1, keepdim=True) * probabilities - coefficients).T @ inputs
    v = (torch.softmax(meta_inputs @ ahead.T, 1) - F.one_hot(meta_targets, 3)).T @ meta_inputs / 8
    slope = inputs @ v.T
    expected = RATE * (slope - (probabilities * slope).sum(1, keepdim=True))
    ours = coefficient_gradient(model, inputs, coefficients, meta_inputs, meta_targets, RATE)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-14)


def test_it_computes_in_training_mode_and_leaves_the_model_as_it_was() -> None:
    model, *problem = make_problem()
    in_training = coefficient_gradient(model, *problem, RATE)
    assert not in_training.requires_grad
    model.eval()[0].train()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    assert torch.equal(coefficient_gradient(model, *problem, RATE), in_training)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(p.grad, torch.ones_like(p)) and p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("treatment", ["batch", "batch_and_update", "running"])
def test_batch_norm_of_the_meta_pass(treatment: str) -> None:
    model, *problem = make_problem()
    for _ in range(5):
        model(problem[0])  # running statistics that differ from those of a batch
    before = model[1].running_mean.clone()
    result = coefficient_gradient(model, *problem, RATE, lookahead=Lookahead(RATE, batch_norm=treatment))
    assert torch.equal(before, model[1].running_mean) == (treatment != "batch_and_update")
    assert torch.allclose(result, coefficient_gradient(model, *problem, RATE)) == (treatment != "running")


def test_wrong_shape_is_named() -> None:
    model, inputs, coefficients, *meta = make_problem()
    with pytest.raises(ValueError, match=r"coefficients \(7, 4\)"):
        coefficient_gradient(model, inputs, coefficients[:, :4], *meta, RATE)
