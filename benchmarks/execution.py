"""How a step is executed: precision, memory layout, compilation. The only place that turns these choices into a call of our step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.problem import Learner, Problem
from repro.errors import UserError
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


def our_step(problem: Problem, learner: Learner, execution: Execution, *, learns: bool) -> Step:
    """Return :class:`repro.step.TrainingStep` executed so; ``learns`` says whether it will be given meta batches.

    Raises:
        UserError: this version's step has no such way of execution.
    """
    if execution.cuda_graphs:
        raise UserError("cuda_graphs: the step cannot be recorded yet.")
    if execution.compile and learns:
        raise UserError("compile: the step that looks ahead cannot be compiled yet.")
    layout = torch.channels_last if execution.channels_last else torch.contiguous_format
    learner.model.to(memory_format=layout)
    if execution.compile:
        learner.model.compile()
    take = TrainingStep(learner.model, learner.optimizer, learner.method, problem.config.optim, problem.config.meta)
    low = execution.precision == "bfloat16"

    def step(inputs: Tensor, rows: Tensor, meta: MetaBatch | None) -> StepResult:
        inputs = inputs.contiguous(memory_format=layout)
        if meta is not None:
            meta = MetaBatch(inputs=meta.inputs.contiguous(memory_format=layout), targets=meta.targets)
        with torch.autocast(problem.device.type, torch.bfloat16, enabled=low):
            return take(inputs, rows, problem.labels[rows], epoch=0, meta=meta)

    return step


def set_tf32(execution: Execution) -> None:
    """Allow TensorFloat-32 on CUDA, or not; it holds for the whole process, so it is set before each step that is measured."""
    allowed = execution.precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed
