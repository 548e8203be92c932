"""A model with what every step asks it for: which parameters train, where its modules keep them, which modules normalise.

Found once, since on a small network looking through the modules costs as much as an operation. The model's modules and parameters must
stay the same objects for as long as this lives; their values may change.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd


class Network:
    """A model as the look-ahead sees it.

    Attributes:
        model: maps inputs (B, ...) to logits (B, K).
        names: of the parameters that need a gradient, each once.
        parameters: these parameters.
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
        self._drops = any(isinstance(module, _DropoutNd) for module in model.modules())

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

    def dropout_states(self) -> list[Tensor] | None:
        """Return the states of PyTorch's generators that the next forward pass of a model with dropout starts from, else ``None``.

        The directional derivative must see the masks of the forward pass that it differentiates.
        """
        if not self._drops:
            return None
        return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])]
