"""The same step executed otherwise: noted as one program, compiled, in bfloat16, with channels last.

In float64, except where the number format is the point: how float32 rounds depends on the processor, and a deep network amplifies it.
"""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden_device import DEVICE
from made_models import COLOR, SMALL, build_model
from repeated_step import RepeatedStep
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from repro.config import registry
from repro.config.schema import ExecConfig, MetaConfig, OptimConfig
from repro.engine.execution import prepare_model
from repro.engine.lookahead import coefficient_gradient
from repro.engine.method import Context, Method
from repro.engine.optimizer import make_optimizer
from repro.engine.step import MetaBatch, TrainingStep
from repro.errors import UserError

pytestmark = pytest.mark.usefixtures("double")

B, M, K, N = 12, 20, 10, 40
SHAPES = {"digits_cnn": (1, 8, 8)}

#: Methods that read no other run and train no other network; those are in ``tests/cuda``.
COMPILED = [
    name
    for name, choice in registry.choices("method").items()
    if not choice.build.reads_inputs(choice.config()) and name not in ("co_teaching", "mentornet_dd")
]


@pytest.fixture
def noted_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the operations that were noted, without the compiler."""
    monkeypatch.setattr(torch, "compile", lambda program, **_: program)


def make_step(name: str, model_name: str = "digits_cnn", *, compiled: bool = False, **optim: Any) -> TrainingStep:
    torch.manual_seed(0)
    model = build_model(model_name, SHAPES.get(model_name, COLOR), **SMALL[model_name]).to(DEVICE)
    settings = OptimConfig(**{"name": "test", "epochs": 1, "learning_rate": 0.2, "weight_decay": 1e-3, "momentum": 0.9, **optim})
    chosen = registry.get("method", name)
    observed, transition = torch.arange(N, device=DEVICE) % K, torch.eye(K, device=DEVICE)
    method: Method = chosen.build(chosen.config(), Context(K, observed, torch.device(DEVICE), 0, optim=settings, transition=transition))
    parts = (model, make_optimizer(model, settings), method, settings, MetaConfig())
    return RepeatedStep(*parts, compile_step=True) if compiled else TrainingStep(*parts)


def trained(step: TrainingStep, model_name: str = "digits_cnn", sizes: Sequence[int] = (B, B, B)) -> dict[str, Tensor]:
    """Take steps on batches of so many images, at two learning rates; return everything they change."""
    generator = torch.Generator().manual_seed(1)
    shape, losses = SHAPES.get(model_name, COLOR), []
    for index, size in enumerate(sizes):
        rows = torch.randperm(N, generator=generator)[:size].to(DEVICE)
        images, targets = torch.randn(M, *shape, generator=generator), torch.randint(0, K, (M,), generator=generator)
        meta = MetaBatch(images.to(DEVICE), targets.to(DEVICE)) if step.method.uses_meta else None
        step.optimizer.learning_rate = 0.2 if index < 2 else 0.02
        losses.append(step(torch.randn(size, *shape, generator=generator).to(DEVICE), rows, rows % K, epoch=0, meta=meta, step=index).loss)
    return {f"state {index}": tensor.clone() for index, tensor in enumerate(step.state())} | {"loss": torch.stack(losses)}


def close(values: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    # Not its bits: a learning rate that is a tensor is multiplied in a rounding of its own.
    torch.testing.assert_close(values, wanted, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", COMPILED)
def test_the_noted_program_takes_the_same_steps_and_none_waits_for_the_device(name: str, noted_only: None) -> None:
    """Whatever the learning rate and the size of the batch: nothing of Python is left in it that should change."""
    eager, noted = make_step(name), make_step(name, compiled=True)
    # Another size of batch is another program.
    sizes = (B, B, B, B - 5) if name == "instance_labels" else (B, B, B)
    with Questions() as questions:
        wanted = trained(eager, sizes=sizes)
    # The first step of an epoch may copy what was drawn for all of it; nothing asks for a value.
    assert questions.asked == []
    close(trained(noted, sizes=sizes), wanted)
    assert len(noted.programs.made) == len(set(sizes))


class Questions(TorchDispatchMode):
    """Counts operations whose result Python, or the size of a tensor, waits for."""

    WAITS = ("_local_scalar_dense", "nonzero", "_unique", "equal.", "is_nonzero", "masked_select")

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(name in str(func) for name in self.WAITS):
            self.asked.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.slow
@pytest.mark.parametrize("model", ["digits_cnn", "wrn_28_10"])
@pytest.mark.parametrize("name", ["one_hot", "instance_labels"])
def test_the_compiled_program_takes_the_same_steps(name: str, model: str) -> None:
    compiled, eager = (trained(make_step(name, model, compiled=on), model) for on in (True, False))
    torch.testing.assert_close(compiled, eager, rtol=1e-8, atol=1e-10)


def test_what_is_given_is_an_argument(noted_only: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A method whose labels change with the epoch or the step, such as replay, hands them to the program."""
    kind = registry.get("method", "one_hot").build
    monkeypatch.setattr(kind, "given", lambda self, visit: (F.one_hot((visit.observed + visit.step) % K, K).double(),))
    monkeypatch.setattr(kind, "coefficients", lambda self, batch: batch.given[0] / len(batch.rows))
    close(trained(make_step("one_hot", compiled=True)), trained(make_step("one_hot")))


def gradient(name: str, **execution: Any) -> Tensor:
    torch.manual_seed(0)
    shape = SHAPES.get(name, COLOR)
    model = prepare_model(build_model(name, shape, **SMALL[name]), ExecConfig(name="test", **execution), torch.device(DEVICE))
    tensors = (torch.randn(8, *shape), torch.rand(8, K) / 8, torch.randn(16, *shape), torch.randint(0, K, (16,)))
    return coefficient_gradient(model, *(tensor.to(DEVICE) for tensor in tensors), 0.1)


@pytest.mark.float32
@pytest.mark.parametrize("name", ["digits_cnn", "small_cnn"])
def test_how_far_bfloat16_moves_the_gradient_of_the_labels(name: str) -> None:
    exact, low = gradient(name), gradient(name, precision="bfloat16", channels_last=True)
    assert low.dtype == torch.float32
    assert 1e-5 < ((low - exact).norm() / exact.norm()).item() <= 0.05


def test_cuda_graphs_need_cuda() -> None:
    with pytest.raises(UserError, match=r"exec\.cuda_graphs=true"):
        prepare_model(nn.Linear(2, 2), ExecConfig(name="test", cuda_graphs=True), torch.device("cpu"))
