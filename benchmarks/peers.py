"""The meta step of :class:`repro.step.TrainingStep` written with other tools, each of which differentiates through the look-ahead step.

``higher``, ``torchopt`` and double backward over ``torch.func.functional_call`` all build the second-order graph: the gradient of the
training loss with ``create_graph=True``, the parameters moved by it, the meta loss there, and its gradient with respect to the
coefficients C (B, K). The labels' update and the optimiser's step are those of this project, so that only the way to the gradient differs.

Each is written twice. ``fresh``: the step with the new labels makes its own forward pass, as is usual with these tools. ``reused``: it goes
back through the forward pass that the look-ahead began with, which saves that pass and holds its activations for longer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad

from repro.methods.base import Batch, Method
from repro.network import Network
from repro.optimizer import SGD
from repro.step import MetaBatch, StepResult


class PeerStep(ABC):
    """One training step with labels that learn; called as :class:`repro.step.TrainingStep` is.

    The look-ahead is plain SGD (Eq. 3) with the optimiser's present learning rate; BatchNorm uses batch statistics in the meta pass,
    and its running statistics move in the training batch's pass alone.
    """

    #: The package that must be installed, ``None`` for PyTorch itself.
    package: ClassVar[str | None] = None

    def __init__(self, model: nn.Module, optimizer: SGD, method: Method, *, reuse: bool = False) -> None:
        self.model = model
        self.network = Network(model)
        self.optimizer = optimizer
        self.method = method
        self.reuse = reuse

    @abstractmethod
    def forward(self, inputs: Tensor) -> tuple[Tensor, Any]:
        """Return log f (B, K), with the graph that will be differentiated twice, and what :meth:`gradient` needs of this pass.

        With ``reuse`` the running statistics of BatchNorm move, otherwise they do not.
        """

    @abstractmethod
    def gradient(self, log_probabilities: Tensor, coefficients: Tensor, meta: MetaBatch, memo: Any, learning_rate: float) -> Tensor:
        """Return dL_meta/dC (B, K); ``coefficients`` require a gradient. The graph of ``log_probabilities`` stays usable."""

    @abstractmethod
    def leaves(self, memo: Any) -> Sequence[Tensor]:
        """Return the tensors that stand for the model's parameters in the graph of :meth:`forward`, in their order."""

    def __call__(self, inputs: Tensor, rows: Tensor, observed: Tensor, *, epoch: int, meta: MetaBatch | None, step: int = 0) -> StepResult:
        """Take one step: look ahead, update the labels of ``rows`` (B,), and step the model on the new labels (Eq. 3-6)."""
        assert meta is not None, "a peer always looks ahead"
        log_probabilities, memo = self.forward(inputs)
        batch = Batch(rows=rows, observed=observed, epoch=epoch, log_probabilities=log_probabilities.detach(), step=step, inputs=inputs)
        coefficients = self.method.lookahead_coefficients(batch).requires_grad_()
        gradient = self.gradient(log_probabilities, coefficients, meta, memo, float(self.optimizer.learning_rate))
        self.method.update(batch, gradient)
        if self.reuse:
            loss = self.method.loss(log_probabilities, batch)
            gradients = torch.autograd.grad(loss, self.leaves(memo))
        else:
            # The first pass's activations go before the second pass makes its own.
            del log_probabilities, memo
            log_probabilities = self.last_pass(inputs)
            loss = self.method.loss(log_probabilities, batch)
            gradients = torch.autograd.grad(loss, self.optimizer.parameters)
        self.optimizer.step(gradients)
        correct = (log_probabilities.detach().argmax(dim=1) == observed).sum()
        return StepResult(loss=loss.detach() * len(rows), correct=correct)

    def last_pass(self, inputs: Tensor) -> Tensor:
        """Return log f (B, K) for the step on the new labels, in a pass of its own that moves BatchNorm's running statistics."""
        return F.log_softmax(self.model(inputs), dim=1)

    def coefficient_gradient(
        self, inputs: Tensor, coefficients: Tensor, meta_inputs: Tensor, meta_targets: Tensor, learning_rate: float
    ) -> Tensor:
        """Return dL_meta/dC (B, K), as :func:`repro.lookahead.coefficient_gradient` does."""
        log_probabilities, memo = self.forward(inputs)
        meta = MetaBatch(inputs=meta_inputs, targets=meta_targets)
        return self.gradient(log_probabilities, coefficients.detach().clone().requires_grad_(), meta, memo, learning_rate)


class HigherStep(PeerStep):
    """``higher``: a patched copy of the module and a differentiable form of the optimiser."""

    package: ClassVar[str | None] = "higher"

    def forward(self, inputs: Tensor) -> tuple[Tensor, Any]:
        """See :meth:`PeerStep.forward`."""
        import higher

        # The patched module has buffers of its own, so its passes leave the model's running statistics alone.
        patched = higher.monkeypatch(self.model, copy_initial_weights=True, track_higher_grads=True)
        log_probabilities = F.log_softmax(patched(inputs), dim=1)
        if self.reuse:
            with torch.no_grad():
                for own, moved in zip(self.model.buffers(), patched.buffers(), strict=True):
                    own.copy_(moved)
        return log_probabilities, patched

    def gradient(self, log_probabilities: Tensor, coefficients: Tensor, meta: MetaBatch, memo: Any, learning_rate: float) -> Tensor:
        """See :meth:`PeerStep.gradient`."""
        import higher

        inner = higher.get_diff_optim(
            torch.optim.SGD(self.model.parameters(), lr=learning_rate), self.model.parameters(), fmodel=memo, track_higher_grads=True
        )
        inner.step(-(coefficients * log_probabilities).sum())
        meta_loss = F.cross_entropy(memo(meta.inputs), meta.targets)
        (gradient,) = torch.autograd.grad(meta_loss, coefficients)
        return gradient

    def leaves(self, memo: Any) -> Sequence[Tensor]:
        """See :meth:`PeerStep.leaves`."""
        return tuple(memo.parameters(time=0))


