"""The derivative of a forward pass in a direction of its parameters, played back from a record of that very pass.

While a network computes f(theta), each operation leaves behind how it maps tangents: the convolution y = W * x leaves
(dx, dW) -> W * dx + dW * x, and so on. Played back in order, with a direction v for the parameters, the record yields
d/ds f(theta + s v) at s = 0. What the maps need (inputs of convolutions, BatchNorm's statistics, the signs of activations) is what
the backward pass has kept anyway, so nothing is computed twice and nothing more is held in memory: two forward passes' worth of
arithmetic instead of the three of a pass with dual numbers, and none of a second-order graph.

The maps of the operations that matter here are written out. Any other operation is differentiated by PyTorch's forward mode, alone, which
repeats it. So an operation that would not repeat itself, because it draws random numbers or changes what it was given, ends the
record, and so does all that the record does not see: it is known by outputs whose node of autograd's graph is not the noted one. The
derivative is then that of the backward pass (:mod:`repro.lookahead`), which repeats nothing.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from repro.tangent_rules import RULES

#: The attribute under which a tensor of a record carries its record, its number there, and its node of autograd's graph.
_NOTE = "_linearization_slot"
_NO_NOTE = (None, None, None)


class NoTangentError(RuntimeError):
    """An operation on record cannot be repeated on dual numbers."""


class _Operation(NamedTuple):
    inputs: tuple[int | None, ...]
    outputs: tuple[int | None, ...]
    tangent: Callable[..., Any]
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
        if func.__name__ in _QUESTIONS:
            answer = func(*args, **kwargs)
            if not isinstance(answer, Tensor):
                return answer
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
                    self._record(sources, (output,), tangent)
                return output
        return self._by_forward_mode(func, args, kwargs)

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
        """Return d/ds output(theta + s * direction) at s = 0, of the shape of ``output``.

        ``direction`` has one tensor for each of the parameters. The record is used up: each map is dropped as soon as it is played.

        Raises:
            NoTangentError: PyTorch has no forward mode for an operation without a rule, or an input of it was changed since.
        """
        goal = self.slot(output)
        assert goal is not None
        assert self.lost_at is None
        tangents: dict[int | None, Tensor | None] = dict(zip(self._leaves.values(), direction, strict=True))
        last_use = {slot: index for index, operation in enumerate(self._operations) for slot in operation.inputs}
        with torch.no_grad():
            for index, operation in enumerate(self._operations):
                incoming = [tangents.get(slot) for slot in operation.inputs]
                if operation.autocast is None:
                    results = operation.tangent(*incoming)
                else:
                    with torch.autocast(operation.autocast[0], dtype=operation.autocast[1], cache_enabled=False):
                        results = operation.tangent(*incoming)
                for slot in set(operation.inputs):
                    if last_use[slot] == index and slot != goal:
                        tangents.pop(slot, None)
                for slot, result in zip(operation.outputs, results if isinstance(results, tuple) else (results,), strict=True):
                    if slot in last_use or slot == goal:
                        tangents[slot] = result
        self._operations.clear()
        tangent = tangents.get(goal)
        return torch.zeros_like(output) if tangent is None else tangent.to(output.dtype)

    def _autocast(self) -> tuple[str, torch.dtype] | None:
        """Return the number format that operations are cast to at present; the maps of their tangents are cast alike."""
        device = self._device
        return (device, torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else None

    def _new_slot(self, tensor: Tensor) -> int:
        self._count += 1
        setattr(tensor, _NOTE, (self, self._count, tensor.grad_fn))
        return self._count

    def _record(self, sources: Sequence[int | None], outputs: Sequence[object], tangent: Callable[..., Any]) -> None:
        # An operation in place returns its input: from here on the tensor stands for the new value.
        slots = tuple([self._new_slot(value) if isinstance(value, Tensor) and value.requires_grad else None for value in outputs])
        self._operations.append(_Operation(tuple(sources), slots, tangent, self._autocast()))

    def _by_forward_mode(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run an operation without a rule; its map repeats it on dual numbers."""
        leaves, structure = tree_flatten((args, kwargs))
        tracked = [index for index, leaf in enumerate(leaves) if self.slot(leaf) is not None]
        if not tracked:
            return func(*args, **kwargs)
        in_place = _changes_its_input(func, kwargs)
        kept = [leaf.detach().clone() if in_place and isinstance(leaf, Tensor) else _detached(leaf) for leaf in leaves]
        versions = [leaf._version if isinstance(leaf, Tensor) else None for leaf in kept]
        sources = [self.slot(leaves[index]) for index in tracked]
        with _Draws() as draws:
            outputs = _run(func, args, kwargs)
        if func is Tensor.register_hook:
            self.lost_at = "a hook on a gradient"
        found, _ = tree_flatten(outputs)
        if not any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in found):
            return outputs
        name = resolve_name(func) or str(func)

        def changed() -> bool:
            return any(isinstance(leaf, Tensor) and leaf._version != version for leaf, version in zip(kept, versions, strict=True))

        if draws.seen or changed() or func in _MOVES_STATISTICS:
            self.lost_at = f"{name}, which {'draws random numbers' if draws.seen else 'changes its arguments'}"
            return outputs

        def tangent(*incoming: Tensor | None) -> tuple[Tensor | None, ...]:
            if changed():
                raise NoTangentError(f"an input of {name} was changed in place before its derivative was taken")
            load_forward_mode()
            with forward_ad.dual_level():
                duals = list(kept)
                for index, value in zip(tracked, incoming, strict=True):
                    if value is not None:
                        duals[index] = forward_ad.make_dual(kept[index].clone() if in_place else kept[index], value.to(kept[index].dtype))  # type: ignore[no-untyped-call]
                again_args, again_kwargs = tree_unflatten(duals, structure)
                try:
                    results, _ = tree_flatten(_run(func, again_args, again_kwargs))
                except NotImplementedError as error:
                    raise NoTangentError(f"PyTorch has no forward mode for {name}") from error
                return tuple(forward_ad.unpack_dual(leaf).tangent if isinstance(leaf, Tensor) else None for leaf in results)  # type: ignore[no-untyped-call]

        self._record(sources, found, tangent)
        return outputs


