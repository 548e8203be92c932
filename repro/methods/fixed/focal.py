"""Focal loss (Lin et al. 2017), a baseline of Table 6: examples that are predicted well count less.

L = -(1/n) sum_i (1 - f_{y_i}(x_i))^gamma log f_{y_i}(x_i), with y_i the annotated class. gamma = 0 is cross-entropy. The factor
is differentiated too, so the loss is not linear in the coefficients, which are one-hot, C_ik = [k = y_i] / n; the method
replaces the loss itself.

Deviation: neither the paper nor the one it copies the row from gives gamma; the default 2 is Lin et al.'s, and the grid
{0.5, 1, 2, 5} is searched (D).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from repro.config import registry
from repro.config.fields import setting
from repro.config.schema import MethodConfig
from repro.engine.method import AnnotatedTargets, Batch

#: Below this 1 - f counts as this: the smallest number that float32 tells from 0 with all its digits is about 1.2e-38.
TINY = 1e-30


@dataclass
class FocalConfig(MethodConfig):
    """How fast an example loses weight."""

    name: str = "focal"
    gamma: float = setting(2.0, help="power of 1 minus the probability of the annotated class (D)", at_least=0.0)


@registry.method("focal", config=FocalConfig)
class Focal(AnnotatedTargets):
    """Cross-entropy with the annotated labels, each example times (1 - f)^gamma."""

    config: FocalConfig
    repeatable = True

    @override
    def loss(self, log_probabilities: Tensor, batch: Batch) -> Tensor:
        own = log_probabilities.gather(1, batch.observed.unsqueeze(1)).squeeze(1)
        if self.config.gamma == 0.0:
            return -own.mean()
        # 1 - f from log f without cancellation. Not 0 but tiny at f = 1, where the slope of a power below 1 is infinite.
        rest = (-own.expm1()).clamp(min=TINY)
        return -(rest**self.config.gamma * own).mean()
