"""The engine: the gradient of the meta loss with respect to the coefficients of the training loss.

Write the training loss of a batch as ``L(theta, C) = -sum_ik C_ik log f_k(x_i; theta)``. One look-ahead step of SGD (Eq. 3)

    theta*(C) = theta - lr * s(g),    g = grad_theta L(theta, C)

(s(g) = g for plain SGD; weight decay and momentum add terms that do not depend on C) gives the meta loss L_meta(theta*(C)). With
v = grad L_meta(theta*), the chain rule of Eq. 4 and Eq. 7 reads dL_meta/dC_ik = v . dtheta*/dC_ik, and since L is linear in C,
dg/dC_ik = -grad_theta log f_k(x_i; theta). So

    dL_meta/dC_ik = lr * d/ds log f_k(x_i; theta + s v)  at s = 0

which is one Jacobian-vector product of the network, for all i and k at once. It is exact, BatchNorm's batch statistics included,
and needs neither a second-order graph nor a copy or a rewrite of the module. It is played back from a record of the forward pass
that the training step makes anyway (:mod:`repro.engine.linearize`).

Where the record ends, the same product is the derivative by C of v . g, taken through the backward pass. Either way the training batch
runs through the network once: whatever draws random numbers in it, from whichever generator, draws them once, and a layer that counts
its calls or keeps averages counts one. The draws come in the order of the passes: training batch, then meta batch. The meta pass leaves
no trace in the modules but, if asked for, in BatchNorm's running statistics.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from repro.engine.linearize import Linearization
from repro.engine.network import Network
from repro.engine.optimizer import Lookahead, Tensors, moved, sgd_steps
from repro.errors import UserError

logger = logging.getLogger(__name__)


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
    batch. The model runs in training mode with batch statistics; its parameters, gradients, buffers, attributes and mode are left
    exactly as they were. Its random numbers are drawn for the training batch first, then for the meta batch.

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
        UserError: the record of the pass ends at an operation whose backward pass PyTorch cannot differentiate.
    """
    settings = replace(lookahead or Lookahead(learning_rate), learning_rate=learning_rate)
    network = Network(model)
    with network.training_mode(), torch.enable_grad(), network.unchanged_state():
        forward = recorded_forward(network, inputs, frozen=True)
        gradient, _ = lookahead_gradient(network, forward, coefficients, meta_inputs, meta_targets, settings)
    return gradient


@dataclass(frozen=True)
class RecordedForward:
    """A forward pass of the training batch, with what its derivative in a direction needs.

    Attributes:
        log_probabilities: log f (B, K) with its graph.
        record: the operations of the pass.
        frozen: it left BatchNorm's running statistics alone.
    """

    log_probabilities: Float[Tensor, "batch classes"]
    record: Linearization
    frozen: bool


def recorded_forward(network: Network, inputs: Float[Tensor, "batch ..."], *, frozen: bool = False) -> RecordedForward:
    """Run the model, which must be in training mode, on ``inputs`` (B, ...) and keep the record."""
    statistics = network.frozen_running_statistics() if frozen else contextlib.nullcontext()
    with statistics, _uncompiled(), Linearization(network.parameters) as record:
        log_probabilities = F.log_softmax(network.model(inputs), dim=1)
    return RecordedForward(log_probabilities, record, frozen)


