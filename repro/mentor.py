"""What the two MentorNet methods share: the features of an image, the schedule of left-out images, and the mentor network.

An image's loss is compared with a moving average of a percentile of the losses of the batches; progress through training is counted
in percent. Weights are v_i in [0, 1] and enter as C_i = v_i onehot(y_i) / n.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from repro.data.prepare import LabelledImages
from repro.determinism import Stream
from repro.methods.base import Context
from repro.optimizer import make_optimizer
from repro.step import learning_rate_at, momentum_at

#: Size of the embedding of the progress, of the recurrent state in each direction, and of the hidden layer.
_PROGRESS, _STATE, _HIDDEN = 5, 10, 20


def percent_done(epoch: int, epochs: int) -> int:
    """Return the progress after ``epoch`` completed epochs, from 0 to 99."""
    return min(99, 100 * epoch // epochs)


def moved_percentile(average: Float[Tensor, ""], losses: Float[Tensor, " batch"], percentile: float, decay: float) -> Float[Tensor, ""]:
    """Return the moving average of the losses' percentile after a batch; an ``average`` of NaN has seen none before."""
    now = torch.quantile(losses.to(average.dtype), percentile)
    return torch.where(average.isnan(), now, decay * average + (1.0 - decay) * now)


def rate_at(percent: int, rates: Sequence[float], spans: Sequence[int]) -> float:
    """Return the rate at a progress of ``percent``: ``rates[j]`` holds for ``spans[j]`` percent, the last one to the end."""
    passed = 0
    for rate, span in zip(rates, spans, strict=True):
        passed += span
        if percent < passed:
            return rate
    return rates[-1] if rates else 0.0


def kept(weights: Float[Tensor, " batch"], rate: float, stream: Stream) -> Bool[Tensor, " batch"]:
    """Return which images stay when the share ``rate`` of a batch is left out (B,): drawn without replacement, in proportion to weights.

    The largest of log(weight) plus independent Gumbel variables are such a draw.
    """
    count = int(len(weights) * (1.0 - rate))
    uniform = torch.from_numpy(stream.uniform(len(weights))).to(weights.device, weights.dtype).clamp(1e-7, 1.0 - 1e-7)
    keys = (weights + 1e-5).log() - (-uniform.log()).log()
    chosen = keys.sort(descending=True, stable=True).indices[:count]
    mask = torch.zeros_like(weights, dtype=torch.bool)
    mask[chosen] = True
    return mask


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


@dataclass(frozen=True)
class Lessons:
    """What a mentor learns from: features of images whose annotation is known to be right or wrong.

    Attributes:
        losses: (R,).
        differences: to the moving percentile (R,).
        percent: progress (R,), from 0 to 99.
        right: 1.0 where the annotation is right (R,).
    """

    losses: Float[Tensor, " rows"]
    differences: Float[Tensor, " rows"]
    percent: Int[Tensor, " rows"]
    right: Float[Tensor, " rows"]


def annotate(labels: Int[Tensor, " images"], transition: Float[Tensor, "classes classes"], stream: Stream) -> Int[Tensor, " images"]:
    """Return labels (N,) annotated with the noise of ``transition`` (K, K)."""
    drawn = torch.from_numpy(stream.uniform(len(labels)))
    edges = transition.cpu().double()[labels.cpu()].cumsum(dim=1)
    return (drawn.unsqueeze(1) >= edges).sum(dim=1).clamp(max=transition.shape[1] - 1).to(labels.device)


def gather_lessons(context: Context, clean: LabelledImages, percentile: float, decay: float) -> Lessons:
    """Train a student of its own on the clean images, annotated with the run's noise, and note the features of every visit.

    It has the run's recipe and epochs, so each image is visited as often as one of the run, and is thrown away.
    """
    assert context.data is not None
    assert context.optim is not None
    assert context.make_network is not None
    transition = context.transition if context.transition is not None else torch.eye(context.num_classes)
    observed = annotate(clean.labels, transition, Stream(context.seed, "method", "mentor", "noise"))
    student = context.make_network("mentor_student").train()
    optimizer = make_optimizer(student, context.optim)
    average = torch.full((), torch.nan, device=context.device)
    visits: list[tuple[Tensor, Tensor, int, Tensor]] = []
    for epoch in range(context.epochs):
        optimizer.learning_rate, optimizer.momentum = learning_rate_at(context.optim, epoch), momentum_at(context.optim, epoch)
        order = torch.from_numpy(Stream(context.seed, "method", "mentor", "order", epoch).permutation(len(clean))).to(context.device)
        draws = context.data.transform.draw(Stream(context.seed, "method", "mentor", "augment", epoch), len(order))
        size = context.optim.batch_size
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            inputs = context.data.transform(clean.images[rows], None if draws is None else draws[start : start + size])
            losses = F.cross_entropy(student(inputs), observed[rows], reduction="none")
            optimizer.step(torch.autograd.grad(losses.mean(), optimizer.parameters))
            noted = losses.detach().to(average.dtype)
            average = moved_percentile(average, noted, percentile, decay)
            visits.append((noted, noted - average, percent_done(epoch, context.epochs), (observed[rows] == clean.labels[rows])))
    return Lessons(
        losses=torch.cat([visit[0] for visit in visits]),
        differences=torch.cat([visit[1] for visit in visits]),
        percent=torch.cat([torch.full_like(visit[0], visit[2], dtype=torch.int64) for visit in visits]),
        right=torch.cat([visit[3] for visit in visits]).to(average.dtype),
    )


def teach(mentor: Mentor, lessons: Lessons, *, learning_rate: float, passes: int, batch_size: int, seed: int) -> None:
    """Train ``mentor`` to tell right annotations from wrong ones: binary cross-entropy, Adam, ``passes`` over the lessons."""
    optimizer = torch.optim.Adam(mentor.parameters(), lr=learning_rate)
    for index in range(passes):
        order = torch.from_numpy(Stream(seed, "method", "mentor", "lessons", index).permutation(len(lessons.right)))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size].to(lessons.right.device)
            logits = mentor(lessons.losses[rows], lessons.differences[rows], lessons.percent[rows])
            optimizer.zero_grad(set_to_none=True)
            F.binary_cross_entropy_with_logits(logits, lessons.right[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
