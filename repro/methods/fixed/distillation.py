"""Knowledge distillation (Hinton et al. 2015): Table 4, a student that trains on a teacher's softened predictions.

The teacher is a finished run. With its softened prediction q_i = softmax(log g(x_i) / T), the student's loss is

    (1 - beta) CE(onehot(y_i), f(x_i)) + beta CE(q_i, f(x_i; T_s)),

f(x; T_s) being the student's prediction at its own temperature. With T_s = 1 it is linear in the targets:
C_i = ((1 - beta) onehot(y_i) + beta q_i) / n.

Choices where the paper is silent follow Mueller et al. 2019, whose setting it names: annotated labels are ignored (beta = 1), the
student's temperature is 1 and its loss is not multiplied by T^2 (E2); the teacher, with running BatchNorm statistics, sees the
very view that the student sees (E4; ``target_view=clean`` predicts each image once, not augmented).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from typing_extensions import override

from repro.config import registry
from repro.config.fields import setting
from repro.config.schema import MethodConfig
from repro.engine.method import Batch, Context, Method, Visit, one_hot
from repro.methods.shared.teacher import load_teacher, logits_of_all


@dataclass
class DistillationConfig(MethodConfig):
    """Temperatures and mixture."""

    name: str = "distillation"
    temperature: float = setting(1.0, help="T of the teacher's predictions (E1)", above=0.0)
    student_temperature: float = setting(1.0, help="T of the student's predictions in its loss (E2)", above=0.0)
    beta: float = setting(1.0, help="share of the teacher's targets; the rest is the annotated label (E2)", at_least=0.0, at_most=1.0)
    scale_by_square: bool = setting(False, help="multiply the teacher's part of the loss by the teacher's T squared (E2)")
    target_view: str = setting("augmented", help="what the teacher sees (E4)", choices=("augmented", "clean"))


@registry.method("distillation", config=DistillationConfig)
class Distillation(Method):
    """Targets predicted by a trained network."""

    config: DistillationConfig
    repeatable = True
    reads = ("teacher",)

    def __init__(self, config: DistillationConfig, context: Context) -> None:
        super().__init__(config, context)
        self._teacher = load_teacher(context)

    @override
    def given(self, visit: Visit) -> tuple[Tensor, ...]:
        return (self._clean[visit.rows],) if self.config.target_view == "clean" else ()

    @override
    def coefficients(self, batch: Batch) -> Tensor:
        return self._mixed(batch.observed, self._soft(batch)) / len(batch.rows)

    def loss(self, log_probabilities: Tensor, batch: Batch) -> Tensor | None:
        """Return the loss; it is linear in the targets unless the student has a temperature or the loss a factor of its own."""
        config = self.config
        if config.student_temperature == 1.0 and not config.scale_by_square:
            return None
        # log softmax(z / T) from log softmax(z): the two differ by a number that the second softmax takes out again.
        softened = torch.log_softmax(log_probabilities / config.student_temperature, dim=1)
        taught = -(self._soft(batch) * softened).sum(dim=1).mean()
        annotated = -log_probabilities.gather(1, batch.observed.unsqueeze(1)).mean()
        factor = config.temperature**2 if config.scale_by_square else 1.0
        return (1.0 - config.beta) * annotated + config.beta * factor * taught

    def targets(self, rows: Tensor) -> Tensor:
        """Return the mixture of annotated labels and the teacher's predictions for the images as they are, not augmented."""
        return self._mixed(self.context.observed[rows], self._clean[rows])

    def _mixed(self, observed: Tensor, soft: Tensor) -> Tensor:
        hot = one_hot(observed, self.context.num_classes).to(soft.dtype)
        return (1.0 - self.config.beta) * hot + self.config.beta * soft

    def _soft(self, batch: Batch) -> Tensor:
        if self.config.target_view == "clean":
            return batch.given[0]
        assert batch.inputs is not None
        return torch.softmax(self._teacher(batch.inputs) / self.config.temperature, dim=1)

    @cached_property
    def _clean(self) -> Tensor:
        """The predictions (N, K) for the images as they are."""
        return torch.softmax(logits_of_all(self._teacher, self.context) / self.config.temperature, dim=1)
