"""What a step costs, counted: how long it takes is measured by ``benchmarks/step.py``."""

from typing import Any

import pytest
import torch
from made_models import build_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from repro.config.registry import get
from repro.config.schema import MetaConfig, OptimConfig
from repro.engine.linearize import Linearization
from repro.engine.method import Context
from repro.engine.optimizer import SGD
from repro.engine.step import MetaBatch, TrainingStep


class Counter(TorchDispatchMode):
    """Counts FLOPs with PyTorch's formulas. Its own counter hooks every gradient, and a hooked gradient has no tangent on record."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.total += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=output)
        return output


@pytest.mark.parametrize(("recorded", "units"), [(True, 13), (False, 15)])
def test_a_meta_step_costs_what_the_documents_say(recorded: bool, units: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """ResNet18, the meta batch twice as large, in forward passes of a training batch: 3 of plain training; 13; 15 without a record."""
    if not recorded:
        monkeypatch.setattr(Linearization, "follows", lambda record, output: False)
    model = build_model("resnet18", num_classes=100).train()
    observed, inputs, rows = torch.randint(0, 100, (2,)), torch.randn(2, 3, 32, 32), torch.arange(2)
    optim = OptimConfig(name="test", epochs=1, learning_rate=0.4, weight_decay=1e-3)
    meta = MetaBatch(torch.randn(4, 3, 32, 32), torch.randint(0, 100, (4,)))
    flops = {}
    for name in ("one_hot", "instance_labels"):
        method = get("method", name)
        built = method.build(method.config(), Context(100, observed, torch.device("cpu"), 0))
        step = TrainingStep(model, SGD(model, optim), built, optim, MetaConfig())
        with Counter() as counted:
            step(inputs, rows, observed, epoch=0, meta=meta if name == "instance_labels" else None)
        flops[name] = counted.total
    assert 3 * flops["instance_labels"] / flops["one_hot"] == pytest.approx(units, abs=0.2)
