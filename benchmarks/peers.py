"""The meta step written with other tools, each of which differentiates through the look-ahead step.

``torchopt`` and double backward over ``torch.func.functional_call`` build the second-order graph: the gradient of the
training loss with ``create_graph=True``, the parameters moved by it, the meta loss there, and its gradient with respect to the
coefficients C (B, K). The labels' update and the optimiser's step are those of this project, so that only the way to the gradient differs.
The step on the new labels goes back through the forward pass that the look-ahead began with, as ours does: with these tools it is more
usual to make that pass again, which is slower.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call
from typing_extensions import override

from repro.engine.method import Batch
from repro.engine.step import MetaBatch, StepResult, TrainingStep


class DoubleBackwardStep(TrainingStep):
    """One training step with labels that learn, by PyTorch alone.

    The look-ahead is plain SGD (Eq. 3) with the optimiser's present learning rate; BatchNorm uses batch statistics in the meta pass,
    and its running statistics move in the training batch's pass alone.
    """

    #: The package that must be installed, ``None`` for PyTorch itself.
    package: ClassVar[str | None] = None

    @override
    def take(self, inputs: Tensor, rows: Tensor, observed: Tensor, meta: MetaBatch | None, given: tuple[Tensor, ...]) -> StepResult:
        assert meta is not None, "a peer always looks ahead"
        log_probabilities = F.log_softmax(self.model(inputs), dim=1)
        batch = Batch(rows=rows, observed=observed, log_probabilities=log_probabilities.detach(), inputs=inputs, given=given)
        coefficients = self.method.lookahead_coefficients(batch).requires_grad_()
        logits = self.logits_ahead(-(coefficients * log_probabilities).sum(), meta.inputs, float(self.optimizer.learning_rate))
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, meta.targets), coefficients)
        self.method.update(batch, gradient)
        loss = -(self.method.coefficients(batch) * log_probabilities).sum()
        self.optimizer.step(torch.autograd.grad(loss, self.optimizer.parameters))
        correct = (batch.log_probabilities.argmax(dim=1) == observed).sum()
        return StepResult(loss=loss.detach() * len(rows), correct=correct)

    def logits_ahead(self, loss: Tensor, inputs: Tensor, learning_rate: float) -> Tensor:
        """Return the logits of ``inputs`` after the look-ahead step on ``loss``, with its graph."""
        names, parameters = zip(*self.model.named_parameters(), strict=True)
        ahead = self.look_ahead(loss, parameters, learning_rate)
        with self._network.frozen_running_statistics():
            logits: Tensor = functional_call(self.model, dict(zip(names, ahead, strict=True)), (inputs,))
        return logits

    def look_ahead(self, loss: Tensor, parameters: tuple[Tensor, ...], learning_rate: float) -> Sequence[Tensor]:
        """Return the parameters after the look-ahead step on ``loss``, with its graph."""
        gradients = torch.autograd.grad(loss, parameters, create_graph=True)
        return [parameter - learning_rate * gradient for parameter, gradient in zip(parameters, gradients, strict=True)]


class TorchOptStep(DoubleBackwardStep):
    """``torchopt``: its differentiable functional optimiser."""

    package: ClassVar[str | None] = "torchopt"

    @override
    def look_ahead(self, loss: Tensor, parameters: tuple[Tensor, ...], learning_rate: float) -> Sequence[Tensor]:
        import torchopt

        ahead: tuple[Tensor, ...] = torchopt.FuncOptimizer(torchopt.sgd(lr=learning_rate)).step(loss, parameters)
        return ahead


#: The peers by the name that a measurement has.
PEERS: dict[str, type[DoubleBackwardStep]] = {"torchopt": TorchOptStep, "double_backward": DoubleBackwardStep}


def installed(name: str) -> bool:
    """Say whether what the peer ``name`` needs is installed."""
    package = PEERS[name].package
    return package is None or find_spec(package) is not None
