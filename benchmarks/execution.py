"""How a step is executed: precision, memory layout, compilation. The only place that turns these choices into a call of our step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.problem import Learner, Problem
from repro.config import ExecConfig
from repro.execution import prepare_model
from repro.step import MetaBatch, StepResult, TrainingStep


@dataclass(frozen=True)
class Execution:
    """One way of executing the same step; the defaults are those of a run.

    Attributes:
        precision: ``float32``, ``tf32`` (float32 whose products on CUDA round their factors to 10 bits) or ``bfloat16`` (autocast).
        channels_last: images and filters lie in memory with their channels side by side.
        compile: the step is compiled.
        cuda_graphs: the step is recorded once and replayed; CUDA only.
    """

    precision: str = "float32"
    channels_last: bool = False
    compile: bool = False
    cuda_graphs: bool = False

    @property
    def name(self) -> str:
        """Return it as a row of a table names it."""
        parts = [self.precision]
        parts += [text for text in ("channels_last", "compile", "cuda_graphs") if getattr(self, text)]
        return " ".join(parts)

    @property
    def mode(self) -> str:
        """Return ``eager`` or ``compile``."""
        return "compile" if self.compile else "eager"


#: Ways of execution by device; each is tried, and left out with its reason where it does not exist.
EXECUTIONS = {
    "cpu": [
        Execution(),
        Execution(channels_last=True),
        Execution(compile=True),
        Execution(channels_last=True, compile=True),
        Execution("bfloat16"),
        Execution("bfloat16", channels_last=True),
        Execution("bfloat16", channels_last=True, compile=True),
    ],
    "cuda": [
        Execution(),
        Execution(channels_last=True),
        Execution(compile=True),
        Execution(cuda_graphs=True),
        Execution("tf32"),
        Execution("tf32", channels_last=True, compile=True, cuda_graphs=True),
        Execution("bfloat16"),
        Execution("bfloat16", channels_last=True),
        Execution("bfloat16", channels_last=True, compile=True),
        Execution("bfloat16", channels_last=True, cuda_graphs=True),
        Execution("bfloat16", channels_last=True, compile=True, cuda_graphs=True),
    ],
}

#: Takes one step on inputs (B, C, H, W) of the given rows (B,) of the training set and, unless ``None``, a meta batch.
Step = Callable[[Tensor, Tensor, MetaBatch | None], StepResult]


def our_step(problem: Problem, learner: Learner, execution: Execution) -> Step:
    """Return :class:`repro.step.TrainingStep` executed so.

    Raises:
        UserError: there is no such way of execution on the device.
    """
    config = ExecConfig(
        name="benchmark",
        precision="bfloat16" if execution.precision == "bfloat16" else "float32",
        channels_last=execution.channels_last,
        compile=execution.compile,
        cuda_graphs=execution.cuda_graphs,
    )
    model = prepare_model(learner.model, config, problem.device)
    settings = problem.config
    take = TrainingStep(
        model,
        learner.optimizer,
        learner.method,
        settings.optim,
        settings.meta,
        compile_step=execution.compile,
        cuda_graphs=execution.cuda_graphs,
    )

    def step(inputs: Tensor, rows: Tensor, meta: MetaBatch | None) -> StepResult:
        return take(inputs, rows, problem.labels[rows], epoch=0, meta=meta)

    return step


def set_tf32(execution: Execution) -> None:
    """Allow TensorFloat-32 on CUDA, or not; it holds for the whole process, so it is set before each step that is measured."""
    allowed = execution.precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed
