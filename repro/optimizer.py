"""Stochastic gradient descent, as an equation and as an update in place.

The look-ahead (Eq. 3) needs the step as a function that changes nothing, the training step (Eq. 6) needs it in place; both are
here, on all parameters at once. The numbers are those of ``torch.optim.SGD``, which is not used: to make one takes 2.5 seconds, since
it imports PyTorch's compiler, and its step is not a function.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from repro.config import OptimConfig

#: One tensor a parameter.
Tensors = tuple[Tensor, ...] | list[Tensor]


def sgd_steps(
    parameters: Tensors,
    gradients: Tensors,
    *,
    weight_decay: float | Sequence[float] = 0.0,
    momentum: float = 0.0,
    nesterov: bool = False,
    velocities: Tensors = (),
) -> tuple[Tensors, Tensors]:
    """Return the steps s of ``theta - lr * s`` and the velocities after it, one tensor a parameter; nothing is changed.

    With h = g + weight_decay * theta: s = h without momentum; else v' = momentum * v + h, and s = v', or h + momentum * v' in
    Nesterov's form. No ``velocities`` are velocities of zero.
    """
    steps: Tensors = gradients
    if isinstance(weight_decay, Sequence) or weight_decay != 0.0:
        if isinstance(weight_decay, Sequence):
            pulls = torch._foreach_mul(parameters, list(weight_decay))
        else:
            pulls = torch._foreach_mul(parameters, weight_decay)
        steps = torch._foreach_add(steps, pulls)
    if momentum == 0.0:
        return steps, ()
    faster: Tensors = torch._foreach_add(torch._foreach_mul(velocities, momentum), steps) if velocities else steps
    return (torch._foreach_add(steps, torch._foreach_mul(faster, momentum)) if nesterov else faster), faster


def moved(parameters: Tensors, steps: Tensors, learning_rate: float | Tensor) -> Tensors:
    """Return ``theta - lr * s``, one new tensor a parameter."""
    if isinstance(learning_rate, Tensor):
        return torch._foreach_sub(parameters, torch._foreach_mul(steps, learning_rate))
    return torch._foreach_add(parameters, steps, alpha=-learning_rate)


class SGD:
    """Trains the parameters of a model.

    Attributes:
        parameters: the trained ones of the model, in its order.
        weight_decay: one number for all of them, or one for each.
        learning_rate: of the next steps; the schedule sets it. A tensor of one number where a step is compiled.
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

    @torch.no_grad()
    def step(self, gradients: Tensors) -> None:
        """Move the parameters, and their velocities, in place."""
        steps, velocities = sgd_steps(
            self.parameters,
            gradients,
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            nesterov=self.nesterov,
            velocities=self.velocities,
        )
        if velocities:
            torch._foreach_copy_(self.velocities, list(velocities))
        # As moved, and in place.
        if isinstance(self.learning_rate, Tensor):
            torch._foreach_sub_(self.parameters, torch._foreach_mul(steps, self.learning_rate))
        else:
            torch._foreach_add_(self.parameters, steps, alpha=-self.learning_rate)

    def state_dict(self) -> dict[str, Any]:
        """Return what training changes: the velocities."""
        return {"velocities": self.velocities}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the state of :meth:`state_dict`."""
        for velocity, saved in zip(self.velocities, state["velocities"], strict=True):
            velocity.copy_(saved)
