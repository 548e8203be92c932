"""The derivative of a forward pass in a direction of its parameters, played back from a record of that very pass.

While a network computes f(theta), each operation leaves behind how it maps tangents: the convolution y = W * x leaves
(dx, dW) -> W * dx + dW * x, and so on. Played back in order, with a direction v for the parameters, the record yields
d/ds f(theta + s v) at s = 0. What the maps need (inputs of convolutions, BatchNorm's statistics, the signs of activations) is what
the backward pass has kept anyway, so nothing is computed twice and nothing more is held in memory: two forward passes' worth of
arithmetic instead of the three of a pass with dual numbers, and none of a second-order graph.

The maps of the operations of this project's networks are written out (:mod:`repro.engine.tangent_rules`). At any other operation the
record ends, and so it does at all that it does not see, which is known by outputs whose node of autograd's graph is not the noted one. The
derivative is then that of the backward pass (:mod:`repro.engine.lookahead`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import tree_leaves

from repro.engine.tangent_rules import RULES

#: The attribute under which a tensor of a record carries its record, its number there, and its node of autograd's graph.
_NOTE = "_linearization_slot"
_NO_NOTE = (None, None, None)


class _Operation(NamedTuple):
    inputs: tuple[int | None, ...]
    output: int
    tangent: Callable[..., Tensor | None]
    autocast: tuple[str, torch.dtype] | None


class Linearization(TorchFunctionMode):
    """Records the operations between ``parameters`` and what is computed inside ``with``; then called with a direction.

    Attributes:
        lost_at: the operation behind which the derivative cannot be followed, or ``None``. What PyTorch's Python functions do not
            see, such as a scripted module, an autograd function or a change through a view, is found by its outputs: they need a gradient
            and their node is not on record.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        super().__init__()
        self.lost_at: str | None = "a hook on a parameter" if any(parameter._backward_hooks for parameter in parameters) else None
        self._held = tuple(parameters)
        self._device = self._held[0].device.type
        self._leaves = {id(parameter): slot for slot, parameter in enumerate(self._held)}
        self._count = len(self._held)
        self._operations: list[_Operation] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and record it if a recorded tensor goes into it."""
        kwargs = kwargs or {}
        if self.lost_at is not None:
            return _run(func, args, kwargs)
        if not _concerns(args, kwargs) or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        if torch._C._autograd._top_saved_tensors_default_hooks(False) is not None:
            # A checkpoint runs the operations again, and they must then save what they have saved: no rule may stand in for them.
            self.lost_at = "torch.utils.checkpoint, or another hook on saved tensors"
            return _run(func, args, kwargs)
        rule = RULES.get(func)
        if rule is not None:
            # Before the operation: one in place gives its input, always the first, a new one.
            first, slot = (args[0], self.slot(args[0])) if args else (None, None)
            recorded = rule(*args, **kwargs)
            if recorded is not None:
                output, inputs, tangent = recorded
                sources = tuple([slot if value is first else self.slot(value) for value in inputs])
                # Not recorded where no input is, as an integer or a tensor of another graph.
                if any(source is not None for source in sources):
                    self._operations.append(_Operation(sources, self._new_slot(output), tangent, self._autocast()))
                return output
        outputs = _run(func, args, kwargs)
        if func is Tensor.register_hook:
            self.lost_at = "a hook on a gradient"
        # Shapes and what is detached leave nothing to follow; what hides deeper in an output is found by its node.
        elif any(isinstance(part, Tensor) and part.requires_grad for part in (outputs if isinstance(outputs, tuple | list) else [outputs])):
            self.lost_at = self.lost_at or resolve_name(func) or str(func)
        return outputs

    def slot(self, value: object) -> int | None:
        """Return the number under which a tensor is recorded, or ``None``: its tangent is zero."""
        if not isinstance(value, Tensor):
            return None
        slot = self._leaves.get(id(value))
        if slot is None and value.requires_grad:
            # Noted on the tensor, so that it vanishes with it: a number by id alone would outlive it.
            record, slot, node = getattr(value, _NOTE, _NO_NOTE)
            if record is not self or node is not value.grad_fn:
                self.lost_at = self.lost_at or f"{value.grad_fn.name() if value.grad_fn else 'a tensor that is no parameter'}"
                return None
        return slot

    def follows(self, output: Tensor) -> bool:
        """Say whether the derivative of ``output`` is on record."""
        return self.lost_at is None and self.slot(output) is not None

    def derivative(self, output: Tensor, direction: Sequence[Tensor]) -> Tensor:
        """Return d/ds output(theta + s * direction) at s = 0, of the shape of ``output``, whose derivative must be on record.

        ``direction`` has one tensor for each of the parameters. The record is used up: each map is dropped as soon as it is played.
        """
        goal = self.slot(output)
        tangents: dict[int | None, Tensor | None] = dict(enumerate(direction))
        last_use = {slot: index for index, operation in enumerate(self._operations) for slot in operation.inputs}
        with torch.no_grad():
            for index, (inputs, produced, tangent, autocast) in enumerate(self._operations):
                incoming = [tangents.get(slot) for slot in inputs]
                with contextlib.nullcontext() if autocast is None else torch.autocast(*autocast, cache_enabled=False):
                    result = tangent(*incoming)
                for slot in inputs:
                    if last_use[slot] == index and slot != goal:
                        tangents.pop(slot, None)
                if produced in last_use or produced == goal:
                    tangents[produced] = result
        self._operations.clear()
        found = tangents.get(goal)
        return torch.zeros_like(output) if found is None else found.to(output.dtype)

    def _autocast(self) -> tuple[str, torch.dtype] | None:
        """Return the number format that operations are cast to at present; the maps of their tangents are cast alike."""
        device = self._device
        return (device, torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else None

    def _new_slot(self, tensor: Tensor) -> int:
        """Note a new number on an output; an operation in place returns its input, which stands for the new value from here on."""
        self._count += 1
        setattr(tensor, _NOTE, (self, self._count, tensor.grad_fn))
        return self._count


#: cuDNN's kernels and the fused ones for these have no second derivative; PyTorch's plain ones do.
_FUSED = frozenset({torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu, F.scaled_dot_product_attention, F.multi_head_attention_forward})


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    if func not in _FUSED:
        return func(*args, **kwargs)
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with torch.backends.cudnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH):
        return func(*args, **kwargs)


def _concerns(args: Any, kwargs: Any) -> bool:
    """Say whether a recorded tensor may go into an operation: quick, since most operations of a small network are small."""
    for value in args if not kwargs else (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            if value.requires_grad:
                return True
        elif isinstance(value, (list, tuple, dict)) and any(isinstance(part, Tensor) for part in tree_leaves(value)):
            return True
    return False
