"""A step by itself as compiled programs."""

from typing import Any

from torch import Tensor
from typing_extensions import override

from repro.engine.compiled import Programs
from repro.engine.method import Visit
from repro.engine.step import MetaBatch, StepResult, TrainingStep


class RepeatedStep(TrainingStep):
    """``programs`` are those that were made; in a training they also gather and augment the images."""

    def __init__(self, *parts: Any, compile_step: bool = False, cuda_graphs: bool = False) -> None:
        super().__init__(*parts)
        optimizers = (self.optimizer, *self.method.optimizers())
        self.programs = Programs(self._on_tensors, self.state, optimizers, compile_step=compile_step, cuda_graphs=cuda_graphs)

    @override
    def __call__(self, inputs: Tensor, rows: Tensor, observed: Tensor, *, epoch: int, meta: MetaBatch | None, step: int = 0) -> StepResult:
        on_meta = (None, None) if meta is None else (meta.inputs, meta.targets)
        given = self.method.given(Visit(rows, observed, epoch, step))
        return StepResult(*self.programs(inputs, rows, observed, *on_meta, *given))

    def _on_tensors(self, inputs: Tensor, rows: Tensor, observed: Tensor, *more: Tensor) -> tuple[Tensor, ...]:
        meta_inputs, meta_targets, *given = more
        result = self.take(inputs, rows, observed, None if meta_inputs is None else MetaBatch(meta_inputs, meta_targets), tuple(given))
        return result.loss, result.correct, *(() if result.weights is None else (result.weights,))
