"""A model computes with other values in place of its parameters, and is afterwards what it was."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from repro.engine.network import Network


class Shared(nn.Module):
    """Two layers that share a weight, a BatchNorm, and a bias that does not train."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.second.bias.requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.second(self.norm(self.first(inputs)))


@pytest.mark.parametrize("fails", [False, True])
def test_other_values_reach_every_place_of_a_parameter_and_leave_it_as_it_was(fails: bool) -> None:
    torch.manual_seed(0)
    model, inputs = Shared().double(), torch.randn(5, 4).double()
    network, before = Network(model), {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    # The trained parameters, each once.
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert list(map(id, network.parameters)) == list(map(id, trained.values()))
    values = [torch.randn_like(parameter) for parameter in network.parameters]
    with network.frozen_running_statistics():
        wanted = functional_call(model, dict(zip(trained, values, strict=True)), (inputs,))
        try:
            with network.at(values):
                assert torch.equal(model(inputs[:, :3] if fails else inputs), wanted)
        except RuntimeError:
            assert fails
    assert torch.equal(model.norm.running_mean, torch.zeros(4).double())
    assert model.second.weight is model.first.weight is network.parameters[0]
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
