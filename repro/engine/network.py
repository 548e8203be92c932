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


class Network:
    """A model as the look-ahead sees it.

    Attributes:
        model: maps inputs (B, ...) to logits (B, K).
        parameters: those that need a gradient, each once.
        backward_is_linear: the backward pass has been found to be linear in the gradient it starts from (:mod:`repro.engine.lookahead`).
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.parameters = tuple(parameter for parameter in model.parameters() if parameter.requires_grad)
        index = {id(parameter): position for position, parameter in enumerate(self.parameters)}
        # A parameter that two modules share has two places.
        self._places = [
            (module._parameters, name, index[id(parameter)])
            for module in model.modules()
            for name, parameter in module._parameters.items()
            if id(parameter) in index
        ]
        self._modules = list(model.modules())
        self._norms = [module for module in self._modules if isinstance(module, _BatchNorm)]
        self.backward_is_linear = False
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

    def frozen_running_statistics(self) -> contextlib.AbstractContextManager[None]:
        """Let BatchNorm in training mode use batch statistics without moving its running ones (B7)."""
        return _set(self._norms, "track_running_stats", False)

    def running_statistics(self) -> contextlib.AbstractContextManager[None]:
        """Let BatchNorm use its running statistics, as in evaluation."""
        return _set(self._norms, "training", False)

    def training_mode(self) -> contextlib.AbstractContextManager[None]:
        """Put all modules into training mode, and afterwards each into the mode it was in."""
        return _set(self._modules, "training", True)

    @contextlib.contextmanager
    def unchanged_state(self, *, norms: bool = False) -> Iterator[None]:
        """Let passes inside leave no trace: buffers are stood in for by copies, and attributes of modules are put back.

        BatchNorm's buffers are left to the methods above, unless ``norms``. What an attribute holds is not copied: a list that the passes
        extend stays longer.
        """
        before: list[tuple[dict[str, Any], dict[str, Any]]] = []
        copies: dict[int, Tensor] = {}
        for module in self._modules if norms else self._stateful:
            attributes: list[dict[str, Any]] = [module.__dict__]
            if module._buffers and (norms or not isinstance(module, _BatchNorm)):
                attributes.append(module._buffers)
            for values in attributes:
                before.append((values, values.copy()))
                for name, value in values.items():
                    if value.__class__ is Tensor and not value.requires_grad:
                        # A copy, since a graph of an earlier pass may hold the tensor itself. Modules that share it share the copy.
                        values[name] = copies.setdefault(id(value), value.clone())
        try:
            yield
        finally:
            for values, old in before:
                for name in values.keys() - old.keys():
                    del values[name]
                values.update(old)


@contextlib.contextmanager
def _set(modules: Sequence[nn.Module], attribute: str, value: bool) -> Iterator[None]:
    """Give ``attribute`` of each module ``value``, and afterwards what it has now."""
    before = [getattr(module, attribute) for module in modules]
    try:
        for module in modules:
            setattr(module, attribute, value)
        yield
    finally:
        for module, old in zip(modules, before, strict=True):
            setattr(module, attribute, old)


def _stateless(module: nn.Module) -> bool:
    """Say whether a forward pass leaves a module as it is: one of PyTorch's own without buffers, BatchNorm's aside, and without hooks."""
    return (
        type(module).__module__.startswith("torch.nn.modules.")
        and (not module._buffers or isinstance(module, _BatchNorm))
        and not (module._forward_hooks or module._forward_pre_hooks or isinstance(module, nn.RNNBase))
    )
