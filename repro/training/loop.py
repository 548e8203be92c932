"""Training a model from its first to its last epoch. No file and no W&B call stands here: results and states go to :class:`Observer`.

All randomness of an epoch is drawn when it begins, from streams named by the seed and the epoch, and lies on the device; so a run
that stops between any two steps resumes from the model's, the optimiser's and the method's state and a position.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from repro.config.schema import Config
from repro.data.prepare import LabelledImages, RunData, as_inputs
from repro.engine.label_gradient import GradientDirections
from repro.engine.method import Method, Visit
from repro.engine.optimizer import Optimizer
from repro.engine.schedule import Schedule
from repro.engine.step import MetaBatch, TrainingStep, steps_per_epoch
from repro.errors import UserError
from repro.labels.predictions import Predictions
from repro.labels.recorder import Recorder
from repro.randomness import Stream, visit_order
from repro.training.evaluate import Evaluation, evaluate, exact_dtype
from repro.training.metrics import label_metrics

logger = logging.getLogger(__name__)


class Observer(Protocol):
    """Who the loop reports to and asks."""

    def evaluated(self, row: dict[str, Any]) -> None:
        """Take the metrics of an epoch."""

    def between_steps(self, training: Training) -> None:
        """Save ``training.state()`` if it is time; raise :class:`repro.errors.Interrupted` to stop."""


class Visits(NamedTuple):
    """Everything random about one step, on the device.

    Attributes:
        rows: training rows (B,) that it visits.
        observed: their labels (B,) as annotated.
        step: the number (1,) of the step in its epoch.
        draws: the augmentation of each visit (B, 3); ``None`` where nothing is augmented.
        meta_rows: rows (M,) of the meta batch; ``None`` at a step without a look-ahead.
        meta_draws: the augmentation of each of them.
    """

    rows: Tensor
    observed: Tensor
    step: Tensor
    draws: Tensor | None
    meta_rows: Tensor | None
    meta_draws: Tensor | None


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
        self.predictions = Predictions(self.data, config.optim.epochs) if config.trajectory.predictions else None
        parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "method": method, "recorder": recorder}
        parts["predictions"] = self.predictions
        self._parts = {name: part for name, part in parts.items() if part is not None}
        self.epoch = 0
        self.batch = 0
        self.diverged = False
        self._directions = GradientDirections(method, data.observed, data.true) if config.trajectory.gradient else None
        self._step = TrainingStep(
            model,
            optimizer,
            method,
            config.optim,
            config.meta,
            observe=self._directions.count if self._directions else None,
            visited=self.predictions.add if self.predictions else None,
        )
        self._take = self._programs() if config.exec.compile or config.exec.cuda_graphs else self._take_eagerly
        self._schedule = Schedule(config.optim)
        self._device = data.observed.device
        self.num_batches = steps_per_epoch(config.optim, len(data.observed))
        self._visited = min(len(data.observed), self.num_batches * config.optim.batch_size)
        exact = exact_dtype(self._device)
        #: What the steps of an epoch add up to.
        self._totals = {
            "loss": torch.zeros((), dtype=exact, device=self._device),
            "correct": torch.zeros((), dtype=torch.int64, device=self._device),
            "weights": torch.zeros(2, dtype=exact, device=self._device),
        }
        if self._directions:
            self._totals["directions"] = self._directions.counts
        # Set by the first step that measures weights; where a method's loss is more than its coefficients, an image has no one weight.
        self._weighs = False
        if method.uses_meta and data.meta is not None and config.meta.batch_size > len(data.meta):
            raise UserError(f"meta.batch_size={config.meta.batch_size}: must be at most the {len(data.meta)} images of the meta set.")

    def state(self) -> dict[str, Any]:
        """Return everything that a resumed run needs, as tensors and plain numbers."""
        random = [torch.get_rng_state(), *([torch.cuda.get_rng_state(self._device)] if self._device.type == "cuda" else [])]
        parts = {name: part.state_dict() for name, part in self._parts.items()}
        return {"epoch": self.epoch, "batch": self.batch, "random": random, "sums": self._totals, **parts}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`."""
        self.epoch, self.batch = state["epoch"], state["batch"]
        for name, part in self._parts.items():
            part.load_state_dict(state[name])
        for name, total in self._totals.items():
            total.copy_(state["sums"][name])
        torch.set_rng_state(state["random"][0])
        if self._device.type == "cuda" and state["random"][1:]:
            # Of the run's own device: another machine may show other ones beside it.
            torch.cuda.set_rng_state(state["random"][1], self._device)

    def run(self, observer: Observer) -> None:
        """Train to the end, or until the observer stops it. The first row is that of the untrained model, epoch 0."""
        if self.epoch == 0 and self.batch == 0:
            observer.evaluated(self._row({}))
        while self.epoch < self.config.optim.epochs and not self.diverged:
            start = time.monotonic()
            row = self._row(self._train_epoch(observer))
            observer.evaluated(row | {"time/epoch_s": time.monotonic() - start})
            self.diverged = not math.isfinite(row["train/loss"])
            observer.between_steps(self)

    def _train_epoch(self, observer: Observer) -> dict[str, float]:
        epoch = self.epoch
        plan = self.begin_epoch()
        while self.batch < self.num_batches:
            self.take_step(plan)
            self.batch += 1
            if self.batch < self.num_batches:
                observer.between_steps(self)
        self.epoch, self.batch = epoch + 1, 0
        if self.recorder:
            self.recorder.end_epoch(self.epoch)
        means: dict[str, Any] = {name: (total.cpu().double() / self._visited).tolist() for name, total in self._totals.items()}
        row: dict[str, float] = {
            "train/loss": means["loss"],
            "train/accuracy": means["correct"],
            "optim/learning_rate": self._schedule.learning_rate(epoch),
        }
        if self._weighs:
            row["weight/mean"], row["weight/unused"] = means["weights"]
        return row | (self._directions.metrics() if self._directions else {})

    def begin_epoch(self) -> list[Visits]:
        """Make ready for the steps of the present epoch that are left, and return what each step of it visits."""
        self._schedule.apply(self.optimizer, self.epoch)
        if self.batch == 0:
            for total in self._totals.values():
                total.zero_()
            # Only dropout draws from PyTorch's own generator; its state is in the checkpoint.
            torch.manual_seed(Stream(self.config.seed, "method", "torch", self.epoch).torch_seed())
        self.model.train()
        return self._plan(self.epoch)

    def take_step(self, plan: list[Visits]) -> None:
        """Take the step at the present position of the epoch; the position stays."""
        visits = plan[self.batch]
        given = self.method.given(Visit(visits.rows, visits.observed, self.epoch, self.batch))
        self._take(*visits, *given)

    def _take_eagerly(
        self,
        rows: Tensor,
        observed: Tensor,
        step: Tensor,
        draws: Tensor | None,
        meta_rows: Tensor | None,
        meta_draws: Tensor | None,
        *given: Tensor,
    ) -> tuple[Tensor, ...]:
        """Take the step with what is random about it (:class:`Visits`), and add up what it measures."""
        data = self.data
        inputs = data.transform(data.train.images.index_select(0, rows), draws)
        meta = None
        if meta_rows is not None:
            assert data.meta is not None
            images, targets = data.meta.images.index_select(0, meta_rows), data.meta.labels.index_select(0, meta_rows)
            meta = MetaBatch(inputs=data.transform(images, meta_draws), targets=targets)
        if self.recorder:
            self.recorder.note("before", rows, step)
        result = self._step.take(inputs, rows, observed, meta, given)
        if self.recorder:
            self.recorder.note("after", rows, step)
        self._totals["loss"] += result.loss
        self._totals["correct"] += result.correct
        if result.weights is not None:
            self._weighs = True
            self._totals["weights"] += result.weights
        return ()

    def _programs(self) -> Callable[..., tuple[Tensor, ...]]:
        """Return the step as programs that are repeated, or as it is where the method's steps cannot be."""
        if not self.method.repeatable:
            logger.warning("%s runs its steps one operation at a time: this method cannot be compiled.", type(self.method).__name__)
            return self._take_eagerly
        # Imports PyTorch's compiler.
        from repro.engine.compiled import Programs

        def state() -> list[Tensor]:
            recorded = [] if self.recorder is None else [self.recorder.block]
            predicted = [] if self.predictions is None else list(self.predictions.buffers())
            return [*self._step.state(), *self._totals.values(), *recorded, *predicted]

        optimizers = (self.optimizer, *self.method.optimizers())
        execution = self.config.exec
        return Programs(self._take_eagerly, state, optimizers, compile_step=execution.compile, cuda_graphs=execution.cuda_graphs)

    def _plan(self, epoch: int) -> list[Visits]:
        config, data, count = self.config, self.data, self.num_batches

        def cut(values: Tensor | None, size: int) -> Sequence[Tensor | None]:
            return [None] * count if values is None else torch.split(values, size)

        size, interval = config.optim.batch_size, config.meta.interval
        order = torch.from_numpy(visit_order(config.seed, epoch, len(data.observed))).to(self._device)
        draws = data.transform.draw(Stream(config.seed, "augment", "train", epoch), len(order))
        meta_rows = meta_draws = None
        if data.meta is not None and self.method.learns_at(epoch):
            rows = self._meta_rows(epoch, data.meta)
            meta_rows = torch.from_numpy(rows).to(self._device)
            if config.meta.augment:
                meta_draws = data.transform.draw(Stream(config.seed, "augment", "meta", epoch), len(rows))
        observed, steps = data.observed.index_select(0, order), torch.arange(count, device=self._device)
        train = zip(torch.split(order, size), torch.split(observed, size), torch.split(steps, 1), cut(draws, size), strict=False)
        meta = list(zip(cut(meta_rows, config.meta.batch_size), cut(meta_draws, config.meta.batch_size), strict=False))
        # The look-ahead is taken at every interval-th step (B13).
        return [Visits(*visits, *(meta[step // interval] if step % interval == 0 else (None, None))) for step, visits in enumerate(train)]

    def _meta_rows(self, epoch: int, meta: LabelledImages) -> npt.NDArray[np.int64]:
        """Return the meta rows of all meta steps of ``epoch``, batch after batch (A11).

        ``cycle`` cuts one endless row of shuffled passes, numbered from the run's first step, into batches.
        """
        config = self.config
        size, count = config.meta.batch_size, math.ceil(self.num_batches / config.meta.interval)
        if config.meta.sampler == "fresh":
            draws = [Stream(config.seed, "order", "meta", epoch, step).permutation(len(meta))[:size] for step in range(count)]
            return np.concatenate(draws)
        first = epoch * count * size
        passes = range(first // len(meta), (first + count * size - 1) // len(meta) + 1)
        shuffled = np.concatenate([Stream(config.seed, "order", "meta", index).permutation(len(meta)) for index in passes])
        start = first - passes.start * len(meta)
        return shuffled[start : start + count * size]

    def _row(self, train: dict[str, float]) -> dict[str, Any]:
        data, batch_size = self.data, self.config.exec.eval_batch_size

        def measure(images: LabelledImages, model: nn.Module) -> Evaluation:
            return evaluate(model, images, data.transform, num_classes=data.num_classes, batch_size=batch_size)

        row: dict[str, Any] = {"epoch": self.epoch, "step": self.epoch * self.num_batches, **train}
        networks = {"": self.model} | {f"{name}_": network for name, network in self.method.networks().items()}
        for prefix, network in networks.items():
            row |= measure(data.test, network).row(f"{prefix}test")
            if data.validation is not None:
                on_validation = measure(data.validation, network)
                row |= on_validation.row(f"{prefix}val")
            if data.meta is not None and network is self.model:
                on_meta = on_validation if data.validation is data.meta else measure(data.meta, network)
                row |= on_meta.row("meta") | on_meta.class_row()
        if self.predictions and self.predictions.held_out and self.epoch > 0:
            shown = self.predictions.shown(Stream(self.config.seed, "augment", "clean", self.epoch))
            self.predictions.add_clean(self.epoch, measure(shown, self.model).probabilities)
        return row | label_metrics(
            self.method.targets,
            data.observed,
            data.true,
            num_classes=data.num_classes,
            noisy=self.config.noise.name != "none",
            groups=data.superclasses,
        )
