"""The meta step written with other tools, each of which differentiates through the look-ahead step.

``higher``, ``torchopt`` and double backward over ``torch.func.functional_call`` all build the second-order graph: the gradient of the
training loss with ``create_graph=True``, the parameters moved by it, the meta loss there, and its gradient with respect to the
coefficients C (B, K). The labels' update and the optimiser's step are those of this project, so that only the way to the gradient differs.

Each is written twice. ``fresh``: the step with the new labels makes its own forward pass, as is usual with these tools. ``reused``: it goes
back through the forward pass that the look-ahead began with, which saves that pass and holds its activations for longer.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.forward_ad import dual_level, make_dual, unpack_dual
from torch.func import functional_call, grad
from typing_extensions import override

from repro.engine.lookahead import loss_gradients
from repro.engine.method import Batch, Method, Visit
from repro.engine.network import Network
from repro.engine.optimizer import SGD, moved
from repro.engine.step import MetaBatch, StepResult
from repro.measure import look_ahead


class DoubleBackwardStep:
    """One training step with labels that learn, by PyTorch alone; called as :class:`repro.engine.step.TrainingStep` is.

    The look-ahead is plain SGD (Eq. 3) with the optimiser's present learning rate; BatchNorm uses batch statistics in the meta pass,
    and its running statistics move in one of the training batch's passes alone.
    """

    #: The package that must be installed, ``None`` for PyTorch itself.
    package: ClassVar[str | None] = None

    def __init__(self, model: nn.Module, optimizer: SGD, method: Method, *, reuse: bool = False) -> None:
        self.model = model
        self.network = Network(model)
        self.optimizer = optimizer
        self.method = method
        self.reuse = reuse
        self.last_pass: Callable[[Tensor], Tensor] = lambda inputs: F.log_softmax(model(inputs), dim=1)

    def __call__(self, inputs: Tensor, rows: Tensor, observed: Tensor, *, epoch: int, meta: MetaBatch | None, step: int = 0) -> StepResult:
        """Take one step: look ahead, update the labels of ``rows`` (B,), and step the model on the new labels (Eq. 3-6)."""
        assert meta is not None, "a peer always looks ahead"
        log_probabilities, memo = self.forward(inputs)
        given = self.method.given(Visit(rows, observed, epoch, step))
        batch = Batch(rows=rows, observed=observed, log_probabilities=log_probabilities.detach(), inputs=inputs, given=given)
        coefficients = self.method.lookahead_coefficients(batch).requires_grad_()
        gradient = self.gradient(log_probabilities, coefficients, meta, memo, float(self.optimizer.learning_rate))
        self.method.update(batch, gradient)
        leaves = self.leaves(memo) if self.reuse else self.optimizer.parameters
        if not self.reuse:
            # The first pass's activations go before the second pass makes its own.
            del log_probabilities, memo
            log_probabilities = self.last_pass(inputs)
        loss = -(self.method.coefficients(batch) * log_probabilities).sum()
        self.optimizer.step(torch.autograd.grad(loss, leaves))
        correct = (log_probabilities.detach().argmax(dim=1) == observed).sum()
        return StepResult(loss=loss.detach() * len(rows), correct=correct)

    def coefficient_gradient(
        self, inputs: Tensor, coefficients: Tensor, meta_inputs: Tensor, meta_targets: Tensor, learning_rate: float
    ) -> Tensor:
        """Return dL_meta/dC (B, K), as :func:`repro.engine.lookahead.coefficient_gradient` does."""
        log_probabilities, memo = self.forward(inputs)
        meta = MetaBatch(inputs=meta_inputs, targets=meta_targets)
        return self.gradient(log_probabilities, coefficients.detach().clone().requires_grad_(), meta, memo, learning_rate)

    def gradient(self, log_probabilities: Tensor, coefficients: Tensor, meta: MetaBatch, memo: Any, learning_rate: float) -> Tensor:
        """Return dL_meta/dC (B, K); ``coefficients`` require a gradient. The graph of ``log_probabilities`` stays usable."""
        logits = self.logits_ahead(-(coefficients * log_probabilities).sum(), meta.inputs, memo, learning_rate)
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, meta.targets), coefficients)
        return gradient

    def forward(self, inputs: Tensor) -> tuple[Tensor, Any]:
        """Return log f (B, K), with the graph that will be differentiated twice, and what :meth:`logits_ahead` needs of this pass.

        With ``reuse`` the running statistics of BatchNorm move, otherwise they do not.
        """
        with contextlib.nullcontext() if self.reuse else self.network.frozen_running_statistics():
            return F.log_softmax(self.model(inputs), dim=1), None

    def leaves(self, memo: Any) -> Sequence[Tensor]:
        """Return the tensors that stand for the model's parameters in the graph of :meth:`forward`, in their order."""
        return self.optimizer.parameters

    def logits_ahead(self, loss: Tensor, inputs: Tensor, memo: Any, learning_rate: float) -> Tensor:
        """Return the logits of ``inputs`` after the look-ahead step on ``loss``, with its graph."""
        names, parameters = zip(*self.model.named_parameters(), strict=True)
        ahead = self.look_ahead(loss, parameters, learning_rate)
        with self.network.frozen_running_statistics():
            logits: Tensor = functional_call(self.model, dict(zip(names, ahead, strict=True)), (inputs,))
        return logits

    def look_ahead(self, loss: Tensor, parameters: tuple[Tensor, ...], learning_rate: float) -> Sequence[Tensor]:
        """Return the parameters after the look-ahead step on ``loss``, with its graph."""
        return look_ahead(loss, parameters, learning_rate)


