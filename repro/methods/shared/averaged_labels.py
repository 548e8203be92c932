"""The labels of several runs, averaged: what the final run of the two-stage protocol trains on (section 3.1, C1-C4, C9).

Stage 1 holds out one fold after the other and records how the labels of the rest move; stage 2 trains on everything with the
average over those runs. The paper does not say how moments of a shorter epoch are matched with those of a longer one (C2). Here:

* instance labels, ``visit``: every instance is visited once an epoch in every run, so its label in epoch e is the average of its
  labels at its visits in epoch e; ``fraction`` interpolates between visits at equal fractions of training, which also serves runs
  of different length;
* class labels, ``fraction``: the numbers are interpolated at equal fractions of training.

A run that holds an instance out has no label for it, and its average is over the others (C1). One epoch of each run is read at a
time, so memory does not grow with the length of training.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from typing_extensions import override

from repro.config.fields import setting
from repro.config.schema import MethodConfig
from repro.engine.method import Context, smoothed
from repro.errors import UserError
from repro.labels.trajectory import Trajectory, open_trajectory

#: Below this a probability counts as this in a mean of logarithms: what float16 can just tell from 0.
SMALLEST = 2.0**-24

Floats = npt.NDArray[np.float32]


@dataclass
class AveragedLabelsConfig(MethodConfig):
    """Which labels of the inputs are averaged, and how."""

    folds: str = setting(
        "trained",
        help="average over the inputs that trained on the image, or over all; the others keep its first label (C1)",
        choices=("trained", "all"),
    )
    mean: str = setting("probability", help="what is averaged (C4)", choices=("probability", "logit"))


@dataclass(eq=False)
class AveragedLabels(ABC):
    """Targets for the training instances of a run, averaged over the labels of its inputs.

    Attributes:
        trajectories: the labels of the inputs.
        context: of the run.
        align: how moments are matched (C2), resolved.
        config: what is averaged, and over which inputs.
    """

    trajectories: Sequence[Trajectory]
    context: Context
    align: str
    config: AveragedLabelsConfig

    @property
    def epochs(self) -> int:
        """How many epochs of labels the inputs have."""
        return self.trajectories[0].epochs

    @abstractmethod
    def at(self, rows: Tensor, epoch: int, step: int) -> Tensor:
        """Return the distributions (len(rows), K) of the training instances at ``rows`` at that step of that epoch, both from 0."""

    def converged(self, last_epochs: int) -> Tensor:
        """Return the distributions (N, K) of all instances at the end, averaged over the last epochs (C9)."""
        total = torch.zeros((len(self.context.observed), self.context.num_classes), device=self.context.device)
        for epoch in range(self.epochs - last_epochs, self.epochs):
            total += self._last_of(epoch)
        return total / last_epochs

    @abstractmethod
    def _last_of(self, epoch: int) -> Tensor:
        """Return the distributions (N, K) that an epoch left behind."""

    def _input_time(self, epoch: int, step: int, points: int) -> tuple[int, int, float]:
        """Return which two of an input's ``points`` equal stretches of training lie around the same fraction, and the second one's weight.

        A step stands for the middle of its stretch, in both runs.
        """
        steps = self.context.steps_per_epoch
        fraction = (epoch * steps + step + 0.5) / (self.context.epochs * steps)
        place = min(max(fraction * points - 0.5, 0.0), points - 1.0)
        first = int(place)
        return first, min(first + 1, points - 1), place - first


def averaged_labels(context: Context, config: AveragedLabelsConfig, align: str = "auto") -> AveragedLabels:
    """Return the averaged labels of ``context.inputs.labels``; one input alone is its own average.

    Raises:
        UserError: an input recorded no labels, or its trajectory is corrupted or cut short; the inputs do not fit each other or the
            run: kinds, classes, lengths, an instance that no input or not as many inputs have a label for.
    """
    inputs = context.inputs.labels
    trajectories = [open_trajectory(run.folder / "labels") for run in inputs]
    kind, epochs = trajectories[0].kind, trajectories[0].epochs
    for run, trajectory in zip(inputs, trajectories, strict=True):
        if (trajectory.kind, trajectory.epochs, trajectory.num_classes) != (kind, epochs, context.num_classes):
            raise UserError(
                f"input {run.run_id} has {trajectory.epochs} epochs of {trajectory.kind} labels of {trajectory.num_classes} classes, where "
                f"{epochs} epochs of {kind} labels of {context.num_classes} classes are averaged."
            )
    if kind == "class":
        if align == "visit":
            raise UserError("method.align=visit: class labels, which have no visits, can be aligned by fraction only.")
        return _ClassLabels(trajectories, context, "fraction", config)
    return _InstanceLabels(trajectories, context, "visit" if align == "auto" else align, config)


@dataclass(eq=False)
class _InstanceLabels(AveragedLabels):
    def __post_init__(self) -> None:
        assert self.context.data is not None
        # Row of each of this run's instances in each input, or -1 where the input held it out.
        self._local = [trajectory.rows_of(self.context.data.train_indices) for trajectory in self.trajectories]
        counts = np.sum([local >= 0 for local in self._local], axis=0)
        if counts.min() == 0 or counts.min() < counts.max():
            raise UserError(
                f"inputs.labels: some training images have labels in {counts.min()} inputs, some in {counts.max()}: a fold is missing, "
                "two inputs hold out the same one, or they were recorded by an older version, which counted images within a part of the "
                "dataset."
            )
        self._count = len(self.trajectories) if self.config.folds == "all" else int(counts.max())
        # Two epochs: `fraction` looks at both sides of a moment.
        self._epoch = lru_cache(maxsize=2)(self._last_of)

    @override
    def at(self, rows: Tensor, epoch: int, step: int) -> Tensor:
        if self.align == "visit":
            return self._epoch(epoch)[rows]
        first, second, weight = self._input_time(epoch, step, self.epochs)
        return torch.lerp(self._epoch(first)[rows], self._epoch(second)[rows], weight)

    @override
    def _last_of(self, epoch: int) -> Tensor:
        """Return the mean (N, K) of the labels at the visits of an epoch, on the device."""
        context = self.context
        total = np.zeros((len(context.observed), context.num_classes), np.float32)
        for run, trajectory, local in zip(context.inputs.labels, self.trajectories, self._local, strict=True):
            trained = local >= 0
            total[trained] += self._summand(trajectory.block(epoch)[local[trained]])
            if self.config.folds == "all":
                observed, initial = (
                    context.observed.cpu()[torch.from_numpy(~trained)],
                    float(run.fields["method.initial_target_probability"]),
                )
                total[~trained] += self._summand(smoothed(observed, initial, context.num_classes).float().numpy())
        mean = torch.from_numpy(total).to(context.device) / self._count
        if self.config.mean == "logit":
            return torch.softmax(mean, dim=1)
        # Stored numbers are rounded, so a row's sum is 1 only nearly.
        return mean / mean.sum(dim=1, keepdim=True)

    def _summand(self, distributions: Floats) -> Floats:
        return distributions if self.config.mean == "probability" else np.log(np.maximum(distributions, np.float32(SMALLEST)))


@dataclass(eq=False)
class _ClassLabels(AveragedLabels):
    def __post_init__(self) -> None:
        self._block = lru_cache(maxsize=2 * len(self.trajectories))(lambda index, epoch: self.trajectories[index].block(epoch))

    @override
    def at(self, rows: Tensor, epoch: int, step: int) -> Tensor:
        parameters: list[Floats] = []
        for index, trajectory in enumerate(self.trajectories):
            first, second, weight = self._input_time(epoch, step, self.epochs * trajectory.rows)
            before, after = (self._block(index, place // trajectory.rows)[place % trajectory.rows] for place in (first, second))
            parameters.append(before + np.float32(weight) * (after - before))
        return self._targets(self.context.observed[rows], parameters)

    @override
    def _last_of(self, epoch: int) -> Tensor:
        return self._targets(self.context.observed, [trajectory.block(epoch)[-1] for trajectory in self.trajectories])

    def _targets(self, observed: Tensor, parameters: list[Floats]) -> Tensor:
        """Return the distributions (B, K) of images annotated ``observed`` (B,) by the mean of the inputs' alphas (K,)."""
        num_classes = self.context.num_classes
        target = 1.0 - np.stack(parameters)
        if self.config.mean == "probability":
            share = target.mean(axis=0)
        else:
            on, off = (np.exp(np.log(np.maximum(part, SMALLEST)).mean(axis=0)) for part in (target, (1.0 - target) / (num_classes - 1)))
            share = on / (on + (num_classes - 1) * off)
        return smoothed(observed, torch.from_numpy(share.astype(np.float32)).to(observed.device)[observed].unsqueeze(1), num_classes)
