"""Random weights, the control of Ren et al. 2018: the weights of L2RW without anything learned.

C_i = w_i onehot(y_i) with w_i = u_i / sum_j u_j and u_i = max(0, N(0, 1)), drawn anew at every step: about half of a batch is left out.
What a method of weights learns must beat this. Draws are a function of the seed, the epoch and the step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from repro.config import registry
from repro.config.schema import MethodConfig
from repro.engine.method import AnnotatedTargets, Batch, Context, Visit, one_hot
from repro.methods.shared.drawn_ahead import DrawnAhead
from repro.randomness import Stream


@dataclass
class RandomWeightsConfig(MethodConfig):
    """Random weights have no settings."""

    name: str = "random_weights"


@registry.method("random_weights", config=RandomWeightsConfig)
class RandomWeights(AnnotatedTargets):
    """One-hot targets with rectified normal weights."""

    repeatable = True
    weighs: ClassVar[bool] = True

    def __init__(self, config: RandomWeightsConfig, context: Context) -> None:
        super().__init__(config, context)
        self._helps = DrawnAhead(context, self._draw)

    @override
    def given(self, visit: Visit) -> tuple[Tensor, ...]:
        return (self._helps.at(visit),)

    @override
    def coefficients(self, batch: Batch) -> Tensor:
        hot = one_hot(batch.observed, self.context.num_classes)
        helps = batch.given[0].unsqueeze(1)
        total = helps.sum()
        return hot * helps / torch.where(total > 0.0, total, torch.ones_like(total))

    def _draw(self, epoch: int, step: int, size: int) -> Tensor:
        drawn = Stream(self.context.seed, "method", "random_weights", epoch, step).uniform(size)
        # The normal distribution's inverse; the lower half of it is cut off. 0.5 exactly gives 0.
        normal: Tensor = math.sqrt(2.0) * torch.special.erfinv(2.0 * torch.from_numpy(drawn) - 1.0)
        return normal.clamp(min=0.0).to(torch.get_default_dtype())
