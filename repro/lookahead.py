"""The engine: the gradient of the meta loss with respect to the coefficients of the training loss.

Write the training loss of a batch as ``L(theta, C) = -sum_ik C_ik log f_k(x_i; theta)``. One look-ahead step of SGD (Eq. 3)

    theta*(C) = theta - lr * s(g),    g = grad_theta L(theta, C)

(s(g) = g for plain SGD; weight decay and momentum add terms that do not depend on C) gives the meta loss L_meta(theta*(C)). With
v = grad L_meta(theta*), the chain rule of Eq. 4 and Eq. 7 reads dL_meta/dC_ik = v . dtheta*/dC_ik, and since L is linear in C,
dg/dC_ik = -grad_theta log f_k(x_i; theta). So

    dL_meta/dC_ik = lr * d/ds log f_k(x_i; theta + s v)  at s = 0

which is one Jacobian-vector product of the network, for all i and k at once. It is exact, BatchNorm's batch statistics included,
and needs neither a second-order graph nor a copy or a rewrite of the module.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd


@dataclass(frozen=True)
class Lookahead:
    """The look-ahead step of Eq. 3 and its variants.

    Attributes:
        learning_rate: lr of Eq. 3.
        weight_decay: adds ``weight_decay[j] * theta_j`` to the gradient of parameter j; a number for all, or one for each.
        momentum: factor of the velocity; 0 is Eq. 3 as written.
        nesterov: Nesterov's form of momentum.
        velocities: the optimiser's momentum buffers, one a parameter; ``None`` for a buffer that does not exist yet.
        batch_norm: BatchNorm in the meta pass: ``batch`` statistics, ``batch_and_update`` (which also moves the running
            statistics), or the ``running`` ones.
    """

    learning_rate: float
    weight_decay: float | Sequence[float] = 0.0
    momentum: float = 0.0
    nesterov: bool = False
    velocities: Sequence[Tensor | None] = field(default=())
    batch_norm: str = "batch"


def coefficient_gradient(
    model: nn.Module,
    inputs: Float[Tensor, "batch ..."],
    coefficients: Float[Tensor, "batch classes"],
    meta_inputs: Float[Tensor, "meta ..."],
    meta_targets: Int[Tensor, " meta"],
    learning_rate: float,
    *,
    lookahead: Lookahead | None = None,
) -> Float[Tensor, "batch classes"]:
    """Return dL_meta/dC for one look-ahead step (Eq. 3, 4, 7).

    The training loss is ``-(coefficients * log_softmax(model(inputs))).sum()``, the meta loss the mean cross-entropy on the meta
    batch. The model runs in training mode with batch statistics; its parameters, gradients, running statistics and mode are left
    exactly as they were.

    Args:
        model: maps inputs (B, ...) to logits (B, K).
        inputs: training batch (B, ...).
        coefficients: C (B, K), detached.
        meta_inputs: meta batch (M, ...).
        meta_targets: integer classes (M,).
        learning_rate: of the look-ahead step.
        lookahead: weight decay, momentum and BatchNorm variants; its own learning rate is replaced by ``learning_rate``.

    Returns:
        The gradient (B, K), in the type of the logits.

    Raises:
        ValueError: the coefficients do not have the shape of the logits.
    """
    settings = Lookahead(**{**vars(lookahead or Lookahead(learning_rate)), "learning_rate": learning_rate})
    with _training_mode(model), torch.enable_grad():
        generator_states = dropout_states(model)
        with frozen_running_statistics(model):
            log_probabilities = F.log_softmax(model(inputs), dim=1)
        gradient, _ = lookahead_gradient(
            model, inputs, log_probabilities, coefficients, meta_inputs, meta_targets, settings, generator_states=generator_states
        )
    return gradient.coefficients


@dataclass(frozen=True)
class LookaheadGradient:
    """What one look-ahead yields: dL_meta/dC (B, K), and g = grad_theta L(theta, C), one tensor a parameter."""

    coefficients: Float[Tensor, "batch classes"]
    parameters: tuple[Tensor, ...]


def lookahead_gradient(
    model: nn.Module,
    inputs: Float[Tensor, "batch ..."],
    log_probabilities: Float[Tensor, "batch classes"],
    coefficients: Float[Tensor, "..."],
    meta_inputs: Float[Tensor, "meta ..."],
    meta_targets: Int[Tensor, " meta"],
    settings: Lookahead,
    *,
    generator_states: list[Tensor] | None = None,
) -> tuple[LookaheadGradient, Float[Tensor, ""]]:
    """Return dL_meta/dC given the forward pass that the training step has already made, and the meta loss (a scalar).

    ``log_probabilities`` is log f (B, K) with its graph, which is kept for the step's second backward pass (Eq. 6). The model
    must be in training mode. ``generator_states`` are those of :func:`dropout_states` before that forward pass.
    """
    if coefficients.shape != log_probabilities.shape:
        raise ValueError(f"coefficients {tuple(coefficients.shape)} must have the shape of the logits {tuple(log_probabilities.shape)}")
    names, parameters = zip(*((name, p) for name, p in model.named_parameters() if p.requires_grad), strict=True)
    loss = -(coefficients.detach() * log_probabilities).sum()
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True)
    with torch.no_grad():
        ahead = [p.requires_grad_() for p in _step(parameters, gradients, settings)]
    with _meta_batch_norm(model, settings.batch_norm):
        meta_logits = functional_call(model, dict(zip(names, ahead, strict=True)), (meta_inputs,))
    meta_loss = F.cross_entropy(meta_logits, meta_targets)
    meta_gradients = torch.autograd.grad(meta_loss, ahead, materialize_grads=True)
    del ahead, meta_logits  # a copy of the parameters that the product below has no use for
    derivative = _directional_derivative(model, inputs, names, parameters, meta_gradients, generator_states)
    # With Nesterov's momentum the gradient enters the step twice: s(g) = g + momentum * (momentum * velocity + g).
    scale = settings.learning_rate * (1.0 + settings.momentum if settings.nesterov else 1.0)
    return LookaheadGradient(coefficients=scale * derivative, parameters=gradients), meta_loss.detach()


def _step(parameters: Sequence[Tensor], gradients: Sequence[Tensor], settings: Lookahead) -> list[Tensor]:
    """Return theta* of Eq. 3, as ``torch.optim.SGD`` would make it."""
    steps: list[Tensor] = list(gradients)
    decay = settings.weight_decay
    if isinstance(decay, Sequence) or decay != 0.0:
        factors = decay if isinstance(decay, Sequence) else [decay] * len(steps)
        steps = [g + factor * p for g, p, factor in zip(steps, parameters, factors, strict=True)]
    if settings.momentum != 0.0:
        velocities = settings.velocities or [None] * len(steps)
        moved = [g if v is None else settings.momentum * v + g for g, v in zip(steps, velocities, strict=True)]
        steps = [g + settings.momentum * v for g, v in zip(steps, moved, strict=True)] if settings.nesterov else moved
    return [p.detach() - settings.learning_rate * s for p, s in zip(parameters, steps, strict=True)]


def _directional_derivative(
    model: nn.Module,
    inputs: Tensor,
    names: Sequence[str],
    parameters: Sequence[Tensor],
    direction: Sequence[Tensor],
    generator_states: list[Tensor] | None,
) -> Tensor:
    """Return d/ds log f_k(x_i; theta + s * direction) at s = 0, shape (B, K), in one forward-mode pass."""
    _load_forward_mode()
    with torch.no_grad(), frozen_running_statistics(model), _replay(generator_states), forward_ad.dual_level():
        duals = {n: forward_ad.make_dual(p.detach(), v) for n, p, v in zip(names, parameters, direction, strict=True)}  # type: ignore[no-untyped-call]
        log_probabilities = F.log_softmax(functional_call(model, duals, (inputs,)), dim=1)
        primal, tangent = forward_ad.unpack_dual(log_probabilities)  # type: ignore[no-untyped-call]
        return torch.zeros_like(primal) if tangent is None else tangent


@functools.cache
def _load_forward_mode() -> None:
    """Make PyTorch load its forward-mode rules once, without the deprecation warning about its own code that this sets off."""
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore")
        forward_ad.make_dual(torch.zeros(()), torch.zeros(()))  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def frozen_running_statistics(model: nn.Module) -> Iterator[None]:
    """Let BatchNorm in training mode use batch statistics without moving its running ones (B7)."""
    tracking = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for module in tracking:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in tracking:
            module.track_running_stats = True


@contextlib.contextmanager
def _meta_batch_norm(model: nn.Module, treatment: str) -> Iterator[None]:
    if treatment == "batch_and_update":
        yield
    elif treatment == "running":
        norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training]
        for module in norms:
            module.training = False
        try:
            yield
        finally:
            for module in norms:
                module.training = True
    else:
        with frozen_running_statistics(model):
            yield


@contextlib.contextmanager
def _training_mode(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def dropout_states(model: nn.Module) -> list[Tensor] | None:
    """Return the generator states that the next forward pass of a model with dropout starts from, or ``None`` without dropout.

    The directional derivative must see the masks of the forward pass that it differentiates.
    """
    if not any(isinstance(module, _DropoutNd) for module in model.modules()):
        return None
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])]


@contextlib.contextmanager
def _replay(generator_states: list[Tensor] | None) -> Iterator[None]:
    if generator_states is None:
        yield
        return
    with torch.random.fork_rng():
        torch.set_rng_state(generator_states[0])
        if generator_states[1:]:
            torch.cuda.set_rng_state_all(generator_states[1:])
        yield
