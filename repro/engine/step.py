"""One training step: the look-ahead on the meta batch, the method's update, and the real step, on one forward pass.

In the order of Algorithm 1: one forward pass of the training batch; its backward pass with the present coefficients (Eq. 3); the
meta pass and the gradient of the coefficients (Eq. 4, 7; :mod:`repro.engine.lookahead`); the method's update (Eq. 5); a second backward
pass through the *same* forward pass with the new coefficients, and the optimiser's step (Eq. 6).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from repro.config.schema import MetaConfig, OptimConfig
from repro.engine.lookahead import lookahead_gradient, loss_gradients, recorded_forward
from repro.engine.method import Batch, Method, Visit
from repro.engine.network import Network
from repro.engine.optimizer import Lookahead, Optimizer
from repro.errors import UserError


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
    """Trains ``model``, which maps inputs (B, C, H, W) to logits (B, K), with ``method``, one batch a call.

    ``observe`` is called with the batch and dL_meta/dC (B, K) before each update of the method, ``visited`` after each step with the batch
    and the method's trust (B,).
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        method: Method,
        optim: OptimConfig,
        meta: MetaConfig,
        *,
        observe: Callable[[Batch, Tensor], None] | None = None,
        visited: Callable[[Batch, Tensor | None], None] | None = None,
    ) -> None:
        self.model = model
        self._network = Network(model)
        self.optimizer = optimizer
        self.method = method
        self._optim = optim
        self._meta = meta
        self._observe = observe
        self._visited = visited

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
        return self.take(inputs, rows, observed, meta, self.method.given(Visit(rows, observed, epoch, step)))

    def state(self) -> list[Tensor]:
        """Return every tensor that a step changes in place."""
        tensors = [*self.model.parameters(), *self.model.buffers(), *self.optimizer.tensors(), *self.method.state_dict().values()]
        return [tensor.detach() for tensor in tensors]

    def take(self, inputs: Tensor, rows: Tensor, observed: Tensor, meta: MetaBatch | None, given: tuple[Tensor, ...]) -> StepResult:
        """Take the step as a function of tensors alone; ``given`` is what :meth:`Method.given` returned for it."""
        method = self.method
        forward = None if meta is None else recorded_forward(self._network, inputs)
        log_probabilities = F.log_softmax(self.model(inputs), dim=1) if forward is None else forward.log_probabilities
        batch = Batch(rows=rows, observed=observed, log_probabilities=log_probabilities.detach(), inputs=inputs, given=given)
        if meta is not None and forward is not None:
            start = method.lookahead_coefficients(batch)
            gradient, gradients = lookahead_gradient(self._network, forward, start, meta.inputs, meta.targets, self._lookahead())
            if self._observe is not None:
                self._observe(batch, gradient)
            method.update(batch, gradient)
            if not self._meta.use_updated:
                self.optimizer.step(gradients)
                method.after_step(batch)
                return self._measured(-(start * batch.log_probabilities).sum(), batch, start)
            del gradients  # as large as the parameters, and the next are coming
        coefficients, loss = None, method.loss(log_probabilities, batch)
        if loss is None:
            coefficients = method.coefficients(batch)
            loss = -(coefficients * batch.log_probabilities).sum()
            gradients = loss_gradients(log_probabilities, coefficients, self.optimizer.parameters)
        else:
            gradients = torch.autograd.grad(loss, self.optimizer.parameters, materialize_grads=True)
        self.optimizer.step(gradients)
        method.after_step(batch)
        return self._measured(loss.detach(), batch, coefficients)

    def _measured(self, loss: Tensor, batch: Batch, coefficients: Tensor | None) -> StepResult:
        if self._visited is not None:
            self._visited(batch, self.method.trust(batch, coefficients))
        size = batch.rows.shape[0]
        correct = (batch.log_probabilities.argmax(dim=1) == batch.observed).sum()
        if coefficients is None or not self.method.weighs:
            return StepResult(loss * size, correct)
        weights = coefficients.sum(dim=1) * size
        return StepResult(loss * size, correct, torch.stack([weights.sum(), (weights < NO_WEIGHT).sum().to(weights.dtype)]))

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
