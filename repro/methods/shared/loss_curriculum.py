"""What the two MentorNet methods share: weights by an image's loss, and the schedule of left-out images.

An image's loss is compared with a moving average of a percentile of the losses of the batches; progress through training is counted
in percent. Weights are v_i in [0, 1] and enter as C_i = v_i onehot(y_i) / n.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from typing_extensions import override

from repro.config.fields import setting
from repro.config.schema import MethodConfig
from repro.engine.method import AnnotatedTargets, Batch, Context, Visit, one_hot
from repro.methods.shared.drawn_ahead import DrawnAhead
from repro.randomness import Stream


@dataclass
class CurriculumConfig(MethodConfig):
    """The moving percentile; subclasses set the schedule of left-out images, ``dropout_rates`` and ``dropout_spans``."""

    percentile_decay: float = setting(0.5, help="share of the moving average that a batch leaves as it was", at_least=0.0, below=1.0)

    def contradictions(self, config: Any) -> list[str]:
        """Return what contradicts the rest of the run's settings."""
        rates, spans = self.dropout_rates, self.dropout_spans  # type: ignore[attr-defined]
        if len(rates) == len(spans):
            return []
        return [f"method.dropout_spans={spans}: must be as many as method.dropout_rates={rates}."]


class LossCurriculum(AnnotatedTargets):
    """One-hot targets, weighed by the loss of each image; subclasses say how."""

    repeatable = True
    weighs: ClassVar[bool] = True

    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        self._average = torch.full((), torch.nan, device=context.device)
        self._uniform = DrawnAhead(context, lambda *visit: torch.from_numpy(self._draw(*visit)).to(torch.get_default_dtype()))

    def _draw(self, epoch: int, step: int, size: int) -> npt.NDArray[np.float64]:
        return Stream(self.context.seed, "method", "mentor", "keep", epoch, step).uniform(size)

    @abstractmethod
    def weights(self, losses: Tensor, differences: Tensor, percent: Tensor) -> Tensor:
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
    def coefficients(self, batch: Batch) -> Tensor:
        hot, losses = one_hot(batch.observed, self.context.num_classes), self._losses(batch)
        uniform, stays, *judged = batch.given
        weights = self.weights(losses, losses - self._moved(losses), *judged) if judged else torch.ones_like(losses)
        weights = weights * kept(weights, stays, uniform)
        return hot * weights.unsqueeze(1) / len(batch.observed)

    def after_step(self, batch: Batch) -> None:
        """Move the average of the percentile."""
        self._average.copy_(self._moved(self._losses(batch)))

    @override
    def state_dict(self) -> dict[str, Tensor]:
        return {"average": self._average}

    @override
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._average = state["average"].to(self.context.device)

    def _losses(self, batch: Batch) -> Tensor:
        return F.nll_loss(batch.log_probabilities, batch.observed, reduction="none")

    def _moved(self, losses: Tensor) -> Tensor:
        return moved_percentile(self._average, losses, self.config)


def percent_done(epoch: int, epochs: int) -> int:
    """Return the progress after ``epoch`` completed epochs, from 0 to 99."""
    return min(99, 100 * epoch // epochs)


def moved_percentile(average: Float[Tensor, ""], losses: Float[Tensor, " batch"], config: Any) -> Float[Tensor, ""]:
    """Return the moving average of the losses' percentile after a batch; an ``average`` of NaN has seen none before."""
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


def kept(weights: Float[Tensor, " batch"], stays: Bool[Tensor, " batch"], uniform: Float[Tensor, " batch"]) -> Bool[Tensor, " batch"]:
    """Return which images stay (B,): drawn without replacement, in proportion to weights, as many as there are true ``stays`` (B,).

    The largest of log(weight) plus independent Gumbel variables are such a draw.
    """
    uniform = uniform.to(weights.dtype).clamp(1e-7, 1.0 - 1e-7)
    keys = (weights + 1e-5).log() - (-uniform.log()).log()
    mask = torch.zeros_like(stays)
    mask[keys.sort(descending=True, stable=True).indices] = stays
    return mask
