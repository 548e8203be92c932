"""Training a model from its first to its last epoch. No file and no W&B call stands here: results and states go to :class:`Observer`.

All randomness of an epoch is drawn when it begins, from streams named by the seed and the epoch, and lies on the device; so a run
that stops between any two steps resumes from the model's, the optimiser's and the method's state and a position.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from repro.config import Config
from repro.data.prepare import LabelledImages, RunData, as_inputs
from repro.data.transform import Draws
from repro.determinism import Stream, visit_order
from repro.errors import UserError
from repro.evaluate import class_accuracy_row, evaluate, label_metrics
from repro.label_gradient import GradientDirections
from repro.labels import Recorder
from repro.methods.base import Method
from repro.optimizer import Optimizer
from repro.step import NO_WEIGHT, MetaBatch, TrainingStep, learning_rate_at, momentum_at, steps_per_epoch

logger = logging.getLogger(__name__)


class Observer(Protocol):
    """Who the loop reports to and asks."""

    def evaluated(self, row: dict[str, Any]) -> None:
        """Take the metrics of an epoch."""

    def between_steps(self, training: Training) -> None:
        """Save ``training.state()`` if it is time; raise :class:`repro.errors.Interrupted` to stop."""


@dataclass
class EpochPlan:
    """Everything random about an epoch, on the device.

    Attributes:
        order: training rows (N,) in the order of their visits.
        draws: the augmentation of each visit.
        meta_order: meta rows (meta steps * M,), batch after batch.
        meta_draws: the augmentation of each of them.
    """

    order: Tensor
    draws: Draws | None
    meta_order: Tensor | None
    meta_draws: Draws | None


class Training:
    """One run in memory: the model, its optimiser, its method, and how far they are."""

    def __init__(
        self, config: Config, data: RunData, model: nn.Module, optimizer: Optimizer, method: Method, recorder: Recorder | None
    ) -> None:
        self.config = config
        self.data = as_inputs(data)
        self.model = model
        self.optimizer = optimizer
        self.method = method
        self.recorder = recorder
        self.epoch = 0
        self.batch = 0
        self.diverged = False
        execution = config.exec
        self._step = TrainingStep(
            model, optimizer, method, config.optim, config.meta, compile_step=execution.compile, cuda_graphs=execution.cuda_graphs
        )
        self._device = data.observed.device
        self.num_batches = steps_per_epoch(config.optim, len(data.observed))
        self._visited = min(len(data.observed), self.num_batches * config.optim.batch_size)
        # float64 sums on the device; mps has none.
        exact = torch.float32 if self._device.type == "mps" else torch.float64
        self._loss = torch.zeros((), dtype=exact, device=self._device)
        self._correct = torch.zeros((), dtype=torch.int64, device=self._device)
        # Where a method's loss is more than its coefficients, an image has no one weight.
        self._weighs = method.weighs and type(method).loss is Method.loss
        self._weights = torch.zeros(2, dtype=exact, device=self._device)
        self._warned_of_weights = False
        self._directions = GradientDirections(method, data.observed, data.true) if config.trajectory.gradient else None
        if method.uses_meta and data.meta is not None and config.meta.batch_size > len(data.meta):
            raise UserError(f"meta.batch_size={config.meta.batch_size}: must be at most the {len(data.meta)} images of the meta set.")

    # -- state -----------------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return everything that a resumed run needs, as tensors and plain numbers."""
        return {
            "epoch": self.epoch,
            "batch": self.batch,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "method": self.method.state_dict(),
            "recorder": self.recorder.state_dict() if self.recorder else {},
            "loss": self._loss,
            "correct": self._correct,
            "weights": self._weights,
            "directions": None if self._directions is None else self._directions.counts,
            "random": [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if self._device.type == "cuda" else [])],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`."""
        self.epoch, self.batch = state["epoch"], state["batch"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.method.load_state_dict(state["method"])
        if self.recorder:
            self.recorder.load_state_dict(state["recorder"])
        self._loss.copy_(state["loss"])
        self._correct.copy_(state["correct"])
        self._weights.copy_(state["weights"])
        if self._directions is not None:
            self._directions.counts.copy_(state["directions"])
        torch.set_rng_state(state["random"][0])
        if self._device.type == "cuda" and state["random"][1:]:
            torch.cuda.set_rng_state_all(state["random"][1:])

    # -- the loop --------------------------------------------------------------------------------------------------------------

    def run(self, observer: Observer) -> None:
        """Train to the end, or until the observer stops it. The first row is that of the untrained model, epoch 0."""
        if self.epoch == 0 and self.batch == 0:
            observer.evaluated(self._row({}))
        while self.epoch < self.config.optim.epochs and not self.diverged:
            start = time.monotonic()
            row = self._train_epoch(observer)
            row = self._row(row)
            observer.evaluated(row | {"time/epoch_s": time.monotonic() - start})
            self.diverged = not math.isfinite(row["train/loss"])
            observer.between_steps(self)

    def _train_epoch(self, observer: Observer) -> dict[str, float]:
        """Train from the present position to the epoch's end and return the train metrics."""
        config, epoch = self.config, self.epoch
        rate = learning_rate_at(config.optim, epoch)
        self.optimizer.learning_rate, self.optimizer.momentum = rate, momentum_at(config.optim, epoch)
        plan = self._plan(epoch)
        if self.batch == 0:
            self._loss.zero_()
            self._correct.zero_()
            self._weights.zero_()
            # Only dropout draws from PyTorch's own generator; its state is in the checkpoint.
            torch.manual_seed(Stream(config.seed, "method", "torch", epoch).torch_seed())
        self.model.train()
        while self.batch < self.num_batches:
            self._train_batch(plan)
            self.batch += 1
            if self.batch < self.num_batches:
                observer.between_steps(self)
        self.epoch, self.batch = epoch + 1, 0
        if self.recorder:
            self.recorder.end_epoch(self.epoch)
        return {
            "train/loss": float(self._loss) / self._visited,
            "train/accuracy": float(self._correct) / self._visited,
            "optim/learning_rate": rate,
            **self._weight_metrics(),
            **({} if self._directions is None else self._directions.metrics()),
        }

    def _weight_metrics(self) -> dict[str, float]:
        """Return what the epoch's weights were, of methods that weigh images; weights that have all but vanished are warned of, once."""
        if not self._weighs:
            return {}
        mean, unused = (float(total) / self._visited for total in self._weights)
        if mean < NO_WEIGHT and not self._warned_of_weights:
            self._warned_of_weights = True
            logger.warning(
                "after epoch %d: the weights of the training images have all but vanished (mean %.1e, where 1 is unweighted), so next to "
                "nothing is learned from them. The metric weight/mean shows since when.",
                self.epoch,
                mean,
            )
        return {"weight/mean": mean, "weight/unused": unused}

    def _train_batch(self, plan: EpochPlan) -> None:
        size = self.config.optim.batch_size
        visits = slice(self.batch * size, (self.batch + 1) * size)
        rows = plan.order[visits]
        inputs = self.data.transform(self.data.train.images.index_select(0, rows), None if plan.draws is None else plan.draws[visits])
        if self.recorder:
            self.recorder.before_step(rows, self.batch)
        observed = self.data.observed.index_select(0, rows)
        result = self._step(inputs, rows, observed, epoch=self.epoch, meta=self._meta_batch(plan), step=self.batch)
        if self.recorder:
            self.recorder.after_step(rows, self.batch)
        self._loss += result.loss
        self._correct += result.correct
        if result.weights is not None:
            self._weights += result.weights

    # -- randomness ------------------------------------------------------------------------------------------------------------

    def _plan(self, epoch: int) -> EpochPlan:
        config, data = self.config, self.data
        order = visit_order(config.seed, epoch, len(data.observed))
        draws = data.transform.draw(Stream(config.seed, "augment", "train", epoch), len(order))
        meta_order = meta_draws = None
        if data.meta is not None and self.method.learns_at(epoch):
            rows = self._meta_rows(epoch, data.meta)
            meta_order = torch.from_numpy(rows).to(self._device)
            if config.meta.augment:
                meta_draws = data.transform.draw(Stream(config.seed, "augment", "meta", epoch), len(rows))
        return EpochPlan(torch.from_numpy(order).to(self._device), draws, meta_order, meta_draws)

    def _meta_rows(self, epoch: int, meta: LabelledImages) -> npt.NDArray[np.int64]:
        """Return the meta rows of all meta steps of ``epoch``, batch after batch (A11).

        ``cycle`` cuts one endless row of shuffled passes, numbered from the run's first step, into batches.
        """
        config = self.config
        size, count = config.meta.batch_size, self._meta_steps(self.num_batches)
        if config.meta.sampler == "fresh":
            draws = [Stream(config.seed, "order", "meta", epoch, step).permutation(len(meta))[:size] for step in range(count)]
            return np.concatenate(draws)
        first = epoch * count * size
        passes = range(first // len(meta), (first + count * size - 1) // len(meta) + 1)
        shuffled = np.concatenate([Stream(config.seed, "order", "meta", index).permutation(len(meta)) for index in passes])
        start = first - passes.start * len(meta)
        return shuffled[start : start + count * size]

    def _meta_steps(self, batches: int) -> int:
        """Return the number of meta steps among the first ``batches`` batches of an epoch (B13)."""
        return math.ceil(batches / self.config.meta.interval)

    def _meta_batch(self, plan: EpochPlan) -> MetaBatch | None:
        data, meta = self.data, self.config.meta
        if plan.meta_order is None or data.meta is None or self.batch % meta.interval != 0:
            return None
        start = self._meta_steps(self.batch) * meta.batch_size
        visits = slice(start, start + meta.batch_size)
        rows = plan.meta_order[visits]
        draws = None if plan.meta_draws is None else plan.meta_draws[visits]
        images, targets = data.meta.images.index_select(0, rows), data.meta.labels.index_select(0, rows)
        return MetaBatch(inputs=data.transform(images, draws), targets=targets)

    # -- measuring -------------------------------------------------------------------------------------------------------------

    def _row(self, train: dict[str, float]) -> dict[str, Any]:
        data, batch_size = self.data, self.config.exec.eval_batch_size

        def measure(images: LabelledImages, model: nn.Module = self.model) -> Any:
            return evaluate(model, images, data.transform, num_classes=data.num_classes, batch_size=batch_size)

        row: dict[str, Any] = {"epoch": self.epoch, "step": self.epoch * self.num_batches, **train}
        row |= measure(data.test).row("test")
        if data.meta is not None:
            on_meta = measure(data.meta)
            row |= on_meta.row("meta") | class_accuracy_row(on_meta)
            if data.validation is data.meta:
                row |= on_meta.row("val")
        if data.validation is not None and data.validation is not data.meta:
            row |= measure(data.validation).row("val")
        for name, network in self.method.networks().items():
            row |= measure(data.test, network).row(f"{name}_test")
            if data.validation is not None:
                row |= measure(data.validation, network).row(f"{name}_val")
        noisy = self.config.noise.name != "none"
        row |= label_metrics(self.method, data.observed, data.true, num_classes=data.num_classes, noisy=noisy, groups=data.superclasses)
        return row
