"""Instance labels (section 2.2, Eq. 7): a learned distribution over the classes for each training image.

Image i has the target p_i = softmax(z_i), so C_ik = w_i p_ik / n with w_i = 1 unless the implicit curriculum of section 3.5 is on.
Eq. 5 is one SGD step on the logits z of the batch's images; rows that are not in the batch are not touched.

Choices where the paper is silent: the labels start at the initial target probability of its grid, which a softmax needs to be
below 1, since its Jacobian vanishes at a one-hot label (B1). ``parametrization`` (B2) offers, beside the softmax, a projection of p
onto the simplex and a multiplicative (exponentiated-gradient) update. No momentum (B4), learning from the first step (B12).

The curriculum "weighs each instance by the entropy of its label" without a formula (G6). With H_i the entropy of p_i:
``one_minus_entropy`` w = 1 - H / log K, ``exp_negative_entropy`` w = exp(-H), ``entropy`` w = H; detached, divided by the batch mean,
in Eq. 6 only. ``curriculum_normalized`` and ``curriculum_in_lookahead`` change the last two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from repro.config import registry
from repro.config.fields import setting
from repro.config.schema import MethodConfig
from repro.engine.method import Batch, Context, Method, smoothed


@dataclass
class InstanceLabelsConfig(MethodConfig):
    """How the instance labels start and learn."""

    name: str = "instance_labels"
    learning_rate: float = setting(50.0, help="step size of Eq. 5 (paper's grids: 5 ... 200); no schedule (B3)", at_least=0.0)
    momentum: float = setting(0.0, help="factor of the velocity, on the batch's rows only (B4)", at_least=0.0, below=1.0)
    initial_target_probability: float = setting(
        0.9, help="p of the annotated class at the start (B1; paper's grid: 0.3 0.5 0.7 0.9)", above=0.0, below=1.0
    )
    parametrization: str = setting("softmax", help="what is stepped on (B2)", choices=("softmax", "simplex", "multiplicative"))
    warmup_epochs: int = setting(0, help="epochs before the labels begin to learn (B12)", at_least=0)
    curriculum: str = setting(
        "none",
        help="weight of an image by the entropy of its label (G6)",
        choices=("none", "one_minus_entropy", "exp_negative_entropy", "entropy"),
    )
    curriculum_normalized: bool = setting(True, help="divide the weights by their batch mean")
    curriculum_in_lookahead: bool = setting(False, help="apply the weights in Eq. 3 too, not only in Eq. 6")

    def contradictions(self, config: Any) -> list[str]:
        """Return what contradicts the rest of the run's settings."""
        if config.optim.drop_last:
            return ["optim.drop_last=true contradicts method=instance_labels: every image's label must be visited once an epoch (A7)."]
        return []


@registry.method("instance_labels", config=InstanceLabelsConfig)
class InstanceLabels(Method):
    """Learned targets, one distribution an image."""

    config: InstanceLabelsConfig
    repeatable = True
    uses_meta = True
    trajectory = "instance"
    logits: Tensor
    velocity: Tensor | None

    def __init__(self, config: InstanceLabelsConfig, context: Context) -> None:
        super().__init__(config, context)
        start = smoothed(context.observed, config.initial_target_probability, context.num_classes)
        # Stored as log-probabilities: they are logits of the softmax, and exp gives the point of the simplex.
        self.register_buffer("logits", start.log() if config.parametrization != "simplex" else start)
        self.register_buffer("velocity", torch.zeros_like(start) if config.momentum > 0.0 else None)

    @override
    def learns_at(self, epoch: int) -> bool:
        return epoch >= self.config.warmup_epochs

    @override
    def targets(self, rows: Tensor) -> Tensor:
        return self._distribution(self.logits[rows])

    @override
    def coefficients(self, batch: Batch) -> Tensor:
        targets = self.targets(batch.rows)
        return self._weights(targets) * targets / len(batch.rows)

    @override
    def lookahead_coefficients(self, batch: Batch) -> Tensor:
        targets = self.targets(batch.rows)
        return self._lookahead_weights(targets) * targets / len(batch.rows)

    def update(self, batch: Batch, gradient: Tensor) -> None:
        """Take the step of Eq. 5 on the rows of the batch."""
        values = self.logits[batch.rows]
        distribution = self._distribution(values)
        # dL_meta/dp, since C = w p / n with detached weights.
        slope = (gradient * self._lookahead_weights(distribution) / len(batch.rows)).to(values.dtype)
        if self.config.parametrization == "softmax":
            slope = distribution * (slope - (distribution * slope).sum(1, keepdim=True))
        if self.velocity is not None:
            slope = self.config.momentum * self.velocity[batch.rows] + slope
            self.velocity[batch.rows] = slope
        moved = values - self.config.learning_rate * slope
        if self.config.parametrization == "simplex":
            moved = project_onto_simplex(moved)
        elif self.config.parametrization == "multiplicative":
            moved = torch.log_softmax(moved, dim=1)
        self.logits[batch.rows] = moved

    def _distribution(self, values: Tensor) -> Tensor:
        return values if self.config.parametrization == "simplex" else torch.softmax(values, dim=1)

    def _lookahead_weights(self, targets: Tensor) -> Tensor | float:
        return self._weights(targets) if self.config.curriculum_in_lookahead else 1.0

    def _weights(self, targets: Tensor) -> Tensor | float:
        """Return w (B, 1) of the implicit curriculum, or 1."""
        if self.config.curriculum == "none":
            return 1.0
        entropy: Tensor = torch.special.entr(targets).sum(1, keepdim=True)
        if self.config.curriculum == "one_minus_entropy":
            weights = 1.0 - entropy / math.log(self.context.num_classes)
        elif self.config.curriculum == "exp_negative_entropy":
            weights = torch.exp(-entropy)
        else:
            weights = entropy
        if self.config.curriculum_normalized:
            # All weights are 0 in a batch of uniform (or, for "entropy", one-hot) labels: then nobody is trained on.
            weights = weights / weights.mean().clamp(min=torch.finfo(weights.dtype).tiny)
        return weights


def project_onto_simplex(points: Tensor) -> Tensor:
    """Return the nearest distribution to each row of ``points`` (B, K) in Euclidean distance.

    A row minus a threshold, cut off at 0, sums to 1 for exactly one threshold, which sorting finds.
    """
    largest_first = points.sort(dim=1, descending=True).values
    # A product with a triangle of ones is a cumulative sum; CUDA has no deterministic cumsum of floats.
    triangle = torch.ones(points.shape[1], points.shape[1], device=points.device, dtype=points.dtype).triu()
    excess = largest_first @ triangle - 1.0
    counts = torch.arange(1, points.shape[1] + 1, device=points.device, dtype=points.dtype)
    kept = (largest_first - excess / counts > 0).sum(1, keepdim=True)
    threshold = excess.gather(1, kept - 1) / kept
    return (points - threshold).clamp(min=0.0)
