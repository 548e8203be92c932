"""Stochastic gradient descent, as an equation and as an update in place; and Adam, for recipes of other systems.

The look-ahead (Eq. 3) needs the step as a function that changes nothing, the training step (Eq. 6) needs it in place; both are
here, on all parameters at once. The numbers are those of ``torch.optim.SGD`` and ``torch.optim.Adam``, which are not used: to make one
takes 2.5 seconds, since it imports PyTorch's compiler, and their steps are not functions of tensors that can be compiled.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from repro.config.schema import OptimConfig

#: One tensor a parameter.
Tensors = tuple[Tensor, ...] | list[Tensor]


@dataclass(frozen=True)
class Lookahead:
    """The look-ahead step of Eq. 3 and its variants.

    Attributes:
        learning_rate: lr of Eq. 3.
        weight_decay: adds ``weight_decay[j] * theta_j`` to the gradient of parameter j; a number for all, or one for each.
        momentum: factor of the velocity; 0 is Eq. 3 as written.
        nesterov: Nesterov's form of momentum.
        velocities: the optimiser's, one a parameter; none for velocities of zero.
        batch_norm: BatchNorm in the meta pass: ``batch`` statistics, ``batch_and_update`` (which also moves the running
            statistics), or the ``running`` ones.
    """

    learning_rate: float | Tensor
    weight_decay: float | Sequence[float] = 0.0
    momentum: float = 0.0
    nesterov: bool = False
    velocities: Tensors = ()
    batch_norm: str = "batch"


def decayed(parameters: Tensors, gradients: Tensors, weight_decay: float | Sequence[float]) -> Tensors:
    """Return h = g + weight_decay * theta, one tensor a parameter."""
    if isinstance(weight_decay, float) and weight_decay == 0.0:
        return gradients
    return torch._foreach_add(gradients, torch._foreach_mul(parameters, weight_decay))


def sgd_steps(parameters: Tensors, gradients: Tensors, settings: Lookahead | Optimizer) -> tuple[Tensors, Tensors]:
    """Return the steps s of ``theta - lr * s`` and the velocities after it, one tensor a parameter; nothing is changed.

    With h of :func:`decayed`: s = h without momentum; else v' = momentum * v + h, and s = v', or h + momentum * v' in Nesterov's form. No
    velocities are velocities of zero.
    """
    momentum, velocities = settings.momentum, settings.velocities
    steps = decayed(parameters, gradients, settings.weight_decay)
    if momentum == 0.0:
        return steps, ()
    faster: Tensors = torch._foreach_add(torch._foreach_mul(velocities, momentum), steps) if velocities else steps
    return (torch._foreach_add(steps, torch._foreach_mul(faster, momentum)) if settings.nesterov else faster), faster


def moved(parameters: Tensors, steps: Tensors, learning_rate: float | Tensor) -> Tensors:
    """Return ``theta - lr * s``, one new tensor a parameter."""
    if isinstance(learning_rate, Tensor):
        return torch._foreach_sub(parameters, torch._foreach_mul(steps, learning_rate))
    return torch._foreach_add(parameters, steps, alpha=-learning_rate)


class Optimizer(ABC):
    """Trains the parameters of a model.

    Attributes:
        parameters: the trained ones of the model, in its order.
        weight_decay: one number for all of them, or one for each.
        learning_rate: of the next steps; the schedule sets it. A tensor of one number where a step is compiled.
        momentum: of the next steps; for Adam the factor of the mean of the gradients, beta_1. The schedule may change Adam's.
        nesterov: whether momentum has Nesterov's form.
        velocities: one tensor a parameter with momentum, else none; they start at zero.
    """

    def __init__(self, model: nn.Module, config: OptimConfig) -> None:
        self.parameters = tuple(parameter for parameter in model.parameters() if parameter.requires_grad)
        self.momentum, self.nesterov = config.momentum, config.nesterov
        self.learning_rate: float | Tensor = config.learning_rate
        decayed = [config.decay_norm_and_bias or parameter.ndim > 1 for parameter in self.parameters]
        self.weight_decay: float | list[float] = (
            config.weight_decay if all(decayed) else [config.weight_decay if decays else 0.0 for decays in decayed]
        )
        self.velocities = [torch.zeros_like(parameter) for parameter in self.parameters] if config.momentum != 0.0 else []

    @abstractmethod
    def step(self, gradients: Tensors) -> None:
        """Move the parameters, and what is remembered of earlier steps, in place."""

    def tensors(self) -> list[Tensor]:
        """Return what a step changes beside the parameters, in a fixed order."""
        return self.velocities

    def state_dict(self) -> dict[str, Any]:
        """Return what training changes, whatever it is, under the name that the checkpoints of SGD have always had."""
        return {"velocities": self.tensors()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the state of :meth:`state_dict`."""
        for tensor, saved in zip(self.tensors(), state["velocities"], strict=True):
            tensor.copy_(saved)


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum if there is any."""

    @torch.no_grad()
    @override
    def step(self, gradients: Tensors) -> None:
        steps, velocities = sgd_steps(self.parameters, gradients, self)
        if velocities:
            torch._foreach_copy_(self.velocities, list(velocities))
        # As moved, and in place.
        if isinstance(self.learning_rate, Tensor):
            torch._foreach_sub_(self.parameters, torch._foreach_mul(steps, self.learning_rate))
        else:
            torch._foreach_add_(self.parameters, steps, alpha=-self.learning_rate)


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015), with beta_1 = ``momentum`` and beta_2 = 0.999.

    With h = g + weight_decay * theta, at step t from 1 on::

        v' = beta_1 v + (1 - beta_1) h,    u' = beta_2 u + (1 - beta_2) h^2,
        theta' = theta - lr * v' / (1 - beta_1^t) / (sqrt(u' / (1 - beta_2^t)) + 1e-8).
    """

    SQUARES_FACTOR = 0.999
    EPSILON = 1e-8

    def __init__(self, model: nn.Module, config: OptimConfig) -> None:
        super().__init__(model, config)
        self.velocities = [torch.zeros_like(parameter) for parameter in self.parameters]
        self._squares = [torch.zeros_like(parameter) for parameter in self.parameters]
        # On the device, since a compiled step repeats operations on tensors only; powers of 0.999 lose digits in float32, but mps has no
        # float64.
        device = self.parameters[0].device
        self._count = torch.zeros((), dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)

    @torch.no_grad()
    @override
    def step(self, gradients: Tensors) -> None:
        slopes = decayed(self.parameters, gradients, self.weight_decay)
        self._count += 1.0
        torch._foreach_mul_(self.velocities, self.momentum)
        torch._foreach_add_(self.velocities, slopes, alpha=1.0 - self.momentum)
        torch._foreach_mul_(self._squares, self.SQUARES_FACTOR)
        torch._foreach_addcmul_(self._squares, slopes, slopes, 1.0 - self.SQUARES_FACTOR)
        dtype = self.parameters[0].dtype
        scale = self.learning_rate / (1.0 - self.momentum**self._count)
        spread = torch._foreach_sqrt(torch._foreach_div(self._squares, (1.0 - self.SQUARES_FACTOR**self._count).to(dtype)))
        torch._foreach_add_(spread, self.EPSILON)
        torch._foreach_sub_(self.parameters, torch._foreach_mul(torch._foreach_div(self.velocities, spread), scale.to(dtype)))

    @override
    def tensors(self) -> list[Tensor]:
        return [*self.velocities, *self._squares, self._count]


def make_optimizer(model: nn.Module, config: OptimConfig) -> Optimizer:
    """Return the optimiser that ``config.algorithm`` names, at its start."""
    return {"sgd": SGD, "adam": Adam}[config.algorithm](model, config)
