"""What the engine is compared with: automatic differentiation through the whole look-ahead step, by the graph that the engine avoids."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from repro.engine.lookahead import Lookahead

RATE = 0.3
PLAIN = Lookahead(RATE)


def meta_loss(
    model: nn.Module, inputs: Tensor, coefficients: Tensor, meta_inputs: Tensor, meta_targets: Tensor, settings: Lookahead = PLAIN
) -> Tensor:
    """Return the meta loss after the look-ahead step, with a graph if the coefficients need a gradient."""
    names, parameters = zip(*((n, p) for n, p in model.named_parameters() if p.requires_grad), strict=True)
    loss = -(coefficients * F.log_softmax(model(inputs), 1)).sum()
    gradients = torch.autograd.grad(loss, parameters, create_graph=coefficients.requires_grad)
    ahead = {}
    for index, (name, parameter, gradient) in enumerate(zip(names, parameters, gradients, strict=True)):
        decay = settings.weight_decay[index] if isinstance(settings.weight_decay, Sequence) else settings.weight_decay
        step = gradient + decay * parameter.detach()
        if settings.momentum:
            moved = settings.momentum * settings.velocities[index] + step if settings.velocities else step
            step = step + settings.momentum * moved if settings.nesterov else moved
        ahead[name] = parameter.detach() - settings.learning_rate * step
    return F.cross_entropy(functional_call(model, ahead, (meta_inputs,)), meta_targets)


def through_the_step(
    model: nn.Module, inputs: Tensor, coefficients: Tensor, meta_inputs: Tensor, meta_targets: Tensor, settings: Lookahead = PLAIN
) -> Tensor:
    """Return dL_meta/dC (B, K)."""
    coefficients = coefficients.clone().requires_grad_()
    return torch.autograd.grad(meta_loss(model, inputs, coefficients, meta_inputs, meta_targets, settings), coefficients)[0]


def distance(ours: Tensor, exact: Tensor) -> float:
    return ((ours - exact).norm() / exact.norm()).item()
