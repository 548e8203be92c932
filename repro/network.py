"""A model with what every step asks it for: which parameters train, where its modules keep them, which modules normalise.

Found once, since on a small network looking through the modules costs as much as an operation. The model's modules and parameters must
stay the same objects for as long as this lives; their values may change.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from repro.errors import UserError


class Network:
    """A model as the look-ahead sees it.

    Attributes:
        model: maps inputs (B, ...) to logits (B, K).
        names: of the parameters that need a gradient, each once.
        parameters: these parameters.
        backward_is_linear: the backward pass has been found to be linear in the gradient it starts from (:mod:`repro.lookahead`).
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        self.names = tuple(name for name, _ in trained)
        self.parameters = tuple(parameter for _, parameter in trained)
        index = {id(parameter): position for position, parameter in enumerate(self.parameters)}
        # A parameter that two modules share has two places.
        self._places = [
            (module._parameters, name, index[id(parameter)])
            for module in model.modules()
            for name, parameter in module._parameters.items()
            if id(parameter) in index
        ]
        self._norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        self.backward_is_linear = False
        self._modules = list(model.modules())
        self._versions = {id(buffer): buffer._version for buffer in model.buffers()}
        self._stateful = [module for module in self._modules if not _stateless(module)]

    @contextlib.contextmanager
    def at(self, values: Sequence[Tensor]) -> Iterator[nn.Module]:
        """Let the model compute with ``values``, one tensor a parameter, in place of its parameters, which are not changed.

        ``torch.func.functional_call`` does the same, and searches the modules at each call: a fortieth of a step on digits.
        """
        try:
            for holder, name, position in self._places:
                holder[name] = values[position]  # type: ignore[assignment]
            yield self.model
        finally:
            for holder, name, position in self._places:
                holder[name] = self.parameters[position]

    @contextlib.contextmanager
    def frozen_running_statistics(self) -> Iterator[None]:
        """Let BatchNorm in training mode use batch statistics without moving its running ones (B7)."""
        tracking = [module for module in self._norms if module.track_running_stats]
        for module in tracking:
            module.track_running_stats = False
        try:
            yield
        finally:
            for module in tracking:
                module.track_running_stats = True

    @contextlib.contextmanager
    def running_statistics(self) -> Iterator[None]:
        """Let BatchNorm use its running statistics, as in evaluation."""
        training = [module for module in self._norms if module.training]
        for module in training:
            module.training = False
        try:
            yield
        finally:
            for module in training:
                module.training = True

    @contextlib.contextmanager
    def training_mode(self) -> Iterator[None]:
        """Put all modules into training mode, and afterwards each into the mode it was in."""
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.train()
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode

    @contextlib.contextmanager
    def unchanged_state(self, *, norms: bool = False, after_training: bool = False) -> Iterator[None]:
        """Let passes inside leave no trace: buffers are stood in for by copies, and attributes of modules are put back.

        BatchNorm's buffers are left to the methods above, unless ``norms``. ``after_training``: a pass of a training batch has just been
        made, so a buffer that has never changed is a constant and needs no copy. What an attribute holds is not copied: a list that the
        passes extend stays longer.

        Raises:
            UserError: such a constant changed.
        """
        before: list[tuple[dict[str, Any], dict[str, Any]]] = []
        copies: dict[int, Tensor] = {}
        constants: list[tuple[str, Tensor, int]] = []
        for module in self._modules if norms else self._stateful:
            attributes: list[dict[str, Any]] = [module.__dict__]
            if module._buffers and (norms or not isinstance(module, _BatchNorm)):
                attributes.append(module._buffers)
            for values in attributes:
                before.append((values, values.copy()))
                for name, value in values.items():
                    if value.__class__ is not Tensor or value.requires_grad:
                        continue
                    if after_training and self._versions.get(id(value)) == value._version:
                        constants.append((f"{type(module).__name__}.{name}", value, value._version))
                    else:
                        # A copy, since a graph of an earlier pass may hold the tensor itself. Modules that share it share the copy.
                        values[name] = copies.setdefault(id(value), value.clone())
        try:
            yield
        finally:
            for values, old in before:
                if len(values) != len(old):
                    for name in values.keys() - old.keys():
                        del values[name]
                values.update(old)
        for name, value, version in constants:
            if value._version != version:
                raise UserError(
                    f"{name} changed in the meta pass of a look-ahead and had not in that of the training batch, so it was not put back. "
                    f"Change it in every forward pass or in none."
                )


def _stateless(module: nn.Module) -> bool:
    """Say whether a forward pass leaves a module as it is: one of PyTorch's own without buffers, BatchNorm's aside, and without hooks."""
    return (
        type(module).__module__.startswith("torch.nn.modules.")
        and (not module._buffers or isinstance(module, _BatchNorm))
        and not (module._forward_hooks or module._forward_pre_hooks or isinstance(module, nn.RNNBase))
    )
