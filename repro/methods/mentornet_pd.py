"""MentorNet with a predefined curriculum (PD; Jiang et al. 2018), a row of Table 7: weights fall with the loss.

C_i = v_i onehot(y_i) / n with v_i in [0, 1] by the loss l_i and a moving average m of a percentile of the batches' losses:

* until 18% of training, v_i = 1;
* until 90%, self-paced: v_i = 1 where l_i <= m, else 0;
* then linear: v_i = min(1, max(0, 1 - (l_i - m) / width)), the minimiser of their Eq. 4 with lambda_1 = m and lambda_2 = width.

The average after a batch is ``percentile_decay`` times the one before plus the rest times the batch's percentile, and a batch is judged by
the average that has seen it. Before the phases, ``burn_in`` percent of training have weight 1. In each batch a share of the images is
left out (``dropout_rates``, each for ``dropout_spans`` percent of training): those that stay are drawn in proportion to v, as in the
authors' code.

Deviations: the formula itself is used, where the authors train a network to imitate it; weight decay is not scaled by the mean
weight; the width of the linear phase, 1 nat, is ours; the student is the table's network, not their wide ResNet-101; their percentiles
are 0.75 at 20% and 40% noise and 0.5 at 80%.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from repro import registry
from repro.config import MethodConfig
from repro.determinism import Stream
from repro.fields import setting
from repro.mentor import kept, moved_percentile, percent_done, rate_at
from repro.methods.base import Batch, Context, Method, one_hot


@dataclass
class MentorNetPDConfig(MethodConfig):
    """The curriculum; all moments are percent of training."""

    name: str = "mentornet_pd"
    percentile: float = setting(0.75, help="fraction of a batch's losses below the threshold", above=0.0, below=1.0)
    percentile_decay: float = setting(0.5, help="share of the moving average that a batch leaves as it was", at_least=0.0, below=1.0)
    burn_in: int = setting(0, help="percent of training with weight 1 for all", at_least=0, at_most=100)
    constant_until: int = setting(18, help="percent of training at which the self-paced phase begins", at_least=0, at_most=100)
    linear_from: int = setting(90, help="percent of training at which the linear phase begins", at_least=0, at_most=100)
    linear_width: float = setting(1.0, help="nats above the threshold at which a weight of the linear phase is 0", above=0.0)
    dropout_rates: list[float] = setting([0.5, 0.05], help="shares of a batch that are left out", at_least=0.0, below=1.0)
    dropout_spans: list[int] = setting([17, 83], help="percent of training for which each of these rates holds", at_least=0, at_most=100)

    def contradictions(self, config: Any) -> list[str]:
        """Return what contradicts the rest of the run's settings."""
        return dropout_problems(self)


def dropout_problems(config: Any) -> list[str]:
    """Return what is wrong with the schedule of left-out images."""
    if len(config.dropout_rates) == len(config.dropout_spans):
        return []
    return [f"method.dropout_spans={config.dropout_spans}: must be as many as method.dropout_rates={config.dropout_rates}."]


class LossCurriculum(Method):
    """One-hot targets, weighed by the loss of each image; subclasses say how."""

    weighs: ClassVar[bool] = True

    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        self.config = config
        self._average = torch.full((), torch.nan, device=context.device)

    @abstractmethod
    def weights(self, losses: Tensor, differences: Tensor, percent: int) -> Tensor:
        """Return v (B,) of losses (B,) and their differences (B,) to the moving percentile, at a progress of ``percent``."""

    def coefficients(self, batch: Batch) -> Tensor:
        """See :meth:`Method.coefficients`."""
        hot = one_hot(batch.observed, self.context.num_classes)
        losses, percent = self._losses(batch), percent_done(batch.epoch, self.context.epochs)
        weights = torch.ones_like(losses)
        if percent >= self.config.burn_in:
            weights = self.weights(losses, losses - self._moved(losses), percent)
        rate = rate_at(percent, self.config.dropout_rates, self.config.dropout_spans)
        if rate > 0.0:
            weights = weights * kept(weights, rate, Stream(self.context.seed, "method", "mentor", "keep", batch.epoch, batch.step))
        return hot * weights.unsqueeze(1) / len(batch.observed)

    def after_step(self, batch: Batch, learning_rate: float | Tensor) -> None:
        """Move the average of the percentile."""
        self._average = self._moved(self._losses(batch))

    def targets(self, rows: Tensor) -> Tensor:
        """See :meth:`Method.targets`."""
        return one_hot(self.context.observed[rows], self.context.num_classes)

    def state_dict(self) -> dict[str, Tensor]:
        """See :meth:`Method.state_dict`."""
        return {"average": self._average}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """See :meth:`Method.load_state_dict`."""
        self._average = state["average"].to(self.context.device)

    def _losses(self, batch: Batch) -> Tensor:
        losses: Tensor = -batch.log_probabilities.gather(1, batch.observed.unsqueeze(1)).squeeze(1)
        return losses

    def _moved(self, losses: Tensor) -> Tensor:
        return moved_percentile(self._average, losses, self.config.percentile, self.config.percentile_decay)


@registry.method("mentornet_pd", config=MentorNetPDConfig)
class MentorNetPD(LossCurriculum):
    """The predefined curriculum."""

    def weights(self, losses: Tensor, differences: Tensor, percent: int) -> Tensor:
        """See :meth:`LossCurriculum.weights`."""
        if percent < self.config.constant_until:
            return torch.ones_like(losses)
        if percent < self.config.linear_from:
            return (differences <= 0.0).to(losses.dtype)
        falling: Tensor = 1.0 - differences / self.config.linear_width
        return falling.clamp(0.0, 1.0)
