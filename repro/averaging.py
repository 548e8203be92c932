"""The labels of several runs, averaged: what the final run of the two-stage protocol trains on (section 3.1, C1-C4, C9).

Stage 1 holds out one fold after the other and records how the labels of the rest move; stage 2 trains on everything with the
average over those runs. The paper does not say how moments of a shorter epoch are matched with those of a longer one (C2). Here:

* instance labels, ``visit``: every instance is visited once an epoch in every run, so its label in epoch e is the average of its
  labels at its visits in epoch e; ``fraction`` interpolates between visits at equal fractions of training, which also serves runs
  of different length; ``step`` takes the label that each run had after as many steps;
* class labels, ``fraction``: the numbers are interpolated at equal fractions of training; ``epoch_end`` holds those of the end of
  the epoch; ``step`` takes those after as many steps.

A run that holds an instance out has no label for it, and its average is over the others (C1). One epoch of each run is read at a
time, so memory does not grow with the length of training.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from repro.determinism import visit_order
from repro.errors import UserError
from repro.inputs import InputRun
from repro.labels import Trajectory, open_trajectory
from repro.methods.base import Context, smoothed

#: Below this a probability counts as this in a mean of logarithms: what float16 can just tell from 0.
SMALLEST = 2.0**-24

Floats = npt.NDArray[np.float32]


class Moment(NamedTuple):
    """A position in training: completed epochs and completed steps of the present one."""

    epoch: int
    step: int


class Source(NamedTuple):
    """One run whose labels are averaged, with its trajectory."""

    run: InputRun
    trajectory: Trajectory

    @property
    def initial_target_probability(self) -> float:
        """The mass on the annotated class before the labels moved."""
        return float(self.run.fields["method.initial_target_probability"])


class AveragedLabels(ABC):
    """Targets for the training instances of a run, averaged over the labels of its inputs.

    Attributes:
        align: how moments are matched (C2), resolved.
        mean: ``probability`` or ``logit`` (C4).
    """

    def __init__(self, sources: Sequence[Source], context: Context, *, align: str, mean: str) -> None:
        self.sources = sources
        self.context = context
        self.align = align
        self.mean = mean
        self.epochs = sources[0].trajectory.epochs

    @abstractmethod
    def at(self, rows: Tensor, moment: Moment) -> Tensor:
        """Return the distributions (len(rows), K) of the training instances at ``rows`` at that moment."""

    @abstractmethod
    def converged(self, rows: Tensor, last_epochs: int) -> Tensor:
        """Return the distributions (len(rows), K) at the end, averaged over the last epochs (C9)."""

    def _input_time(self, moment: Moment, points: int) -> tuple[int, int, float]:
        """Return which two of an input's ``points`` equal stretches of training lie around the same fraction, and the second one's weight.

        A step stands for the middle of its stretch, in both runs.
        """
        steps = self.context.steps_per_epoch
        fraction = (moment.epoch * steps + moment.step + 0.5) / (self.context.epochs * steps)
        place = min(max(fraction * points - 0.5, 0.0), points - 1.0)
        first = int(place)
        return first, min(first + 1, points - 1), place - first


def averaged_labels(context: Context, *, align: str = "auto", mean: str = "probability", folds: str = "trained") -> AveragedLabels:
    """Return the averaged labels of ``context.inputs.labels``; one input alone is its own average.

    Raises:
        UserError: an input recorded no labels, or its trajectory is damaged or cut short; the inputs do not fit each other or the
            run: kinds, classes, lengths, an instance that no input or not as many inputs have a label for.
    """
    assert context.data is not None
    sources = [Source(run, open_trajectory(run.folder / "labels")) for run in context.inputs.labels]
    kinds = {source.trajectory.kind for source in sources}
    if len(kinds) > 1:
        raise UserError("inputs.labels: some inputs have instance labels and some class labels; they cannot be averaged.")
    for name, trajectory in ((source.run.run_id, source.trajectory) for source in sources):
        if trajectory.num_classes != context.num_classes:
            raise UserError(f"input {name} has labels of {trajectory.num_classes} classes, this run has {context.num_classes}.")
        if trajectory.epochs != sources[0].trajectory.epochs or trajectory.epochs == 0:
            raise UserError(f"input {name} has {trajectory.epochs} epochs of labels, the first input {sources[0].trajectory.epochs}.")
    kind = kinds.pop()
    aligned = {"instance": _InstanceLabels.ALIGNMENTS, "class": _ClassLabels.ALIGNMENTS}[kind]
    if align == "auto":
        align = aligned[0]
    if align not in aligned:
        raise UserError(f"method.align={align}: {kind} labels can be aligned by {', '.join(aligned)}.")
    if kind == "class":
        return _ClassLabels(sources, context, align=align, mean=mean)
    return _InstanceLabels(sources, context, align=align, mean=mean, held_out_too=folds == "all")


def check_length(labels: AveragedLabels) -> None:
    """Check that the run trains as many epochs as its inputs did, which all alignments but ``fraction`` need.

    Raises:
        UserError: it does not.
    """
    if labels.align != "fraction" and labels.epochs != labels.context.epochs:
        raise UserError(
            f"optim.epochs={labels.context.epochs}, but the labels were recorded over {labels.epochs} epochs: with "
            f"method.align={labels.align} both must be equal. method.align=fraction stretches the trajectory."
        )


class _InstanceLabels(AveragedLabels):
    ALIGNMENTS = ("visit", "fraction", "step")

    def __init__(self, sources: Sequence[Source], context: Context, *, align: str, mean: str, held_out_too: bool) -> None:
        super().__init__(sources, context, align=align, mean=mean)
        assert context.data is not None
        indices = context.data.train_indices
        self._held_out_too = held_out_too
        # Row of each of this run's instances in each input, or -1 where the input held it out.
        self._local = [_positions(indices, source.trajectory.indices) for source in sources]
        counts = np.sum([local >= 0 for local in self._local], axis=0)
        if counts.min() == 0:
            raise UserError(f"inputs.labels: {int((counts == 0).sum())} of the {len(counts)} training images have a label in no input.")
        if counts.min() < counts.max():
            raise UserError(
                f"inputs.labels: some images have labels in {counts.min()} inputs and some in {counts.max()}: a fold is missing, or two "
                "inputs hold out the same one."
            )
        self._count = len(sources) if held_out_too else int(counts.max())
        self._observed = context.observed.cpu()
        # Two epochs: `fraction` looks at both sides of a moment.
        self._epoch_mean = lru_cache(maxsize=2)(self._read_epoch)
        self._state = lru_cache(maxsize=len(sources))(self._read_state)

    def at(self, rows: Tensor, moment: Moment) -> Tensor:
        if self.align == "visit":
            return self._epoch_mean(moment.epoch)[rows]
        if self.align == "fraction":
            first, second, weight = self._input_time(moment, self.epochs)
            return torch.lerp(self._epoch_mean(first)[rows], self._epoch_mean(second)[rows], weight)
        return self._after_steps(rows, moment.epoch * self.context.steps_per_epoch + moment.step)

    def converged(self, rows: Tensor, last_epochs: int) -> Tensor:
        total = torch.zeros((len(rows), self.context.num_classes), device=self.context.device)
        for epoch in range(self.epochs - last_epochs, self.epochs):
            total += self._read_epoch(epoch)[rows]
        return total / last_epochs

    def _read_epoch(self, epoch: int) -> Tensor:
        """Return the mean (N, K) of the labels at the visits of an epoch, on the device."""
        total = np.zeros((len(self._observed), self.context.num_classes), np.float32)
        for source, local in zip(self.sources, self._local, strict=True):
            there = local >= 0
            total[there] += self._summand(source.trajectory.block(epoch)[local[there]])
            if self._held_out_too:
                total[~there] += self._summand(self._start(source, ~there))
        return self._mean_of(torch.from_numpy(total).to(self.context.device))

    def _after_steps(self, rows: Tensor, steps: int) -> Tensor:
        """Return the mean of the labels that each input had after ``steps`` + 1 of its steps, or at its end."""
        total = torch.zeros((len(rows), self.context.num_classes), device=self.context.device)
        for index, source in enumerate(self.sources):
            batch_size = int(source.run.fields["optim.batch_size"])
            per_epoch = -(-source.trajectory.rows // batch_size)
            epoch, step = divmod(min(steps, self.epochs * per_epoch - 1), per_epoch)
            present, previous, visited_at = self._state(index, epoch)
            visited = (visited_at[rows] <= step).unsqueeze(1)
            total += torch.where(visited, present[rows], previous[rows])
        return self._mean_of(total)

    def _read_state(self, index: int, epoch: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return, for each instance, the summands (N, K) after and before its visit in that epoch, and the step (N,) of the visit."""
        source, local = self.sources[index], self._local[index]
        there = local >= 0
        start = self._summand(self._start(source, np.ones_like(there)))
        if not self._held_out_too:
            start[~there] = 0.0
        blocks = []
        for wanted in (epoch, epoch - 1):
            block = start.copy()
            if wanted >= 0:
                block[there] = self._summand(source.trajectory.block(wanted)[local[there]])
            blocks.append(torch.from_numpy(block).to(self.context.device))
        order = visit_order(int(source.run.fields["seed"]), epoch, source.trajectory.rows)
        step_of = np.empty(len(order), np.int64)
        step_of[order] = np.arange(len(order)) // int(source.run.fields["optim.batch_size"])
        visited_at = np.zeros(len(local), np.int64)
        visited_at[there] = step_of[local[there]]
        return blocks[0], blocks[1], torch.from_numpy(visited_at).to(self.context.device)

    def _start(self, source: Source, chosen: npt.NDArray[np.bool_]) -> Floats:
        """Return the labels that the chosen instances had before training."""
        observed = self._observed[torch.from_numpy(chosen)]
        start: Floats = smoothed(observed, source.initial_target_probability, self.context.num_classes).float().numpy()
        return start

    def _summand(self, distributions: Floats) -> Floats:
        return distributions if self.mean == "probability" else np.log(np.maximum(distributions, np.float32(SMALLEST)))

    def _mean_of(self, total: Tensor) -> Tensor:
        mean = total / self._count
        if self.mean == "logit":
            return torch.softmax(mean, dim=1)
        # Stored numbers are rounded, so a row's sum is 1 only nearly.
        return mean / mean.sum(dim=1, keepdim=True)


