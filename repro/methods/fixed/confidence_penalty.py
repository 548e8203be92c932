"""Confidence penalty (Pereyra et al. 2017), the baseline of Tables 2 and 8 that regularises predictions instead of labels.

The loss is cross-entropy with the annotated labels minus ``beta`` times the entropy of the prediction, both means over the batch:
L = -(1/n) sum_i log f_{y_i}(x_i) - (beta/n) sum_i H(f(x_i)). The entropy is not linear in the coefficients, which are one-hot,
C_ik = [k = y_i] / n; so the method adds it to the loss itself.

Deviation: the paper gives no weight; the default 0.1 is the best of Pereyra et al.'s grid {0.1, 0.25, 0.5, 1, 1.5} on CIFAR-10 (D).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from repro.config import registry
from repro.config.fields import setting
from repro.config.schema import MethodConfig
from repro.engine.method import AnnotatedTargets, Batch


@dataclass
class ConfidencePenaltyConfig(MethodConfig):
    """How much a low entropy costs."""

    name: str = "confidence_penalty"
    beta: float = setting(0.1, help="weight of the entropy of the prediction (D)", at_least=0.0)


@registry.method("confidence_penalty", config=ConfidencePenaltyConfig)
class ConfidencePenalty(AnnotatedTargets):
    """Cross-entropy with the annotated labels, and a reward for entropy."""

    config: ConfidencePenaltyConfig
    repeatable = True

    @override
    def loss(self, log_probabilities: Tensor, batch: Batch) -> Tensor:
        # p log p from log p: a probability that underflows to 0 gives 0, and so does its gradient.
        negative_entropy = (log_probabilities.exp() * log_probabilities).sum(dim=1).mean()
        return -(self.coefficients(batch) * log_probabilities).sum() + self.config.beta * negative_entropy