class TorchOptStep(DoubleBackwardStep):
    """``torchopt``: its differentiable functional optimiser."""

    package: ClassVar[str | None] = "torchopt"

    @override
    def look_ahead(self, loss: Tensor, parameters: tuple[Tensor, ...], learning_rate: float) -> Sequence[Tensor]:
        import torchopt

        ahead: tuple[Tensor, ...] = torchopt.FuncOptimizer(torchopt.sgd(lr=learning_rate)).step(loss, parameters)
        return ahead


class HigherStep(DoubleBackwardStep):
    """``higher``: a patched copy of the module and a differentiable form of the optimiser."""

    package: ClassVar[str | None] = "higher"

    @override
    def forward(self, inputs: Tensor) -> tuple[Tensor, Any]:
        import higher

        # The patched module has buffers of its own, so its passes leave the model's running statistics alone.
        patched = higher.monkeypatch(self.model, copy_initial_weights=True, track_higher_grads=True)
        log_probabilities = F.log_softmax(patched(inputs), dim=1)
        if self.reuse:
            with torch.no_grad():
                for own, moved in zip(self.model.buffers(), patched.buffers(), strict=True):
                    own.copy_(moved)
        return log_probabilities, patched

    @override
    def leaves(self, memo: Any) -> Sequence[Tensor]:
        return tuple(memo.parameters(time=0))

    @override
    def logits_ahead(self, loss: Tensor, inputs: Tensor, memo: Any, learning_rate: float) -> Tensor:
        import higher

        optimizer = torch.optim.SGD(self.model.parameters(), lr=learning_rate)
        higher.get_diff_optim(optimizer, self.model.parameters(), fmodel=memo, track_higher_grads=True).step(loss)
        logits: Tensor = memo(inputs)
        return logits


class DualNumbersStep(DoubleBackwardStep):
    """The engine's formula with the Jacobian-vector product of one more forward pass, on dual numbers (``torch.autograd.forward_ad``).

    A network that draws random numbers, such as dropout's masks, draws others in that pass, and its gradient is then another one.
    """

    @override
    def forward(self, inputs: Tensor) -> tuple[Tensor, Any]:
        return super().forward(inputs)[0], inputs

    @override
    def gradient(self, log_probabilities: Tensor, coefficients: Tensor, meta: MetaBatch, memo: Any, learning_rate: float) -> Tensor:
        network = self.network
        gradients = loss_gradients(log_probabilities, coefficients.detach(), network.parameters, retain_graph=self.reuse)
        ahead = [leaf.requires_grad_() for leaf in moved([p.detach() for p in network.parameters], gradients, learning_rate)]
        with network.frozen_running_statistics():
            with network.at(ahead) as model:
                direction = torch.autograd.grad(F.cross_entropy(model(meta.inputs), meta.targets), ahead)
            del ahead
            with torch.no_grad(), dual_level(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of PyTorch's about its own code, which it loads here
                duals = [make_dual(p.detach(), v) for p, v in zip(network.parameters, direction, strict=True)]  # type: ignore[no-untyped-call]
                with network.at(duals) as model:
                    derivative: Tensor = unpack_dual(F.log_softmax(model(memo), dim=1)).tangent  # type: ignore[no-untyped-call]
        return learning_rate * derivative


class CompiledDoubleBackwardStep(DoubleBackwardStep):
    """Double backward as one compiled graph: nested ``torch.func.grad``, which ``torch.compile`` can follow where autograd's tape is not.

    The pass on the new labels is compiled too; there is no form that reuses the first pass.
    """

    def __init__(self, model: nn.Module, optimizer: SGD, method: Method, *, reuse: bool = False) -> None:
        assert not reuse, "the compiled form makes its own last pass"
        super().__init__(model, optimizer, method)
        self._gradient = torch.compile(self._gradient_of)
        self.last_pass = torch.compile(self.last_pass)

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
        return torch.empty(len(inputs), 0), inputs

    @override
    def gradient(self, log_probabilities: Tensor, coefficients: Tensor, meta: MetaBatch, memo: Any, learning_rate: float) -> Tensor:
        parameters = {name: parameter.detach() for name, parameter in self.model.named_parameters()}
        # A tensor, so that another learning rate is not another graph.
        rate = torch.tensor(learning_rate, dtype=coefficients.dtype, device=coefficients.device)
        with self.network.frozen_running_statistics():
            gradient: Tensor = self._gradient(parameters, coefficients.detach(), memo, meta.inputs, meta.targets, rate)
        return gradient


#: The peers by the name that a measurement has.
PEERS: dict[str, type[DoubleBackwardStep]] = {
    "higher": HigherStep,
    "torchopt": TorchOptStep,
    "double_backward": DoubleBackwardStep,
    "dual_numbers": DualNumbersStep,
}


def installed(name: str) -> bool:
    """Say whether what the peer ``name`` needs is installed."""
    package = PEERS[name].package
    return package is None or find_spec(package) is not None
