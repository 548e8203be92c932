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


def made() -> tuple[Network, list[Tensor], Tensor]:
    torch.manual_seed(0)
    network = Network(Shared().double())
    return network, [torch.randn_like(parameter) for parameter in network.parameters], torch.randn(5, 4).double()


def test_the_trained_parameters_each_once_in_the_optimisers_order() -> None:
    network, _, _ = made()
    first, norm = network.model.first, network.model.norm
    expected = [first.weight, first.bias, norm.weight, norm.bias]
    assert [id(p) for p in network.parameters] == [id(p) for p in expected]


def test_other_values_reach_every_place_of_a_parameter() -> None:
    network, values, inputs = made()
    with network.frozen_running_statistics():
        with network.at(values) as model:
            found = model(inputs)
        names = [name for name, parameter in network.model.named_parameters() if parameter.requires_grad]
        expected = functional_call(network.model, dict(zip(names, values, strict=True)), (inputs,))
    assert torch.equal(found, expected)
    assert not torch.equal(found, network.model(inputs))


@pytest.mark.parametrize("fails", [False, True])
def test_afterwards_the_model_is_what_it_was(fails: bool) -> None:
    network, values, inputs = made()
    before = {name: (id(parameter), parameter.detach().clone()) for name, parameter in network.model.named_parameters()}
    try:
        with network.at(values) as model:
            model(inputs[:, :3] if fails else inputs)
    except RuntimeError:
        assert fails
    assert network.model.second.weight is network.model.first.weight
    for name, parameter in network.model.named_parameters():
        assert (id(parameter), True) == (before[name][0], torch.equal(parameter, before[name][1]))


def test_modes_of_batch_norm_come_back() -> None:
    network, _, inputs = made()
    norm = network.model.norm
    with network.frozen_running_statistics():
        network.model(inputs)
    assert torch.equal(norm.running_mean, torch.zeros(4).double())
    assert norm.track_running_stats
    network.model.eval()
    with network.training_mode():
        assert norm.training
        with network.running_statistics():
            assert not norm.training
        assert norm.training
    assert not any(module.training for module in network.model.modules())
