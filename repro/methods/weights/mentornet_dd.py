"""MentorNet with a data-driven curriculum (DD; Jiang et al. 2018), a row of Tables 6 and 7: a mentor network gives the weights.

C_i = v_i onehot(y_i) / n, v_i = sigmoid(g(l_i, l_i - m, progress)) with the loss l_i, the moving percentile m of
:mod:`repro.methods.shared.loss_curriculum`, and the mentor g (:class:`Mentor`). The mentor is learned from the
clean split alone: its images are annotated with the run's kind and rate of noise, a student of the run's architecture and recipe trains on
them and is thrown away, and the mentor learns to tell the wrong annotations from the right ones by the features that it saw at each visit.
This happens once, when the weights are first needed.

Until ``burn_in`` percent of training all weights are 1; afterwards the mentor is asked as if training stood at that moment
(``fixed_progress``). The share of a batch that is left out follows ``dropout_rates`` and ``dropout_spans``.

Deviations: the clean split is the run's meta set (1,000 images in Tables 6 and 7, where the authors learn on other data and use 5,000);
the mentor is learned once, before it is used, and the student that shows it features has weights of 1. Weight decay is not scaled by the
mean weight. The authors' percentiles are 0.8, 0.6 and 0.5 at 20%, 40% and 80% noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from repro.config import registry
from repro.config.fields import setting
from repro.data.prepare import LabelledImages
from repro.engine.method import Context, Visit
from repro.engine.optimizer import make_optimizer
from repro.engine.schedule import Schedule
from repro.methods.shared.loss_curriculum import CurriculumConfig, LossCurriculum, moved_percentile, percent_done
from repro.methods.shared.transition import known_transition
from repro.randomness import Stream, seeded

#: Size of the embedding of the progress, of the recurrent state in each direction, and of the hidden layer.
_PROGRESS, _STATE, _HIDDEN = 5, 10, 20

#: Visits in a step of the mentor.
_LESSONS = 128


@dataclass
class MentorNetDDConfig(CurriculumConfig):
    """The schedules, in percent of training, and how the mentor is learned."""

    name: str = "mentornet_dd"
    percentile: float = setting(0.6, help="fraction of a batch's losses below the threshold", above=0.0, below=1.0)
    burn_in: int = setting(18, help="percent of training with weight 1 for all", at_least=0, at_most=100)
    fixed_progress: bool = setting(True, help="after the burn-in the mentor always sees its end as progress")
    dropout_rates: list[float] = setting([0.5, 0.05, 0.9], help="shares of a batch that are left out", at_least=0.0, below=1.0)
    dropout_spans: list[int] = setting([17, 78, 5], help="percent of training for which each of these rates holds", at_least=0, at_most=100)
    mentor_learning_rate: float = setting(1e-3, help="step size of Adam for the mentor", above=0.0)
    mentor_passes: int = setting(20, help="passes over what the mentor learns from", at_least=1, at_most=10_000)

    def contradictions(self, config: Any) -> list[str]:
        """Return what contradicts the rest of the run's settings."""
        if config.split.name == "full":
            return ["split=full contradicts method=mentornet_dd, whose mentor is learned on a clean split: use split=clean_meta."]
        return []


class Mentor(nn.Module):
    """The network of Jiang et al.: loss, loss minus moving percentile and progress to the logit of the weight.

    A bidirectional LSTM reads the two losses, an embedding the progress; then a hidden layer. In the published code the label that it
    also reads is always 0, so there is none here.
    """

    def __init__(self) -> None:
        super().__init__()
        self.progress = nn.Embedding(100, _PROGRESS)
        self.losses = nn.LSTM(2, _STATE, bidirectional=True)
        self.layers = nn.Sequential(nn.Linear(2 * _STATE + _PROGRESS, _HIDDEN), nn.Tanh(), nn.Linear(_HIDDEN, 1))

    def forward(self, losses: Tensor, differences: Tensor, percent: Tensor) -> Tensor:
        """Return logits (B,) of losses (B,), their differences (B,) to the moving percentile, and integers percent (B,)."""
        _, (state, _) = self.losses(torch.stack([losses, differences], dim=1).unsqueeze(0))
        features = torch.cat([state[0], state[1], self.progress(percent)], dim=1)
        logits: Tensor = self.layers(features).squeeze(1)
        return logits


