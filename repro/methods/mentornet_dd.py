"""MentorNet with a data-driven curriculum (DD; Jiang et al. 2018), a row of Tables 6 and 7: a mentor network gives the weights.

C_i = v_i onehot(y_i) / n, v_i = sigmoid(g(l_i, l_i - m, progress)) with the loss l_i, the moving percentile m of
:mod:`repro.methods.mentornet_pd`, and the mentor g (:class:`repro.mentor.Mentor`). The mentor is learned from the clean split alone: its
images are annotated with the run's kind and rate of noise, a student of the run's architecture and recipe trains on them and is
thrown away, and the mentor learns to tell the wrong annotations from the right ones by the features that it saw at each visit. This
happens once, when the weights are first needed.

Until ``burn_in`` percent of training all weights are 1; afterwards the mentor is asked as if training stood at that moment
(``fixed_progress``). The share of a batch that is left out follows ``dropout_rates`` and ``dropout_spans``.

Deviations: the clean split is the run's meta set (1,000 images in Tables 6 and 7, where the authors learn on other data and use 5,000);
the mentor is learned once, before it is used, and the student that shows it features has weights of 1. Weight decay is not scaled by the
mean weight. The authors' percentiles are 0.8, 0.6 and 0.5 at 20%, 40% and 80% noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from repro import registry
from repro.config import MethodConfig
from repro.determinism import Stream, seeded
from repro.fields import setting
from repro.mentor import Mentor, gather_lessons, teach
from repro.methods.base import Context
from repro.methods.mentornet_pd import LossCurriculum, dropout_problems


@dataclass
class MentorNetDDConfig(MethodConfig):
    """The schedules, in percent of training, and how the mentor is learned."""

    name: str = "mentornet_dd"
    percentile: float = setting(0.6, help="fraction of a batch's losses below the threshold", above=0.0, below=1.0)
    percentile_decay: float = setting(0.5, help="share of the moving average that a batch leaves as it was", at_least=0.0, below=1.0)
    burn_in: int = setting(18, help="percent of training with weight 1 for all", at_least=0, at_most=100)
    fixed_progress: bool = setting(True, help="after the burn-in the mentor always sees its end as progress")
    dropout_rates: list[float] = setting([0.5, 0.05, 0.9], help="shares of a batch that are left out", at_least=0.0, below=1.0)
    dropout_spans: list[int] = setting([17, 78, 5], help="percent of training for which each of these rates holds", at_least=0, at_most=100)
    mentor_learning_rate: float = setting(1e-3, help="step size of Adam for the mentor", above=0.0)
    mentor_passes: int = setting(20, help="passes over what the mentor learns from", at_least=1, at_most=10_000)

    def contradictions(self, config: Any) -> list[str]:
        """Return what contradicts the rest of the run's settings."""
        problems = dropout_problems(self)
        if config.split.name == "full":
            problems.append("split=full contradicts method=mentornet_dd, whose mentor is learned on a clean split: use split=clean_meta.")
        return problems


@registry.method("mentornet_dd", config=MentorNetDDConfig)
class MentorNetDD(LossCurriculum):
    """The learned curriculum."""

    def __init__(self, config: MentorNetDDConfig, context: Context) -> None:
        super().__init__(config, context)
        self._mentor: Mentor | None = None

    def weights(self, losses: Tensor, differences: Tensor, percent: int) -> Tensor:
        """See :meth:`LossCurriculum.weights`."""
        if self._mentor is None:
            self._mentor = self._learned()
        seen = min(99, self.config.burn_in) if self.config.fixed_progress else percent
        progress = torch.full_like(losses, seen, dtype=torch.int64)
        # The mentor's own type: it was learned in it.
        with torch.no_grad():
            own = self._average.dtype
            return torch.sigmoid(self._mentor(losses.to(own), differences.to(own), progress)).to(losses.dtype)

    def state_dict(self) -> dict[str, Tensor]:
        """See :meth:`Method.state_dict`."""
        mentor = {} if self._mentor is None else self._mentor.state_dict()
        return super().state_dict() | {f"mentor.{name}": value for name, value in mentor.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """See :meth:`Method.load_state_dict`."""
        super().load_state_dict(state)
        start = "mentor."
        learned = {name.removeprefix(start): value for name, value in state.items() if name.startswith(start)}
        self._mentor = None
        if learned:
            self._mentor = self._new()
            self._mentor.load_state_dict(learned)

    def _new(self) -> Mentor:
        with seeded(Stream(self.context.seed, "method", "mentor", "init")):
            return Mentor().to(self.context.device)

    def _learned(self) -> Mentor:
        data = self.context.data
        assert data is not None
        assert data.meta is not None
        mentor = self._new()
        # Networks with dropout draw from PyTorch's own generator, whose state belongs to the run.
        with seeded(Stream(self.context.seed, "method", "mentor", "torch")), torch.enable_grad():
            lessons = gather_lessons(self.context, data.meta, self.config.percentile, self.config.percentile_decay)
            size = 128
            teach(
                mentor,
                lessons,
                learning_rate=self.config.mentor_learning_rate,
                passes=self.config.mentor_passes,
                batch_size=size,
                seed=self.context.seed,
            )
        return mentor.eval()
