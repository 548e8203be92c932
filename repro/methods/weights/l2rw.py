"""Learning to reweight examples (L2RW; Ren, Zeng, Yang, Urtasun 2018), a row of Tables 6 and 7.

Each image of a batch has a weight w_i that is found again at every step: C_i = w_i onehot(y_i). With a perturbation eps_i of weights that
are all 0, so that the look-ahead step does not move the model (Eq. 3 at C = 0), the meta loss says which images would help:

    u_i = max(0, -dL_meta/deps_i),      w_i = u_i / sum_j u_j,      dL_meta/deps_i = dL_meta/dC_{i, y_i}

Where no image helps all weights are 0, and the real step is weight decay and momentum alone. Nothing is kept between steps.

Recipe (``optim=l2rw``): 60,000 steps of 100 images, learning rate 0.1 dropped by 10 at 40,000 and 50,000, momentum 0.9, decay 2e-4,
WRN-28-10 with dropout 0.3; a meta batch of 100. Deviations: inputs are standardised with the data's statistics, where the authors' code
scales them to [-1, 1]; the clean set is the table's, of 1,000 images, where the code's default is 100.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from repro.config import registry
from repro.config.schema import MethodConfig
from repro.engine.method import Batch, Context, WeighedImages


@dataclass
class L2RWConfig(MethodConfig):
    """L2RW has no settings of its own: the size of the step cancels in the weights."""

    name: str = "l2rw"

    def contradictions(self, config: Any) -> list[str]:
        """Return what contradicts the rest of the run's settings."""
        if config.meta.interval != 1:
            return [f"meta.interval={config.meta.interval} contradicts method=l2rw, whose weights are found again at every step."]
        return []


@registry.method("l2rw", config=L2RWConfig)
class L2RW(WeighedImages):
    """One-hot targets, weighed by the gradient of the meta loss."""

    repeatable = True
    uses_meta = True

    def __init__(self, config: L2RWConfig, context: Context) -> None:
        super().__init__(config, context)
        self._weights: Tensor | None = None

    def lookahead_coefficients(self, batch: Batch) -> Tensor:
        """Return C = 0, where dL_meta/dC is evaluated."""
        return torch.zeros_like(batch.log_probabilities)

    def update(self, batch: Batch, gradient: Tensor) -> None:
        """Find the weights of the images of ``batch``."""
        helps = (-gradient.gather(1, batch.observed.unsqueeze(1)).squeeze(1)).clamp(min=0.0)
        total = helps.sum()
        self._weights = helps / torch.where(total > 0.0, total, torch.ones_like(total))

    def weights(self, batch: Batch) -> Tensor:
        """Return the weights (B,) of the look-ahead on this batch; equal ones before it."""
        equal = torch.full_like(batch.log_probabilities[:, 0], 1.0 / len(batch.observed))
        return equal if self._weights is None else self._weights

    def after_step(self, batch: Batch) -> None:
        """Forget the weights, which are those of this batch."""
        self._weights = None