class _FunctionalStep(PeerStep):
    """What the two peers share that call the module with other parameters instead of changing it."""

    def forward(self, inputs: Tensor) -> tuple[Tensor, Any]:
        """See :meth:`PeerStep.forward`."""
        if self.reuse:
            return F.log_softmax(self.model(inputs), dim=1), None
        with self.network.frozen_running_statistics():
            return F.log_softmax(self.model(inputs), dim=1), None

    def leaves(self, memo: Any) -> Sequence[Tensor]:
        """See :meth:`PeerStep.leaves`."""
        return tuple(self.model.parameters())

    def gradient(self, log_probabilities: Tensor, coefficients: Tensor, meta: MetaBatch, memo: Any, learning_rate: float) -> Tensor:
        """See :meth:`PeerStep.gradient`."""
        names, parameters = zip(*self.model.named_parameters(), strict=True)
        ahead = self._ahead(-(coefficients * log_probabilities).sum(), parameters, learning_rate)
        with self.network.frozen_running_statistics():
            logits = functional_call(self.model, dict(zip(names, ahead, strict=True)), (meta.inputs,))
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, meta.targets), coefficients)
        return gradient

    @abstractmethod
    def _ahead(self, loss: Tensor, parameters: tuple[Tensor, ...], learning_rate: float) -> Sequence[Tensor]:
        """Return the parameters after the look-ahead step on ``loss``, with its graph."""


class TorchOptStep(_FunctionalStep):
    """``torchopt``: its differentiable functional optimiser."""

    package: ClassVar[str | None] = "torchopt"

    def _ahead(self, loss: Tensor, parameters: tuple[Tensor, ...], learning_rate: float) -> Sequence[Tensor]:
        import torchopt

        optimizer = torchopt.FuncOptimizer(torchopt.sgd(lr=learning_rate))
        ahead: tuple[Tensor, ...] = optimizer.step(loss, parameters)
        return ahead


class DoubleBackwardStep(_FunctionalStep):
    """PyTorch alone: ``create_graph=True`` and ``torch.func.functional_call``."""

    def _ahead(self, loss: Tensor, parameters: tuple[Tensor, ...], learning_rate: float) -> Sequence[Tensor]:
        gradients = torch.autograd.grad(loss, parameters, create_graph=True)
        return [parameter - learning_rate * gradient for parameter, gradient in zip(parameters, gradients, strict=True)]


class CompiledDoubleBackwardStep(PeerStep):
    """Double backward as one compiled graph: nested ``torch.func.grad``, which ``torch.compile`` can follow where autograd's tape is not.

    The pass on the new labels is compiled too; there is no form that reuses the first pass.
    """

    def __init__(self, model: nn.Module, optimizer: SGD, method: Method, *, reuse: bool = False) -> None:
        assert not reuse, "the compiled form makes its own last pass"
        super().__init__(model, optimizer, method)
        self._gradient = torch.compile(self._gradient_of)
        self._log_probabilities = torch.compile(lambda inputs: F.log_softmax(model(inputs), dim=1))

    def _gradient_of(
        self, parameters: dict[str, Tensor], coefficients: Tensor, inputs: Tensor, meta_inputs: Tensor, meta_targets: Tensor, rate: Tensor
    ) -> Tensor:
        def training_loss(present: dict[str, Tensor], coefficients: Tensor) -> Tensor:
            return -(coefficients * F.log_softmax(functional_call(self.model, present, (inputs,)), dim=1)).sum()

        def meta_loss(coefficients: Tensor) -> Tensor:
            gradients = grad(training_loss)(parameters, coefficients)
            ahead = {name: parameter - rate * gradients[name] for name, parameter in parameters.items()}
            return F.cross_entropy(functional_call(self.model, ahead, (meta_inputs,)), meta_targets)

        gradient: Tensor = grad(meta_loss)(coefficients)
        return gradient

    def forward(self, inputs: Tensor) -> tuple[Tensor, Any]:
        """Return an empty log f: the passes are inside the compiled function of the coefficients."""
        return torch.empty(0), inputs

    def gradient(self, log_probabilities: Tensor, coefficients: Tensor, meta: MetaBatch, memo: Any, learning_rate: float) -> Tensor:
        """See :meth:`PeerStep.gradient`."""
        parameters = {name: parameter.detach() for name, parameter in self.model.named_parameters()}
        # A tensor, so that another learning rate is not another graph.
        rate = torch.tensor(learning_rate, dtype=coefficients.dtype, device=coefficients.device)
        with self.network.frozen_running_statistics():
            gradient: Tensor = self._gradient(parameters, coefficients.detach(), memo, meta.inputs, meta.targets, rate)
        return gradient

    def leaves(self, memo: Any) -> Sequence[Tensor]:
        """See :meth:`PeerStep.leaves`."""
        return tuple(self.model.parameters())

    def last_pass(self, inputs: Tensor) -> Tensor:
        """See :meth:`PeerStep.last_pass`."""
        log_probabilities: Tensor = self._log_probabilities(inputs)
        return log_probabilities


#: The peers by the name that a measurement has.
PEERS: dict[str, type[PeerStep]] = {"higher": HigherStep, "torchopt": TorchOptStep, "double_backward": DoubleBackwardStep}


def installed(name: str) -> bool:
    """Say whether what the peer ``name`` needs is installed."""
    package = PEERS[name].package
    return package is None or find_spec(package) is not None
