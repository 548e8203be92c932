"""Data parameters (Saxena, Tuzel, DeCoste 2019), a row of Table 7: a learned temperature for each class or each image.

L = -(1/n) sum_i log softmax(z(x_i) / sigma_i)_{y_i}, where z are the logits and sigma_i > 0 is the temperature of image i. It is
exp(s_i) for instance parameters, exp(s_{y_i}) for class parameters, their sum for both. The s are trained by the same loss as the model,
with an SGD of their own that moves, and whose velocity decays, only in the rows of the batch; a hard or wrong annotation gets a high
temperature and so a small gradient. No clean images are used. The loss is not linear in the coefficients, which are one-hot.

Choices: the defaults are those of the authors' code for 40% uniform noise on CIFAR-100 (instance parameters, all starting at 1,
step size 0.2, momentum 0.9, no decay, sigma kept in [1/20, 20]); their result is read at epoch 84 of 120, four epochs after the first
drop of the learning rate (G5). ``weight_decay`` pulls s to 0, that is sigma to 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from typing_extensions import override

from repro.config import registry
from repro.config.fields import setting
from repro.config.schema import MethodConfig
from repro.engine.method import AnnotatedTargets, Batch, Context, one_hot


@dataclass
class DataParametersConfig(MethodConfig):
    """Which temperatures there are, and how they learn."""

    name: str = "data_parameters"
    parameters: str = setting("instance", help="what has a temperature", choices=("instance", "class", "both"))
    learning_rate: float = setting(0.2, help="step size of the logarithms of instance temperatures", at_least=0.0)
    class_learning_rate: float = setting(0.1, help="step size of the logarithms of class temperatures", at_least=0.0)
    momentum: float = setting(0.9, help="factor of their velocity, on the batch's rows only", at_least=0.0, below=1.0)
    weight_decay: float = setting(0.0, help="factor of the squared logarithms' gradient, on the batch's rows only", at_least=0.0)
    initial: float = setting(1.0, help="temperature at the start", above=0.0)
    largest: float = setting(20.0, help="temperatures are kept between 1 over this and this", above=1.0)


class SparseParameters(nn.Module):
    """Logarithms of temperatures, with an SGD that touches only the rows it is given."""

    logs: Tensor
    velocity: Tensor

    def __init__(self, count: int, learning_rate: float, config: DataParametersConfig, device: torch.device) -> None:
        super().__init__()
        self.register_buffer("logs", torch.full((count,), math.log(config.initial), device=device))
        self.register_buffer("velocity", torch.zeros_like(self.logs))
        self.every_row = torch.arange(count, device=device)
        self._learning_rate = learning_rate
        self._config = config

    def step(self, rows: Tensor, slope: Tensor, moves: Tensor | None = None) -> None:
        """Take a step on ``rows`` (R,), each there once, given dL/dsigma (R,) at them; only where ``moves`` (R,) is true."""
        logs = self.logs[rows]
        slope = slope.to(logs.dtype) * logs.exp() + self._config.weight_decay * logs
        velocity = self._config.momentum * self.velocity[rows] + slope
        limit = math.log(self._config.largest)
        stepped = (logs - self._learning_rate * velocity).clamp(-limit, limit)
        if moves is not None:
            velocity, stepped = torch.where(moves, velocity, self.velocity[rows]), torch.where(moves, stepped, logs)
        self.velocity[rows] = velocity
        self.logs[rows] = stepped


@registry.method("data_parameters", config=DataParametersConfig)
class DataParameters(AnnotatedTargets):
    """Cross-entropy with the annotated labels at learned temperatures."""

    repeatable = True

    def __init__(self, config: DataParametersConfig, context: Context) -> None:
        super().__init__(config, context)
        sizes = {"instance": (len(context.observed), config.learning_rate), "class": (context.num_classes, config.class_learning_rate)}
        chosen = [name for name in sizes if config.parameters in (name, "both")]
        self._parts = {name: SparseParameters(*sizes[name], config, context.device) for name in chosen}
        for name, part in self._parts.items():
            self.add_module(name, part)
        self._slope: Tensor | None = None

    def temperatures(self, batch: Batch) -> Tensor:
        """Return sigma (B,) of the images of ``batch``."""
        rows = {"instance": batch.rows, "class": batch.observed}
        return torch.stack([part.logs[rows[kind]].exp() for kind, part in self._parts.items()]).sum(dim=0)

    @override
    def loss(self, log_probabilities: Tensor, batch: Batch) -> Tensor:
        sigma = self.temperatures(batch).unsqueeze(1)
        if log_probabilities.requires_grad:
            # dL/dsigma needs no part of the network.
            own = sigma.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self._at(own, log_probabilities.detach(), batch), own)
            self._slope = slope.squeeze(1)
        return self._at(sigma, log_probabilities, batch)

    @override
    def trust(self, batch: Batch, coefficients: Tensor | None) -> Tensor:
        return 1.0 / self.temperatures(batch)

    @staticmethod
    def _at(sigma: Tensor, log_probabilities: Tensor, batch: Batch) -> Tensor:
        # log softmax(z / T) from log softmax(z): the two differ by a number that the second softmax takes out again.
        scaled = torch.log_softmax(log_probabilities / sigma, dim=1)
        return -scaled.gather(1, batch.observed.unsqueeze(1)).mean()

    def after_step(self, batch: Batch) -> None:
        """Step the temperatures with their part of the gradient that the model has stepped with."""
        if self._slope is None:
            return
        slope, self._slope = self._slope, None
        if "instance" in self._parts:
            self._parts["instance"].step(batch.rows, slope)
        if "class" in self._parts:
            # Each class of the batch once, with the sum over its images; as a product, since index_add has no fixed order on CUDA.
            members = one_hot(batch.observed, self.context.num_classes).to(slope.dtype).t()
            part = self._parts["class"]
            part.step(part.every_row, members @ slope, moves=members.any(dim=1))
