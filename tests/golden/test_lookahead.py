"""The engine against automatic differentiation, finite differences and a closed form, in float64."""

import pytest
import torch
import torch.nn.functional as F
from made_models import build_model
from reference import RATE, distance, meta_loss, through_the_step
from torch import Tensor, nn

from repro.engine.lookahead import Lookahead, coefficient_gradient


class SmallNet(nn.Module):
    """Two convolutions with BatchNorm, a smooth and a kinked activation, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3),
            nn.BatchNorm2d(8),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(8 * 36, 5),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


def make_problem() -> tuple[nn.Module, Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    model = SmallNet().double()
    inputs, coefficients = torch.randn(7, 3, 8, 8).double(), torch.rand(7, 5).double() / 7
    return model, inputs, coefficients, torch.randn(11, 3, 8, 8).double(), torch.randint(0, 5, (11,))


def variants(parameters: list[Tensor]) -> dict[str, Lookahead]:
    torch.manual_seed(5)
    velocities = [torch.randn_like(p) for p in parameters]
    per_parameter = [0.1 * (index % 2) for index in range(len(parameters))]
    return {
        "plain": Lookahead(RATE),
        "weight decay": Lookahead(RATE, weight_decay=0.1),
        "weight decay by parameter": Lookahead(RATE, weight_decay=per_parameter),
        "first momentum step": Lookahead(RATE, momentum=0.9),
        "momentum": Lookahead(RATE, weight_decay=0.1, momentum=0.9, velocities=velocities),
        "nesterov": Lookahead(RATE, weight_decay=0.1, momentum=0.9, nesterov=True, velocities=velocities),
    }


VARIANTS = list(variants([torch.zeros(1)]))


@pytest.mark.parametrize("name", VARIANTS)
def test_equals_autodiff_through_the_step(name: str) -> None:
    model, *problem = make_problem()
    settings = variants(list(model.parameters()))[name]
    ours = coefficient_gradient(model, *problem, RATE, lookahead=settings)
    exact = through_the_step(model, *problem, settings)
    assert distance(ours, exact) <= 1e-10


@pytest.mark.parametrize("name", VARIANTS)
def test_equals_finite_differences(name: str) -> None:
    model, inputs, coefficients, meta_inputs, meta_targets = make_problem()
    settings = variants(list(model.parameters()))[name]
    ours = coefficient_gradient(model, inputs, coefficients, meta_inputs, meta_targets, RATE, lookahead=settings)
    width = 1e-5
    for row, column in [(0, 0), (3, 2), (6, 4)]:
        shift = torch.zeros_like(coefficients)
        shift[row, column] = width
        losses = [meta_loss(model, inputs, coefficients + sign * shift, meta_inputs, meta_targets, settings).item() for sign in (1, -1)]
        measured = (losses[0] - losses[1]) / (2 * width)
        assert measured == pytest.approx(ours[row, column].item(), rel=1e-5, abs=1e-9)


def test_closed_form_of_a_linear_model() -> None:
    """For f = softmax(W x) the derivative is lr (x_i V_k - sum_j f_ij x_i V_j), with V the meta gradient at W*."""
    torch.manual_seed(1)
    model = nn.Linear(4, 3, bias=False).double()
    inputs, coefficients = torch.randn(6, 4).double(), torch.rand(6, 3).double()
    meta_inputs, meta_targets = torch.randn(8, 4).double(), torch.randint(0, 3, (8,))
    weight = model.weight.detach()
    probabilities = torch.softmax(inputs @ weight.T, 1)
    gradient = (coefficients.sum(1, keepdim=True) * probabilities - coefficients).T @ inputs
    ahead = weight - RATE * gradient
    meta_probabilities = torch.softmax(meta_inputs @ ahead.T, 1)
    v = (meta_probabilities - F.one_hot(meta_targets, 3)).T @ meta_inputs / 8
    slope = inputs @ v.T
    expected = RATE * (slope - (probabilities * slope).sum(1, keepdim=True))
    ours = coefficient_gradient(model, inputs, coefficients, meta_inputs, meta_targets, RATE)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("training", [True, False])
def test_leaves_the_model_as_it_was(training: bool) -> None:
    model, *problem = make_problem()
    model.train(training)
    model.layers[0].eval()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    result = coefficient_gradient(model, *problem, RATE)
    assert not result.requires_grad
    for name, value in model.state_dict().items():
        assert torch.equal(before[name], value), name
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in model.parameters() if p.grad is not None)
    assert all(p.grad is not None and p.requires_grad for p in model.parameters())


def test_training_mode_whatever_the_mode() -> None:
    model, *problem = make_problem()
    in_training = coefficient_gradient(model, *problem, RATE)
    model.eval()
    assert torch.equal(coefficient_gradient(model, *problem, RATE), in_training)


@pytest.mark.parametrize("treatment", ["batch", "batch_and_update", "running"])
def test_batch_norm_of_the_meta_pass(treatment: str) -> None:
    model, inputs, coefficients, meta_inputs, meta_targets = make_problem()
    for _ in range(5):
        model(inputs)  # running statistics that differ from those of a batch
    before = model.layers[1].running_mean.clone()
    result = coefficient_gradient(
        model, inputs, coefficients, meta_inputs, meta_targets, RATE, lookahead=Lookahead(RATE, batch_norm=treatment)
    )
    moved = not torch.equal(before, model.layers[1].running_mean)
    assert moved == (treatment == "batch_and_update")
    plain = coefficient_gradient(model, inputs, coefficients, meta_inputs, meta_targets, RATE)
    assert torch.allclose(result, plain) == (treatment != "running")


def test_wrong_shape_is_named() -> None:
    model, inputs, coefficients, meta_inputs, meta_targets = make_problem()
    with pytest.raises(ValueError, match=r"coefficients \(7, 4\)"):
        coefficient_gradient(model, inputs, coefficients[:, :4], meta_inputs, meta_targets, RATE)


def test_no_further_from_float64_than_double_backward_on_resnet18() -> None:
    """In float32, on a deep network with BatchNorm, both are off by round-off; the engine must not be the worse one."""
    errors = {"ours": 0.0, "double backward": 0.0, "apart": 0.0}
    for seed in range(3):
        torch.manual_seed(seed)
        model = build_model("resnet18", (3, 16, 16))
        inputs, coefficients = torch.randn(8, 3, 16, 16), torch.rand(8, 10) / 8
        meta_inputs, meta_targets = torch.randn(16, 3, 16, 16), torch.randint(0, 10, (16,))
        settings = Lookahead(0.1)
        ours = coefficient_gradient(model, inputs, coefficients, meta_inputs, meta_targets, 0.1).double()
        twice = through_the_step(model, inputs, coefficients, meta_inputs, meta_targets, settings).double()
        exact = through_the_step(model.double(), inputs.double(), coefficients.double(), meta_inputs.double(), meta_targets, settings)
        errors["ours"] += distance(ours, exact)
        errors["double backward"] += distance(twice, exact)
        errors["apart"] += ((ours - twice).norm() / exact.norm()).item()
    # Nearly all of it is that of the passes both share. Its size is the processor's, so nothing here is compared with a number of one.
    assert errors["ours"] <= 1.5 * errors["double backward"], errors
    assert errors["apart"] <= 0.02 * errors["double backward"], errors