#: Most of these ask for a number or a shape; x.T is a ``__get__`` too.
_QUESTIONS = ("__get__", "__len__", "size", "dim", "numel")

#: These may change running statistics, which PyTorch does not count as a change; ``F.batch_norm`` has a rule where it does.
_MOVES_STATISTICS = frozenset({torch.batch_norm, torch.native_batch_norm})

#: cuDNN's kernels and the fused ones for these have neither forward mode nor a second derivative; PyTorch's plain ones have both.
_FUSED = frozenset({torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu, F.scaled_dot_product_attention, F.multi_head_attention_forward})


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    if func not in _FUSED:
        return func(*args, **kwargs)
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with torch.backends.cudnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH):
        return func(*args, **kwargs)


class _Draws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notices operations that draw random numbers, from whichever generator: PyTorch marks them. Asks no generator, so nothing waits."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen = self.seen or torch.Tag.nondeterministic_seeded in func.tags
        return func(*args, **(kwargs or {}))


def _concerns(args: Any, kwargs: Any) -> bool:
    """Say whether a recorded tensor may go into an operation: quick, since most operations of a small network are small."""
    for value in args if not kwargs else (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            if value.requires_grad:
                return True
        elif isinstance(value, (list, tuple, dict)) and any(isinstance(part, Tensor) for part in tree_flatten(value)[0]):
            return True
    return False


def _detached(leaf: object) -> Any:
    return leaf.detach() if isinstance(leaf, Tensor) else leaf


def _changes_its_input(func: Any, kwargs: dict[str, Any]) -> bool:
    name = getattr(func, "__name__", "")
    # __iadd__ and its kind; mul_ and its kind; relu(x, inplace=True); torch.add(..., out=x).
    return bool(
        (name.startswith("__i") and name.endswith("__")) or (name.endswith("_") and not name.endswith("__")) or kwargs.get("inplace")
    ) or (kwargs.get("out") is not None)


@functools.cache
def load_forward_mode() -> None:
    """Make PyTorch load its forward-mode rules once, without the deprecation warning about its own code that this sets off."""
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore")
        forward_ad.make_dual(torch.zeros(()), torch.zeros(()))  # type: ignore[no-untyped-call]
