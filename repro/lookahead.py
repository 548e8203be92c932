"""The engine: the gradient of the meta loss with respect to the coefficients of the training loss.

Write the training loss of a batch as ``L(theta, C) = -sum_ik C_ik log f_k(x_i; theta)``. One look-ahead step of SGD (Eq. 3)

    theta*(C) = theta - lr * s(g),    g = grad_theta L(theta, C)

(s(g) = g for plain SGD; weight decay and momentum add terms that do not depend on C) gives the meta loss L_meta(theta*(C)). With
v = grad L_meta(theta*), the chain rule of Eq. 4 and Eq. 7 reads dL_meta/dC_ik = v . dtheta*/dC_ik, and since L is linear in C,
dg/dC_ik = -grad_theta log f_k(x_i; theta). So

    dL_meta/dC_ik = lr * d/ds log f_k(x_i; theta + s v)  at s = 0

which is one Jacobian-vector product of the network, for all i and k at once. It is exact, BatchNorm's batch statistics included,
and needs neither a second-order graph nor a copy or a rewrite of the module. It is played back from a record of the forward pass
that the training step makes anyway (:mod:`repro.linearize`).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from repro.linearize import Linearization, load_forward_mode
from repro.network import Network
from repro.optimizer import Tensors, moved, sgd_steps

logger = logging.getLogger(__name__)


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
    network = Network(model)
    with network.training_mode(), torch.enable_grad():
        with network.frozen_running_statistics():
            forward = recorded_forward(network, inputs)
        gradient, _ = lookahead_gradient(network, forward, coefficients, meta_inputs, meta_targets, settings)
    return gradient.coefficients


@dataclass(frozen=True)
class RecordedForward:
    """A forward pass of the training batch, with what its derivative in a direction needs.

    Attributes:
        log_probabilities: log f (B, K) with its graph.
        inputs: the batch (B, ...).
        record: the operations of the pass.
        generator_states: of PyTorch's random numbers before it, for a network with dropout.
    """

    log_probabilities: Float[Tensor, "batch classes"]
    inputs: Float[Tensor, "batch ..."]
    record: Linearization
    generator_states: list[Tensor] | None


def recorded_forward(network: Network, inputs: Float[Tensor, "batch ..."]) -> RecordedForward:
    """Run the model, which must be in training mode, on ``inputs`` (B, ...) and keep the record."""
    generator_states = network.dropout_states()
    with Linearization(network.parameters) as record:
        log_probabilities = F.log_softmax(network.model(inputs), dim=1)
    return RecordedForward(log_probabilities, inputs, record, generator_states)


@dataclass(frozen=True)
class LookaheadGradient:
    """What one look-ahead yields: dL_meta/dC (B, K), and g = grad_theta L(theta, C), one tensor a parameter."""

    coefficients: Float[Tensor, "batch classes"]
    parameters: tuple[Tensor, ...]


def lookahead_gradient(
    network: Network,
    forward: RecordedForward,
    coefficients: Float[Tensor, "..."],
    meta_inputs: Float[Tensor, "meta ..."],
    meta_targets: Int[Tensor, " meta"],
    settings: Lookahead,
) -> tuple[LookaheadGradient, Float[Tensor, ""]]:
    """Return dL_meta/dC given the forward pass that the training step has already made, and the meta loss (a scalar).

    The graph of ``forward`` is kept for the step's second backward pass (Eq. 6); its record is used up. The model must be in
    training mode.
    """
    log_probabilities = forward.log_probabilities
    if coefficients.shape != log_probabilities.shape:
        raise ValueError(f"coefficients {tuple(coefficients.shape)} must have the shape of the logits {tuple(log_probabilities.shape)}")
    parameters = network.parameters
    gradients = loss_gradients(log_probabilities, coefficients.detach(), parameters, retain_graph=True)
    with torch.no_grad():
        steps, _ = sgd_steps(
            parameters,
            gradients,
            weight_decay=settings.weight_decay,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
            velocities=settings.velocities,
        )
        ahead = [p.requires_grad_() for p in moved(parameters, steps, settings.learning_rate)]
        del steps
    with _meta_batch_norm(network, settings.batch_norm), network.at(ahead) as model:
        meta_logits = model(meta_inputs)
    meta_loss = F.cross_entropy(meta_logits, meta_targets)
    meta_gradients = torch.autograd.grad(meta_loss, ahead, materialize_grads=True)
    del ahead, meta_logits  # a copy of the parameters that the product below has no use for
    derivative = _directional_derivative(network, forward, meta_gradients)
    # With Nesterov's momentum the gradient enters the step twice: s(g) = g + momentum * (momentum * velocity + g).
    scale = settings.learning_rate * (1.0 + settings.momentum if settings.nesterov else 1.0)
    return LookaheadGradient(coefficients=scale * derivative, parameters=gradients), meta_loss.detach()


def loss_gradients(
    log_probabilities: Float[Tensor, "batch classes"],
    coefficients: Float[Tensor, "batch classes"],
    parameters: Tensors,
    *,
    retain_graph: bool = False,
) -> tuple[Tensor, ...]:
    """Return grad_theta L(theta, C), one tensor a parameter: L is linear in log f, so its gradient there is -C and needs no graph."""
    direction = -coefficients.to(log_probabilities.dtype)
    return torch.autograd.grad(log_probabilities, parameters, direction, retain_graph=retain_graph, materialize_grads=True)


def _directional_derivative(network: Network, forward: RecordedForward, direction: Sequence[Tensor]) -> Tensor:
    """Return d/ds log f_k(x_i; theta + s * direction) at s = 0, shape (B, K)."""
    if forward.record.follows(forward.log_probabilities):
        return forward.record.derivative(forward.log_probabilities, direction)
    logger.debug("the derivative is taken by a second forward pass: the record ends at %s", forward.record.lost_at)
    load_forward_mode()
    with torch.no_grad(), network.frozen_running_statistics(), _replay(forward.generator_states), forward_ad.dual_level():
        directions = zip(network.parameters, direction, strict=True)
        duals = [forward_ad.make_dual(p.detach(), v) for p, v in directions]  # type: ignore[no-untyped-call]
        with network.at(duals) as model:
            log_probabilities = F.log_softmax(model(forward.inputs), dim=1)
        primal, tangent = forward_ad.unpack_dual(log_probabilities)  # type: ignore[no-untyped-call]
        return torch.zeros_like(primal) if tangent is None else tangent


def _meta_batch_norm(network: Network, treatment: str) -> contextlib.AbstractContextManager[None]:
    if treatment == "batch_and_update":
        return contextlib.nullcontext()
    return network.running_statistics() if treatment == "running" else network.frozen_running_statistics()


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
