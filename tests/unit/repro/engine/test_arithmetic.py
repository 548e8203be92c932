"""The arithmetic of a step, counted: what docs/execution.md says of it in forward passes of the training batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from repro.config import registry
from repro.engine.linearize import Linearization
from repro.engine.lookahead import Lookahead, lookahead_gradient, loss_gradients, recorded_forward
from repro.engine.network import Network


class Flops(TorchDispatchMode):
    """Adds up the FLOPs of convolutions and matrix products."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func.overloadpacket in flop_registry:
            self.total += int(flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=output))
        return output


def flops(computed: Callable[[], object]) -> int:
    with Flops() as counted:
        computed()
    return counted.total


@pytest.mark.parametrize(("recorded", "units"), [(True, 13), (False, 15)])
def test_forward_passes_of_a_step(recorded: bool, units: int, monkeypatch: pytest.MonkeyPatch) -> None:
    choice = registry.get("model", "resnet18")
    model = choice.build(choice.config(), num_classes=10, image_shape=(3, 32, 32))
    network = Network(model)
    images, meta_images, meta_classes = torch.randn(1, 3, 32, 32), torch.randn(2, 3, 32, 32), torch.randint(0, 10, (2,))
    coefficients = torch.rand(1, 10)
    if not recorded:
        monkeypatch.setattr(Linearization, "follows", lambda record, output: False)

    def learning() -> None:
        forward = recorded_forward(network, images)
        lookahead_gradient(network, forward, coefficients, meta_images, meta_classes, Lookahead(0.1))
        loss_gradients(forward.log_probabilities, coefficients, network.parameters)

    def plain() -> None:
        loss_gradients(torch.log_softmax(model(images), 1), coefficients, network.parameters)

    with network.training_mode():
        unit = flops(lambda: model(images))
        assert flops(plain) / unit == pytest.approx(3, abs=0.2)
        assert flops(learning) / unit == pytest.approx(units, abs=0.2)
