"""Random weights, the control of Ren et al. 2018: the weights of L2RW without anything learned.

C_i = w_i onehot(y_i) with w_i = u_i / sum_j u_j and u_i = max(0, N(0, 1)), drawn again at every step: about half of a batch is left out.
What a method of weights learns must beat this. Draws are a function of the seed, the epoch and the step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from repro.config import registry
from repro.config.schema import MethodConfig
from repro.engine.method import Batch, Context, Visit, WeighedImages
from repro.methods.shared.drawn_ahead import DrawnAhead


@dataclass
class RandomWeightsConfig(MethodConfig):
    """Random weights have no settings."""

    name: str = "random_weights"


@registry.method("random_weights", config=RandomWeightsConfig)
class RandomWeights(WeighedImages):
    """One-hot targets with rectified normal weights."""

    repeatable = True

    def __init__(self, config: RandomWeightsConfig, context: Context) -> None:
        super().__init__(config, context)
        self._helps = DrawnAhead(context, "random_weights", transform=_rectified_normal)

    @override
    def given(self, visit: Visit) -> tuple[Tensor, ...]:
        return (self._helps.at(visit),)

    @override
    def weights(self, batch: Batch) -> Tensor:
        helps = batch.given[0]
        total = helps.sum()
        return helps / torch.where(total > 0.0, total, torch.ones_like(total))


def _rectified_normal(uniform: Tensor) -> Tensor:
    """The normal distribution's inverse; the lower half of it is cut off. 0.5 exactly gives 0."""
    normal: Tensor = math.sqrt(2.0) * torch.special.erfinv(2.0 * uniform - 1.0)
    return normal.clamp(min=0.0)
