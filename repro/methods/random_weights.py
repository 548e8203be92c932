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

from repro import registry
from repro.config import MethodConfig
from repro.determinism import Stream
from repro.methods.base import Batch, Method, one_hot


@dataclass
class RandomWeightsConfig(MethodConfig):
    """Random weights have no settings."""

    name: str = "random_weights"


@registry.method("random_weights", config=RandomWeightsConfig)
class RandomWeights(Method):
    """One-hot targets with rectified normal weights."""

    weighs: ClassVar[bool] = True

    def coefficients(self, batch: Batch) -> Tensor:
        """See :meth:`Method.coefficients`."""
        hot = one_hot(batch.observed, self.context.num_classes)
        drawn = Stream(self.context.seed, "method", "random_weights", batch.epoch, batch.step).uniform(len(batch.observed))
        # The normal distribution's inverse; the lower half of it is cut off. 0.5 exactly gives 0.
        normal: Tensor = math.sqrt(2.0) * torch.special.erfinv(2.0 * torch.from_numpy(drawn) - 1.0)
        helps = normal.clamp(min=0.0).to(hot.dtype).to(hot.device).unsqueeze(1)
        total = helps.sum()
        return hot * helps / torch.where(total > 0.0, total, torch.ones_like(total))

    def targets(self, rows: Tensor) -> Tensor:
        """See :meth:`Method.targets`."""
        return one_hot(self.context.observed[rows], self.context.num_classes)
