"""No step of any method, network or execution waits for the device, copies from or to the host, or breaks the rules of graph capture."""

import pytest

from benchmarks.common.null_cuda import loaded
from benchmarks.launches import EXECUTIONS, count_step
from repro.config import registry

METHODS, MODELS = list(registry.choices("method")), list(registry.choices("model"))

#: Those that need neither a compiler nor minutes.
QUICK = [name for name in EXECUTIONS if name not in ("compile", "fast")]

#: Small, where a network has a size.
SIZES = {"wrn_28_10": ["model.depth=10", "model.widen_factor=1"], "resnet_cifar": ["model.depth=8"]}


@pytest.mark.parametrize("execution", QUICK)
@pytest.mark.parametrize("method", METHODS)
def test_steps_of_every_method(method: str, execution: str) -> None:
    counted = count_step(method, "small_cnn", execution, batch=8, meta_batch=16)
    assert counted.forbidden == {}
    if "graphs" in execution and loaded():
        assert counted.events["graph launch"] == 1


@pytest.mark.parametrize("execution", ["audit", "bfloat16+graphs"])
@pytest.mark.parametrize("method", ["one_hot", "instance_labels"])
@pytest.mark.parametrize("model", MODELS)
def test_steps_of_every_network(model: str, method: str, execution: str) -> None:
    assert count_step(method, model, execution, batch=8, meta_batch=16, more=SIZES.get(model, ())).forbidden == {}
