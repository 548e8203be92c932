"""What the two MentorNet methods share: weights by an image's loss, and the schedule of left-out images.

An image's loss is compared with a moving average of a percentile of the losses of the batches; progress through training is counted
in percent. Weights are v_i in [0, 1] and enter as C_i = v_i onehot(y_i) / n.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from repro.config.fields import setting
from repro.config.schema import MethodConfig
from repro.engine.method import Batch, Context, Visit, WeighedImages
from repro.methods.shared.drawn_ahead import DrawnAhead


@dataclass
class CurriculumConfig(MethodConfig):
    """The moving percentile; subclasses set the schedule of left-out images, ``dropout_rates`` and ``dropout_spans``."""

    percentile_decay: float = setting(0.5, help="share of the moving average that a batch leaves as it was", at_least=0.0, below=1.0)


class LossCurriculum(WeighedImages):
    """One-hot targets, weighed by the loss of each image; subclasses say how."""

    repeatable = True
    average: Tensor

    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        self.register_buffer("average", torch.full((), torch.nan, device=context.device))
        self._uniform = DrawnAhead(context, "mentor", "keep")

    @abstractmethod
    def curriculum(self, losses: Tensor, differences: Tensor, percent: Tensor) -> Tensor:
        """Return v (B,) of losses (B,) and their differences (B,) to the moving percentile, at a progress of ``percent`` (an integer)."""

    @override
    def given(self, visit: Visit) -> tuple[Tensor, ...]:
        """Return uniform numbers (B,), which ranks stay (B,) and, after the burn-in, the progress in percent."""
        percent, size, device = percent_done(visit.epoch, self.context.epochs), len(visit.rows), self.context.device
        rate = rate_at(percent, self.config.dropout_rates, self.config.dropout_spans)
        stays = torch.arange(size, device=device) < int(size * (1.0 - rate))
        judged = (torch.full((), percent, device=device),) if percent >= self.config.burn_in else ()
        return self._uniform.at(visit), stays, *judged

    @override
    def weights(self, batch: Batch) -> Tensor:
        losses, average = self._judged(batch)
        uniform, stays, *percent = batch.given
        weights = self.curriculum(losses, losses - average, *percent) if percent else torch.ones_like(losses)
        return weights * kept(weights, stays, uniform) / len(losses)

    def after_step(self, batch: Batch) -> None:
        """Move the average of the percentile."""
        self.average.copy_(self._judged(batch)[1])

    def _judged(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the losses (B,) of the batch, and the average that has seen it."""
        losses = F.nll_loss(batch.log_probabilities, batch.observed, reduction="none")
        return losses, moved_percentile(self.average, losses, self.config)


def percent_done(epoch: int, epochs: int) -> int:
    """Return the progress after ``epoch`` completed epochs, from 0 to 99."""
    return min(99, 100 * epoch // epochs)


def moved_percentile(average: Tensor, losses: Tensor, config: Any) -> Tensor:
    """Return the moving average of the losses' percentile after a batch with ``losses`` (B,); an ``average`` of NaN has seen none."""
    now, decay = torch.quantile(losses.to(average.dtype), config.percentile), config.percentile_decay
    return torch.where(average.isnan(), now, decay * average + (1.0 - decay) * now)


def rate_at(percent: int, rates: Sequence[float], spans: Sequence[int]) -> float:
    """Return the rate at a progress of ``percent``: ``rates[j]`` holds for ``spans[j]`` percent, the last one to the end."""
    passed = 0
    for rate, span in zip(rates, spans, strict=True):
        passed += span
        if percent < passed:
            return rate
    return rates[-1] if rates else 0.0


def kept(weights: Tensor, stays: Tensor, uniform: Tensor) -> Tensor:
    """Return which images stay (B,): drawn without replacement, in proportion to weights, as many as there are true ``stays`` (B,).

    The largest of log(weight) plus independent Gumbel variables are such a draw.
    """
    uniform = uniform.to(weights.dtype).clamp(1e-7, 1.0 - 1e-7)
    keys = (weights + 1e-5).log() - (-uniform.log()).log()
    mask = torch.zeros_like(stays)
    mask[keys.sort(descending=True, stable=True).indices] = stays
    return mask
