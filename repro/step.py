"""One training step: the look-ahead on the meta batch, the method's update, and the real step, on one forward pass.

In the order of Algorithm 1: one forward pass of the training batch; its backward pass with the present coefficients (Eq. 3); the
meta pass and the gradient of the coefficients (Eq. 4, 7; :mod:`repro.lookahead`); the method's update (Eq. 5); a second backward
pass through the *same* forward pass with the new coefficients, and the optimiser's step (Eq. 6).
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from repro.config import MetaConfig, OptimConfig
from repro.errors import UserError
from repro.lookahead import Lookahead, lookahead_gradient, loss_gradients, recorded_forward
from repro.methods.base import Batch, Method
from repro.network import Network
from repro.optimizer import Optimizer

if TYPE_CHECKING:
    from repro.graph import Programs

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MetaBatch:
    """A batch of clean images (M, C, H, W) and their classes (M,)."""

    inputs: Float[Tensor, "meta ..."]
    targets: Int[Tensor, " meta"]


@dataclass(frozen=True)
class StepResult:
    """What a step measured, on the device: the summed training loss per image times images, and correct predictions.

    ``weights`` (2,), of methods that weigh images: the sum of the images' weights, where 1 is the weight of an image in an unweighted
    loss, and how many images have less than :data:`NO_WEIGHT`.
    """

    loss: Tensor
    correct: Tensor
    weights: Tensor | None = None


#: Below this share of an unweighted image's weight, nothing is learned from an image.
NO_WEIGHT = 0.01


def steps_per_epoch(config: OptimConfig, num_images: int) -> int:
    """Return the training steps of an epoch (A7).

    Raises:
        UserError: there is none, since an incomplete batch is left out.
    """
    steps = num_images // config.batch_size if config.drop_last else math.ceil(num_images / config.batch_size)
    if steps == 0:
        raise UserError(
            f"optim.batch_size={config.batch_size}: with optim.drop_last=true it must be at most the {num_images} training images."
        )
    return steps


class TrainingStep:
    """Trains ``model`` with ``method``, one batch a call.

    Args:
        model: maps inputs (B, C, H, W) to logits (B, K).
        optimizer: of its parameters.
        method: chooses the coefficients of the loss.
        optim: the recipe.
        meta: the look-ahead's settings.
        compile_step: run the step as one compiled program (:mod:`repro.graph`), if the method allows it.
        cuda_graphs: replay the step as a CUDA graph, under the same condition.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        method: Method,
        optim: OptimConfig,
        meta: MetaConfig,
        *,
        compile_step: bool = False,
        cuda_graphs: bool = False,
    ) -> None:
        self.model = model
        self._network = Network(model)
        self.optimizer = optimizer
        self.method = method
        self._optim = optim
        self._meta = meta
        self._programs: Programs | None = None
        if compile_step or cuda_graphs:
            if method.compiles == "nothing":
                logger.warning("%s runs its steps one operation at a time: this method cannot be compiled.", type(method).__name__)
            else:
                from repro.graph import Programs

                self._programs = Programs(self._on_tensors, self._state, compile_step=compile_step, cuda_graphs=cuda_graphs)

    def __call__(
        self,
        inputs: Float[Tensor, "batch ..."],
        rows: Int[Tensor, " batch"],
        observed: Int[Tensor, " batch"],
        *,
        epoch: int,
        meta: MetaBatch | None,
        step: int = 0,
    ) -> StepResult:
        """Take one step on ``inputs`` (B, C, H, W), the training images at ``rows`` (B,) annotated ``observed`` (B,).

        ``meta`` is ``None`` at steps that take no look-ahead: another method, label warm-up, or between two meta intervals; ``step``
        counts the epoch's steps before this one.
        """
        if self._programs is None:
            return StepResult(*self._take(inputs, rows, observed, meta, None, epoch=epoch, step=step))
        coefficients = None
        if self.method.compiles == "network":
            none = inputs.new_zeros(len(rows), self.method.context.num_classes)
            batch = Batch(rows=rows, observed=observed, epoch=epoch, log_probabilities=none, step=step, inputs=inputs)
            coefficients = self.method.coefficients(batch)
        # As a tensor, or each new learning rate would be another program.
        rate = torch.as_tensor(self.optimizer.learning_rate, dtype=self.optimizer.parameters[0].dtype, device=inputs.device)
        on_meta = () if meta is None else (meta.inputs, meta.targets)
        return StepResult(*self._programs(inputs, rows, observed, rate, coefficients, *on_meta, constants=(self.optimizer.momentum,)))

    def _on_tensors(self, inputs: Tensor, rows: Tensor, observed: Tensor, rate: Tensor, coefficients: Tensor | None, *meta: Tensor) -> Any:
        """Take the step as a function of tensors alone."""
        before, self.optimizer.learning_rate = self.optimizer.learning_rate, rate
        try:
            return self._take(inputs, rows, observed, MetaBatch(*meta) if meta else None, coefficients)
        finally:
            self.optimizer.learning_rate = before

    def _state(self) -> list[Tensor]:
        """Return every tensor that a step changes in place."""
        tensors = [*self.model.parameters(), *self.model.buffers(), *self.optimizer.tensors(), *self.method.state_dict().values()]
        return [tensor.detach() for tensor in tensors]

    def _take(
        self,
        inputs: Tensor,
        rows: Tensor,
        observed: Tensor,
        meta: MetaBatch | None,
        coefficients: Tensor | None,
        *,
        epoch: int = 0,
        step: int = 0,
    ) -> tuple[Tensor, ...]:
        """Take the step; ``coefficients`` are given where the method's are computed outside of it."""
        method = self.method
        forward = None
        if meta is not None:
            forward = recorded_forward(self._network, inputs)
        log_probabilities = F.log_softmax(self.model(inputs), dim=1) if forward is None else forward.log_probabilities
        batch = Batch(rows=rows, observed=observed, epoch=epoch, log_probabilities=log_probabilities.detach(), step=step, inputs=inputs)
        if meta is not None and forward is not None:
            start = method.lookahead_coefficients(batch)
            gradient, _ = lookahead_gradient(self._network, forward, start, meta.inputs, meta.targets, self._lookahead())
            method.update(batch, gradient.coefficients)
            if not self._meta.use_updated:
                self.optimizer.step(gradient.parameters)
                method.after_step(batch, self.optimizer.learning_rate)
                return self._measured(-(start * batch.log_probabilities).sum(), batch, start)
        if coefficients is None and type(method).loss is Method.loss:
            coefficients = method.coefficients(batch)
        if coefficients is None:
            loss = method.loss(log_probabilities, batch)
            gradients = torch.autograd.grad(loss, self.optimizer.parameters, materialize_grads=True)
        else:
            loss = -(coefficients * batch.log_probabilities).sum()
            gradients = loss_gradients(log_probabilities, coefficients, self.optimizer.parameters)
        self.optimizer.step(gradients)
        method.after_step(batch, self.optimizer.learning_rate)
        return self._measured(loss.detach(), batch, coefficients)

    def _measured(self, loss: Tensor, batch: Batch, coefficients: Tensor | None) -> tuple[Tensor, ...]:
        """Return the fields of a :class:`StepResult`."""
        size = batch.rows.shape[0]
        correct = (batch.log_probabilities.argmax(dim=1) == batch.observed).sum()
        if coefficients is None or not self.method.weighs:
            return loss * size, correct
        weights = coefficients.sum(dim=1) * size
        return loss * size, correct, torch.stack([weights.sum(), (weights < NO_WEIGHT).sum().to(weights.dtype)])

    def _lookahead(self) -> Lookahead:
        """Return the settings of Eq. 3 at the optimiser's present state (B5, B6, B7)."""
        optimizer, meta = self.optimizer, self._meta
        with_momentum = meta.lookahead_momentum
        return Lookahead(
            optimizer.learning_rate if meta.lookahead_learning_rate == "current" else self._optim.learning_rate,
            weight_decay=optimizer.weight_decay if meta.lookahead_weight_decay else 0.0,
            momentum=optimizer.momentum if with_momentum else 0.0,
            nesterov=optimizer.nesterov and with_momentum,
            velocities=optimizer.velocities if with_momentum else (),
            batch_norm=meta.batch_norm,
        )


def learning_rate_at(config: OptimConfig, epoch: int) -> float:
    """Return the learning rate of the epoch that follows ``epoch`` completed ones (A3, A4): a pure function, so it needs no state."""
    if epoch < config.warmup_epochs:
        return config.learning_rate * (epoch + 1) / config.warmup_epochs
    if config.schedule == "step":
        passed = sum(milestone <= epoch for milestone in config.milestones)
        return config.learning_rate * config.gamma**passed
    if config.schedule == "cosine":
        done = (epoch - config.warmup_epochs) / max(1, config.epochs - config.warmup_epochs)
        return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * done))
    if config.schedule == "linear" and epoch >= config.decay_from:
        return config.learning_rate * (config.epochs - epoch) / max(1, config.epochs - config.decay_from)
    return config.learning_rate


def momentum_at(config: OptimConfig, epoch: int) -> float:
    """Return the momentum of the epoch that follows ``epoch`` completed ones."""
    late = config.late_momentum
    return config.momentum if late is None or epoch < config.decay_from else late
