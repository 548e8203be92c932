"""Class labels (section 2.1, Eq. 1-6): one learned smoothing parameter alpha_k for each class.

An image annotated as class y has the target p_y = 1 - alpha_y and p_k = alpha_y / (K - 1) elsewhere, so C_ik = p_ik / n. Its
gradient is, by the chain rule, the sum over the batch's images of the class of (mean over the other classes - annotated class) of
dL_meta/dp; Eq. 5 is one SGD step on alpha, and alpha is clamped to [0, 1] after it.

Choices where the paper is silent: the initial target probability comes from its grid {0.3, 0.5, 0.7, 0.9}; 1.0 is Algorithm 1's
alpha = 0 (B1). Eq. 4 shows a single image; the images of a class are summed, as automatic differentiation would (B9). No momentum
(B4), learning from the first step (B12).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from repro.config import registry
from repro.config.fields import setting
from repro.config.schema import MethodConfig
from repro.engine.method import Batch, Context, Method, smoothed


@dataclass
class ClassLabelsConfig(MethodConfig):
    """How the class labels start and learn."""

    name: str = "class_labels"
    learning_rate: float = setting(0.3, help="step size of Eq. 5 (paper's grid: 0.01 ... 3); no schedule", at_least=0.0)
    momentum: float = setting(0.0, help="factor of the velocity of alpha (B4)", at_least=0.0, below=1.0)
    initial_target_probability: float = setting(
        0.9, help="1 - alpha at the start (B1; paper's grid: 0.3 0.5 0.7 0.9)", above=0.0, at_most=1.0
    )
    class_reduction: str = setting("sum", help="over the batch's images of a class (B9)", choices=("sum", "mean"))
    warmup_epochs: int = setting(0, help="epochs before the labels begin to learn (B12)", at_least=0)


@registry.method("class_labels", config=ClassLabelsConfig)
class ClassLabels(Method):
    """Learned smoothing, one number a class."""

    config: ClassLabelsConfig
    repeatable = True
    uses_meta = True
    trajectory = "class"
    alpha: Tensor
    velocity: Tensor

    def __init__(self, config: ClassLabelsConfig, context: Context) -> None:
        super().__init__(config, context)
        start = torch.full((context.num_classes,), 1.0 - config.initial_target_probability, device=context.device)
        self.register_buffer("alpha", start)
        self.register_buffer("velocity", torch.zeros_like(start))

    @override
    def learns_at(self, epoch: int) -> bool:
        return epoch >= self.config.warmup_epochs

    @override
    def targets(self, rows: Tensor) -> Tensor:
        observed = self.context.observed[rows]
        return smoothed(observed, 1.0 - self.alpha[observed].unsqueeze(1), self.context.num_classes)

    def update(self, batch: Batch, gradient: Tensor) -> None:
        """Take the step of Eq. 5 and clamp."""
        num_classes = self.context.num_classes
        per_target = gradient / len(batch.rows)  # dL_meta/dp, since C = p / n
        at_target = per_target.gather(1, batch.observed.unsqueeze(1)).squeeze(1)
        elsewhere = (per_target.sum(1) - at_target) / (num_classes - 1)
        per_class = torch.zeros_like(self.alpha).index_add_(0, batch.observed, (elsewhere - at_target).to(self.alpha.dtype))
        if self.config.class_reduction == "mean":
            count = torch.zeros_like(self.alpha).index_add_(0, batch.observed, torch.ones_like(at_target, dtype=self.alpha.dtype))
            per_class = per_class / count.clamp(min=1.0)
        self.velocity.copy_(self.config.momentum * self.velocity + per_class)
        self.alpha.copy_((self.alpha - self.config.learning_rate * self.velocity).clamp(0.0, 1.0))

    def class_parameters(self) -> Tensor:
        """Return alpha (K,)."""
        return self.alpha