class _ClassLabels(AveragedLabels):
    ALIGNMENTS = ("fraction", "epoch_end", "step")

    def __init__(self, sources: Sequence[Source], context: Context, *, align: str, mean: str) -> None:
        super().__init__(sources, context, align=align, mean=mean)
        self._block = lru_cache(maxsize=2 * len(sources))(lambda index, epoch: sources[index].trajectory.block(epoch))

    def at(self, rows: Tensor, moment: Moment) -> Tensor:
        parameters = [self._at(index, moment) for index in range(len(self.sources))]
        return self._targets(rows, parameters)

    def converged(self, rows: Tensor, last_epochs: int) -> Tensor:
        total = torch.zeros((len(rows), self.context.num_classes), device=self.context.device)
        for epoch in range(self.epochs - last_epochs, self.epochs):
            total += self._targets(rows, [source.trajectory.block(epoch)[-1] for source in self.sources])
        return total / last_epochs

    def _at(self, index: int, moment: Moment) -> Floats:
        """Return alpha (K,) of an input at that moment."""
        steps = self.sources[index].trajectory.rows
        if self.align == "epoch_end":
            return self._after(index, (moment.epoch + 1) * steps - 1)
        if self.align == "step":
            done = moment.epoch * self.context.steps_per_epoch + moment.step
            return self._after(index, min(done, self.epochs * steps - 1))
        first, second, weight = self._input_time(moment, self.epochs * steps)
        before, after = self._after(index, first), self._after(index, second)
        return before + np.float32(weight) * (after - before)

    def _after(self, index: int, step: int) -> Floats:
        epoch, within = divmod(step, self.sources[index].trajectory.rows)
        alpha: Floats = self._block(index, epoch)[within]
        return alpha

    def _targets(self, rows: Tensor, parameters: list[Floats]) -> Tensor:
        num_classes = self.context.num_classes
        target = 1.0 - np.stack(parameters)
        if self.mean == "probability":
            share = target.mean(axis=0)
        else:
            on = np.exp(np.log(np.maximum(target, SMALLEST)).mean(axis=0))
            off = np.exp(np.log(np.maximum((1.0 - target) / (num_classes - 1), SMALLEST)).mean(axis=0))
            share = on / (on + (num_classes - 1) * off)
        observed = self.context.observed[rows]
        return smoothed(observed, torch.from_numpy(share.astype(np.float32)).to(observed.device)[observed].unsqueeze(1), num_classes)


def _positions(wanted: npt.NDArray[np.int64], present: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return where in ``present`` each of ``wanted`` stands, or -1."""
    order = np.argsort(present, kind="stable")
    place = np.minimum(np.searchsorted(present[order], wanted), len(present) - 1)
    found = order[place]
    return np.where(present[found] == wanted, found, -1)