def _uncompiled() -> contextlib.AbstractContextManager[Any]:
    """Run modules that went through ``torch.compile`` as they are written: compiled code has no second derivative."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else contextlib.nullcontext()


def lookahead_gradient(
    network: Network,
    forward: RecordedForward,
    coefficients: Float[Tensor, "..."],
    meta_inputs: Float[Tensor, "meta ..."],
    meta_targets: Int[Tensor, " meta"],
    settings: Lookahead,
) -> tuple[Float[Tensor, "batch classes"], tuple[Tensor, ...]]:
    """Return dL_meta/dC given the forward pass that the training step has already made, and g = grad_theta L(theta, C), by parameter.

    The graph of ``forward`` is kept for the step's second backward pass (Eq. 6); its record is used up. The model must be in
    training mode.
    """
    log_probabilities = forward.log_probabilities
    if coefficients.shape != log_probabilities.shape:
        raise ValueError(f"coefficients {tuple(coefficients.shape)} must have the shape of the logits {tuple(log_probabilities.shape)}")
    parameters, record = network.parameters, forward.record
    followed = record.follows(log_probabilities)
    if followed:
        gradients = loss_gradients(log_probabilities, coefficients.detach(), parameters, retain_graph=True)
    else:
        logger.debug("the derivative is taken through the backward pass: the record ends at %s", record.lost_at)
        backward = _DifferentiableBackward(network, forward, coefficients)
        gradients = backward.gradients
    with torch.no_grad():
        steps, _ = sgd_steps(parameters, gradients, settings)
        ahead = [p.requires_grad_() for p in moved(parameters, steps, settings.learning_rate)]
        del steps
    # With its backward pass, in which a checkpoint runs parts of the network again.
    with (
        network.unchanged_state(),
        _meta_batch_norm(network, settings.batch_norm),
        _uncompiled(),
        network.at(ahead) as model,
    ):
        meta_logits = model(meta_inputs)
        meta_loss = F.cross_entropy(meta_logits, meta_targets)
        meta_gradients = torch.autograd.grad(meta_loss, ahead, materialize_grads=True)
    del ahead, meta_logits  # a copy of the parameters that the product below has no use for
    derivative = record.derivative(log_probabilities, meta_gradients) if followed else backward.derivative(meta_gradients)
    # With Nesterov's momentum the gradient enters the step twice: s(g) = g + momentum * (momentum * velocity + g).
    scale = settings.learning_rate * (1.0 + settings.momentum if settings.nesterov else 1.0)
    return scale * derivative, gradients


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


class _DifferentiableBackward:
    """A backward pass with a graph of its own, for networks whose forward pass is not on record.

    Attributes:
        gradients: grad_theta L(theta, C), one tensor a parameter.
    """

    def __init__(self, network: Network, forward: RecordedForward, coefficients: Float[Tensor, "batch classes"]) -> None:
        self._network = network
        self._forward = forward
        self._coefficients = coefficients.detach().clone().requires_grad_()
        log_probabilities, parameters = forward.log_probabilities, network.parameters
        with self._aside(), torch.enable_grad():
            outgoing = -self._coefficients.to(log_probabilities.dtype)
            found = torch.autograd.grad(log_probabilities, parameters, outgoing, create_graph=True, allow_unused=True)
        self._with_graph = found
        self.gradients = tuple(torch.zeros_like(p) if g is None else g.detach() for p, g in zip(parameters, found, strict=True))

    def derivative(self, direction: Sequence[Tensor]) -> Tensor:
        """Return d/ds log f_k(x_i; theta + s * direction) at s = 0, shape (B, K): minus the derivative of direction . g by C."""
        reached = [(gradient, v) for gradient, v in zip(self._with_graph, direction, strict=True) if gradient is not None]
        pairs = [(gradient, v) for gradient, v in reached if gradient.requires_grad]
        result = torch.zeros_like(self._coefficients)
        if pairs:
            with self._aside():
                outputs, directions = zip(*pairs, strict=True)
                (result,) = torch.autograd.grad(outputs, self._coefficients, directions, materialize_grads=True)
        self._check(reached, result, direction)
        return -result.to(self._forward.log_probabilities.dtype)

    def _check(self, reached: Sequence[tuple[Tensor, Tensor]], result: Tensor, direction: Sequence[Tensor]) -> None:
        """Compare direction . g with C . result, its derivative along C: equal, since g is linear in C.

        Unless an autograd function hides from PyTorch how its gradient depends on the one it is given, which would count as zero.
        Once for a network, since the device must be waited for; not while a step is noted, when there are no values.
        """
        if self._network.backward_is_linear or _noting():
            return
        if not self._coefficients.any():  # the gradient at zero says nothing
            ones = torch.ones_like(self._coefficients)
            if ones.any():  # not on a driver that computes nothing
                _DifferentiableBackward(self._network, self._forward, ones).derivative(direction)
            return
        whole, scale = 0.0, 0.0
        for gradient, v in reached:
            whole += (gradient.detach() * v).sum().item()
            scale += (gradient.detach().norm() * v.norm()).item()
        along = (self._coefficients.detach() * result).sum().item()
        # Products of float32 may be rounded to bfloat16.
        if abs(whole - along) > (1e-6 if result.dtype == torch.float64 else 1e-2) * scale:
            raise self._refusal("its gradient hides how it depends on the gradient that it is given, or is not linear in it")
        self._network.backward_is_linear = True

    @contextlib.contextmanager
    def _aside(self) -> Iterator[None]:
        """Let no checkpoint that runs parts of the network again leave a trace in it; turn PyTorch's refusals into ours."""
        forward = self._forward
        try:
            with self._network.frozen_running_statistics() if forward.frozen else self._network.unchanged_state(norms=True):
                yield
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise
        except RuntimeError as error:
            raise self._refusal(str(error).partition("\n")[0]) from error

    def _refusal(self, reason: str) -> UserError:
        return UserError(
            f"the network cannot be trained with a look-ahead: PyTorch does not differentiate the backward pass of one operation "
            f"({reason}). "
            "Use another operation there, or a method without a meta set."
        )


def _noting() -> bool:
    """Say whether the operations are noted for a program or a CUDA graph, so that none may ask for a value."""
    from torch.fx.experimental.proxy_tensor import get_proxy_mode

    return get_proxy_mode() is not None or (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing())


def _meta_batch_norm(network: Network, treatment: str) -> contextlib.AbstractContextManager[None]:
    if treatment == "batch_and_update":
        return contextlib.nullcontext()
    return network.running_statistics() if treatment == "running" else network.frozen_running_statistics()