@registry.method("mentornet_dd", config=MentorNetDDConfig)
class MentorNetDD(LossCurriculum):
    """The learned curriculum."""

    learned: Tensor

    def __init__(self, config: MentorNetDDConfig, context: Context) -> None:
        super().__init__(config, context)
        with seeded(Stream(context.seed, "method", "mentor", "init")):
            self.mentor = Mentor().to(context.device)
        # On the CPU, which asks for it before each step.
        self.register_buffer("learned", torch.tensor(False))

    @override
    def given(self, visit: Visit) -> tuple[Tensor, ...]:
        given = super().given(visit)
        if not self.learned and percent_done(visit.epoch, self.context.epochs) >= self.config.burn_in:
            data, seed = self.context.data, self.context.seed
            assert data is not None
            assert data.meta is not None
            # Networks with dropout draw from PyTorch's own generator, whose state belongs to the run.
            with seeded(Stream(seed, "method", "mentor", "torch")), torch.enable_grad():
                teach(self.mentor, gather_lessons(self.context, data.meta, self.config), self.config, seed=seed)
            self.learned.fill_(True)
        return given

    @override
    @torch.no_grad()
    def curriculum(self, losses: Tensor, differences: Tensor, percent: Tensor) -> Tensor:
        seen = torch.full_like(percent, min(99, self.config.burn_in)) if self.config.fixed_progress else percent
        # The mentor's own type: it was learned in it.
        own = self.average.dtype
        return torch.sigmoid(self.mentor(losses.to(own), differences.to(own), seen.expand(losses.shape))).to(losses.dtype)


class Lessons(NamedTuple):
    """What a mentor learns from: features of R visits of images whose annotation is known to be right or wrong.

    Attributes:
        losses: (R,).
        differences: to the moving percentile (R,).
        percent: progress (R,), from 0 to 99.
        right: 1.0 where the annotation is right (R,).
    """

    losses: Tensor
    differences: Tensor
    percent: Tensor
    right: Tensor


def annotate(labels: Tensor, transition: Tensor, stream: Stream) -> Tensor:
    """Return labels (N,) annotated with the noise of ``transition`` (K, K)."""
    drawn = torch.from_numpy(stream.uniform(len(labels)))
    edges = transition.cpu().double()[labels.cpu()].cumsum(dim=1)
    return (drawn.unsqueeze(1) >= edges).sum(dim=1).clamp(max=transition.shape[1] - 1).to(labels.device)


def gather_lessons(context: Context, clean: LabelledImages, config: MentorNetDDConfig) -> Lessons:
    """Train a student of its own on the clean images, annotated with the run's noise, and note the features of every visit.

    It has the run's recipe and epochs, so each image is visited as often as one of the run, and is thrown away.
    """
    assert context.data is not None
    assert context.optim is not None
    assert context.make_network is not None
    observed = annotate(clean.labels, known_transition(context), Stream(context.seed, "method", "mentor", "noise"))
    student = context.make_network("mentor_student").train()
    optimizer, schedule = make_optimizer(student, context.optim), Schedule(context.optim)
    average = torch.full((), torch.nan, device=context.device)
    visits: list[Lessons] = []
    for epoch in range(context.epochs):
        schedule.apply(optimizer, epoch)
        order = torch.from_numpy(Stream(context.seed, "method", "mentor", "order", epoch).permutation(len(clean))).to(context.device)
        draws = context.data.transform.draw(Stream(context.seed, "method", "mentor", "augment", epoch), len(order))
        size = context.optim.batch_size
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            inputs = context.data.transform(clean.images[rows], None if draws is None else draws[start : start + size])
            losses = F.cross_entropy(student(inputs), observed[rows], reduction="none")
            optimizer.step(torch.autograd.grad(losses.mean(), optimizer.parameters))
            noted = losses.detach().to(average.dtype)
            average = moved_percentile(average, noted, config)
            percent = torch.full_like(noted, percent_done(epoch, context.epochs), dtype=torch.int64)
            visits.append(Lessons(noted, noted - average, percent, (observed[rows] == clean.labels[rows]).to(average.dtype)))
    return Lessons(*map(torch.cat, zip(*visits, strict=True)))


def teach(mentor: Mentor, lessons: Lessons, config: MentorNetDDConfig, *, seed: int) -> None:
    """Train ``mentor`` to tell right annotations from wrong ones: binary cross-entropy, Adam, passes over the lessons."""
    optimizer = torch.optim.Adam(mentor.parameters(), lr=config.mentor_learning_rate)
    for index in range(config.mentor_passes):
        order = torch.from_numpy(Stream(seed, "method", "mentor", "lessons", index).permutation(len(lessons.right)))
        for start in range(0, len(order), _LESSONS):
            rows = order[start : start + _LESSONS].to(lessons.right.device)
            *features, right = (column[rows] for column in lessons)
            optimizer.zero_grad(set_to_none=True)
            F.binary_cross_entropy_with_logits(mentor(*features), right).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
