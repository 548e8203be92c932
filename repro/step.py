"""One training step: the look-ahead on the meta batch, the method's update, and the real step, on one forward pass.

In the order of Algorithm 1: one forward pass of the training batch; its backward pass with the present coefficients (Eq. 3); the
meta pass and the gradient of the coefficients (Eq. 4, 7; :mod:`repro.lookahead`); the method's update (Eq. 5); a second backward
pass through the *same* forward pass with the new coefficients, and the optimiser's step (Eq. 6).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from repro.allocator import return_free_pages
from repro.config import MetaConfig, OptimConfig
from repro.errors import UserError
from repro.lookahead import Lookahead, dropout_states, lookahead_gradient
from repro.methods.base import Batch, Method

#: Numbers in a meta batch above which a step's memory on a CPU is worth keeping down: 256 CIFAR images are three times as many.
LARGE_META_BATCH = 2**18


@dataclass(frozen=True)
class MetaBatch:
    """A batch of clean images (M, C, H, W) and their classes (M,)."""

    inputs: Float[Tensor, "meta ..."]
    targets: Int[Tensor, " meta"]


@dataclass(frozen=True)
class StepResult:
    """What a step measured, on the device: the summed training loss per image times images, and correct predictions."""

    loss: Tensor
    correct: Tensor


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.SGD:
    """Return SGD over all parameters; with ``decay_norm_and_bias=false``, vectors (biases, BatchNorm) are not decayed (A4)."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in parameters if config.decay_norm_and_bias or p.ndim > 1]
    spared = [p for p in parameters if not (config.decay_norm_and_bias or p.ndim > 1)]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}]
    if spared:
        groups.append({"params": spared, "weight_decay": 0.0})
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, nesterov=config.nesterov)


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
    """Trains ``model`` with ``method``, one batch a call."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.SGD, method: Method, optim: OptimConfig, meta: MetaConfig) -> None:
        self.model = model
        self.optimizer = optimizer
        self.method = method
        self._optim = optim
        self._meta = meta

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
        # Before the meta pass, where memory peaks, not after it.
        self.optimizer.zero_grad(set_to_none=True)
        states = dropout_states(self.model) if meta is not None else None
        log_probabilities = F.log_softmax(self.model(inputs), dim=1)
        batch = Batch(rows=rows, observed=observed, epoch=epoch, log_probabilities=log_probabilities.detach(), step=step, inputs=inputs)
        if meta is not None:
            coefficients = self.method.lookahead_coefficients(batch)
            if inputs.device.type == "cpu" and meta.inputs.numel() >= LARGE_META_BATCH:
                return_free_pages()
            gradient, _ = lookahead_gradient(
                self.model, inputs, log_probabilities, coefficients, meta.inputs, meta.targets, self._lookahead(), generator_states=states
            )
            self.method.update(batch, gradient.coefficients)
            if not self._meta.use_updated:
                self._apply(gradient.parameters)
                self.method.after_step(batch, self.optimizer.param_groups[0]["lr"])
                loss = -(coefficients * batch.log_probabilities).sum()
                return self._result(loss, batch)
        loss = self.method.loss(log_probabilities, batch)
        loss.backward()  # type: ignore[no-untyped-call]  # torch.Tensor.backward carries no types
        self.optimizer.step()
        self.method.after_step(batch, self.optimizer.param_groups[0]["lr"])
        return self._result(loss.detach(), batch)

    def _apply(self, gradients: tuple[Tensor, ...]) -> None:
        """Step with the gradient of the old coefficients (B11)."""
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.step()

    @staticmethod
    def _result(loss: Tensor, batch: Batch) -> StepResult:
        size = len(batch.rows)
        correct = (batch.log_probabilities.argmax(dim=1) == batch.observed).sum()
        return StepResult(loss=loss * size, correct=correct)

    def _lookahead(self) -> Lookahead:
        """Return the settings of Eq. 3 at the optimiser's present state (B5, B6, B7)."""
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        learning_rate = (
            self.optimizer.param_groups[0]["lr"] if self._meta.lookahead_learning_rate == "current" else self._optim.learning_rate
        )
        decay: float | list[float] = 0.0
        if self._meta.lookahead_weight_decay:
            by_parameter = {p: group["weight_decay"] for group in self.optimizer.param_groups for p in group["params"]}
            decay = [by_parameter[p] for p in parameters]
        if not self._meta.lookahead_momentum:
            return Lookahead(learning_rate, weight_decay=decay, batch_norm=self._meta.batch_norm)
        return Lookahead(
            learning_rate,
            weight_decay=decay,
            momentum=self._optim.momentum,
            nesterov=self._optim.nesterov,
            velocities=[self.optimizer.state[p].get("momentum_buffer") for p in parameters],
            batch_norm=self._meta.batch_norm,
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
    return config.learning_rate
