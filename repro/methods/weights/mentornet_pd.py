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

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from repro.config import registry
from repro.config.fields import setting
from repro.methods.shared.loss_curriculum import CurriculumConfig, LossCurriculum


@dataclass
class MentorNetPDConfig(CurriculumConfig):
    """The curriculum; all moments are percent of training."""

    name: str = "mentornet_pd"
    percentile: float = setting(0.75, help="fraction of a batch's losses below the threshold", above=0.0, below=1.0)
    burn_in: int = setting(0, help="percent of training with weight 1 for all", at_least=0, at_most=100)
    constant_until: int = setting(18, help="percent of training at which the self-paced phase begins", at_least=0, at_most=100)
    linear_from: int = setting(90, help="percent of training at which the linear phase begins", at_least=0, at_most=100)
    linear_width: float = setting(1.0, help="nats above the threshold at which a weight of the linear phase is 0", above=0.0)
    dropout_rates: list[float] = setting([0.5, 0.05], help="shares of a batch that are left out", at_least=0.0, below=1.0)
    dropout_spans: list[int] = setting([17, 83], help="percent of training for which each of these rates holds", at_least=0, at_most=100)


@registry.method("mentornet_pd", config=MentorNetPDConfig)
class MentorNetPD(LossCurriculum):
    """The predefined curriculum."""

    @override
    def curriculum(self, losses: Tensor, differences: Tensor, percent: Tensor) -> Tensor:
        falling = (1.0 - differences / self.config.linear_width).clamp(0.0, 1.0)
        paced = torch.where(percent < self.config.linear_from, (differences <= 0.0).to(losses.dtype), falling)
        return torch.where(percent < self.config.constant_until, torch.ones_like(losses), paced)
