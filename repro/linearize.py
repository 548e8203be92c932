"""The derivative of a forward pass in a direction of its parameters, played back from a record of that very pass.

While a network computes f(theta), each operation leaves behind how it maps tangents: the convolution y = W * x leaves
(dx, dW) -> W * dx + dW * x, and so on. Played back in order, with a direction v for the parameters, the record yields
d/ds f(theta + s v) at s = 0. What the maps need (inputs of convolutions, BatchNorm's statistics, the signs of activations) is what
the backward pass has kept anyway, so nothing is computed twice and nothing more is held in memory: two forward passes' worth of
arithmetic instead of the three of a pass with dual numbers, and none of a second-order graph.

The maps of the operations that matter here are written out. Any other operation is differentiated by PyTorch's forward mode, alone.
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
from torch.utils._pytree import tree_flatten, tree_unflatten

#: Maps the tangents of an operation's inputs (``None``: zero) to that of its output.
TangentMap = Callable[..., "Tensor | None"]


#: The attribute under which a tensor of a record carries its number.
_NOTE = "_linearization_slot"


class _Operation(NamedTuple):
    inputs: tuple[int | None, ...]
    outputs: tuple[int | None, ...]
    tangent: Callable[..., Any]


class Linearization(TorchFunctionMode):
    """Records the operations between ``parameters`` and what is computed inside ``with``; then called with a direction.

    Attributes:
        lost_at: the operation behind which the derivative cannot be followed, or ``None``. Code that PyTorch's Python functions do not
            see, such as a scripted module, is found by its outputs: they need a gradient and have no record.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        super().__init__()
        self.lost_at: str | None = None
        self._held = tuple(parameters)
        self._leaves = {id(parameter): slot for slot, parameter in enumerate(self._held)}
        self._count = len(self._held)
        self._operations: list[_Operation] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and record it if a recorded tensor goes into it."""
        kwargs = kwargs or {}
        if self.lost_at is not None or not torch.is_grad_enabled() or not self._concerns(func, args, kwargs):
            return func(*args, **kwargs)
        rule = _RULES.get(func)
        if rule is not None:
            recorded = rule(*args, **kwargs)
            if recorded is not None:
                output, inputs, tangent = recorded
                # Slots of the inputs first: an operation in place gives its input a new one.
                self._record([self.slot(value) for value in inputs], (output,), tangent)
                return output
        return self._by_forward_mode(func, args, kwargs)

    def _concerns(self, func: Any, args: Any, kwargs: Any) -> bool:
        """Say whether a recorded tensor may go into an operation: quick, since most operations of a small network are small."""
        if func.__name__ in ("__get__", "size", "dim", "numel"):
            return False
        for value in args if not kwargs else (*args, *kwargs.values()):
            if isinstance(value, Tensor):
                if value.requires_grad and self.slot(value) is not None:
                    return True
            elif isinstance(value, (list, tuple, dict)) and any(isinstance(part, Tensor) for part in tree_flatten(value)[0]):
                return True
        return False

    def slot(self, value: object) -> int | None:
        """Return the number under which a tensor is recorded, or ``None``: its tangent is zero."""
        if not isinstance(value, Tensor):
            return None
        slot = self._leaves.get(id(value))
        if slot is None and value.requires_grad:
            # Noted on the tensor, so that it vanishes with it: a number by id alone would outlive it.
            record, slot = getattr(value, _NOTE, (None, None))
            if record is not self:
                self.lost_at = self.lost_at or "an operation that no Python function of PyTorch stands for"
                return None
        return slot

    def follows(self, output: Tensor) -> bool:
        """Say whether the derivative of ``output`` is on record."""
        return self.lost_at is None and self.slot(output) is not None

    def derivative(self, output: Tensor, direction: Sequence[Tensor]) -> Tensor:
        """Return d/ds output(theta + s * direction) at s = 0, of the shape of ``output``.

        ``direction`` has one tensor for each of the parameters. The record is used up: each map is dropped as soon as it is played.
        """
        goal = self.slot(output)
        assert goal is not None
        assert self.lost_at is None
        tangents: dict[int | None, Tensor | None] = dict(zip(self._leaves.values(), direction, strict=True))
        last_use = {slot: index for index, operation in enumerate(self._operations) for slot in operation.inputs}
        with torch.no_grad():
            for index, operation in enumerate(self._operations):
                results = operation.tangent(*(tangents.get(slot) for slot in operation.inputs))
                for slot in set(operation.inputs):
                    if last_use[slot] == index and slot != goal:
                        tangents.pop(slot, None)
                for slot, result in zip(operation.outputs, results if isinstance(results, tuple) else (results,), strict=True):
                    if slot in last_use or slot == goal:
                        tangents[slot] = result
        self._operations.clear()
        tangent = tangents.get(goal)
        return torch.zeros_like(output) if tangent is None else tangent.to(output.dtype)

    def _new_slot(self, tensor: Tensor) -> int:
        self._count += 1
        setattr(tensor, _NOTE, (self, self._count))
        return self._count

    def _record(self, sources: Sequence[int | None], outputs: Sequence[object], tangent: Callable[..., Any]) -> None:
        # An operation in place returns its input: from here on the tensor stands for the new value.
        slots = tuple(self._new_slot(value) if isinstance(value, Tensor) and value.requires_grad else None for value in outputs)
        self._operations.append(_Operation(tuple(sources), slots, tangent))

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
        outputs = func(*args, **kwargs)
        if func in _RANDOM:
            self.lost_at = f"{resolve_name(func) or func}, which draws random numbers"
            return outputs
        found, _ = tree_flatten(outputs)
        if not any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in found):
            return outputs

        def tangent(*incoming: Tensor | None) -> tuple[Tensor | None, ...]:
            changed = [leaf for leaf, version in zip(kept, versions, strict=True) if isinstance(leaf, Tensor) and leaf._version != version]
            if changed:
                raise RuntimeError(f"an input of {resolve_name(func) or func} was changed in place before its derivative was taken")
            load_forward_mode()
            with forward_ad.dual_level():
                duals = list(kept)
                for index, value in zip(tracked, incoming, strict=True):
                    if value is not None:
                        duals[index] = forward_ad.make_dual(kept[index].clone() if in_place else kept[index], value.to(kept[index].dtype))  # type: ignore[no-untyped-call]
                again_args, again_kwargs = tree_unflatten(duals, structure)
                results, _ = tree_flatten(func(*again_args, **again_kwargs))
                return tuple(forward_ad.unpack_dual(leaf).tangent if isinstance(leaf, Tensor) else None for leaf in results)  # type: ignore[no-untyped-call]

        self._record(sources, found, tangent)
        return outputs


#: Operations that repeated would draw other numbers.
_RANDOM = frozenset(
    {F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout, F.rrelu, torch.rrelu, torch.dropout, Tensor.bernoulli}
    | {F.gumbel_softmax, F.fractional_max_pool2d, torch.bernoulli, torch.native_dropout, torch.alpha_dropout, torch.feature_dropout}
)


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


# -- rules: each runs an operation and returns its output, its inputs, and the map of their tangents; or None, to leave it alone -------

_Recorded = tuple[Tensor, tuple[object, ...], TangentMap]
_RULES: dict[Any, Callable[..., _Recorded | None]] = {}


def _rule(*functions: Any) -> Callable[[Callable[..., _Recorded | None]], Callable[..., _Recorded | None]]:
    def decorate(rule: Callable[..., _Recorded | None]) -> Callable[..., _Recorded | None]:
        _RULES.update(dict.fromkeys(functions, rule))
        return rule

    return decorate


def _sum(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return first + second


@_rule(F.conv2d)
def _conv2d(input: Tensor, weight: Tensor, bias: Tensor | None = None, *settings: Any, **named: Any) -> _Recorded:  # noqa: A002
    output = F.conv2d(input, weight, bias, *settings, **named)
    x, w = input.detach(), weight.detach()

    def tangent(dx: Tensor | None, dw: Tensor | None, db: Tensor | None) -> Tensor | None:
        through_weight = None if dw is None else F.conv2d(x, dw, db, *settings, **named)
        if dw is None and db is not None:
            through_weight = db.view(1, -1, 1, 1).expand_as(output_like)
        return _sum(through_weight, None if dx is None else F.conv2d(dx, w, None, *settings, **named))

    output_like = output.detach()
    return output, (input, weight, bias), tangent


@_rule(F.linear)
def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> _Recorded:  # noqa: A002
    output = F.linear(input, weight, bias)
    x, w = input.detach(), weight.detach()

    def tangent(dx: Tensor | None, dw: Tensor | None, db: Tensor | None) -> Tensor | None:
        result = None if dx is None else F.linear(dx, w)
        if dw is not None:
            result = _sum(result, F.linear(x, dw))
        return result if db is None else (db.expand(output_shape) if result is None else result + db)

    output_shape = output.shape
    return output, (input, weight, bias), tangent


@_rule(F.batch_norm)
def _batch_norm(
    input: Tensor,  # noqa: A002
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> _Recorded | None:
    """With x_hat = (x - mean) / sigma over the batch, y = gamma x_hat + beta.

    The Jacobian of x_hat by x, (I - 1 1^T / n - x_hat x_hat^T / n) / sigma, is symmetric: the map of tangents is the map of gradients,
    for which there is one fast kernel.
    """
    if not training or weight is None or bias is None:
        return None
    output, mean, inverse_sigma = torch.native_batch_norm(input, weight, bias, running_mean, running_var, True, momentum, eps)
    x, gamma, mean, inverse_sigma = input.detach(), weight.detach(), mean.detach(), inverse_sigma.detach()

    def tangent(dx: Tensor | None, dgamma: Tensor | None, dbeta: Tensor | None) -> Tensor | None:
        result: Tensor | None = None
        if dx is not None:
            mask = [True, False, False]
            result = torch.ops.aten.native_batch_norm_backward(dx, x, gamma, None, None, mean, inverse_sigma, True, eps, mask)[0]
        if dgamma is None and dbeta is None:
            return result
        scale = torch.zeros_like(gamma) if dgamma is None else dgamma * inverse_sigma
        shift = -scale * mean if dbeta is None else dbeta - scale * mean
        shape = (1, -1) + (1,) * (x.dim() - 2)
        scale, shift = scale.view(shape), shift.view(shape)
        if result is None:
            return x * scale + shift
        if x.dtype == scale.dtype:
            return result.add_(shift).addcmul_(x, scale)
        return (result + x * scale + shift).to(x.dtype)

    return output, (input, weight, bias), tangent


@_rule(F.relu, torch.relu, Tensor.relu)
def _relu(input: Tensor, inplace: bool = False) -> _Recorded:  # noqa: A002
    output = F.relu(input, inplace=inplace)
    positive = output.detach()
    return output, (input,), lambda dx: None if dx is None else torch.ops.aten.threshold_backward(dx, positive, 0)


@_rule(Tensor.add, torch.add)
def _add(input: Any, other: Any, **named: Any) -> _Recorded | None:  # noqa: A002
    return (input + other, (input, other), _sum) if _plain_sum(input, other, named) else None


@_rule(Tensor.add_)
def _add_in_place(input: Any, other: Any, **named: Any) -> _Recorded | None:  # noqa: A002
    return (input.add_(other), (input, other), _sum) if _plain_sum(input, other, named) else None


def _plain_sum(first: object, second: object, named: dict[str, Any]) -> bool:
    return not named and isinstance(first, Tensor) and isinstance(second, Tensor) and first.shape == second.shape


def _linear_in_first(function: Any) -> Callable[..., _Recorded]:
    """Return the rule of a function that is linear in its first argument and has no other tensors."""

    def rule(input: Tensor, *settings: Any, **named: Any) -> _Recorded:  # noqa: A002
        return function(input, *settings, **named), (input,), lambda dx: None if dx is None else function(dx, *settings, **named)

    return rule


for _function in (Tensor.mean, Tensor.sum, Tensor.flatten, Tensor.reshape, Tensor.permute, Tensor.transpose, Tensor.contiguous):
    _rule(_function)(_linear_in_first(_function))
for _function in (torch.mean, torch.sum, torch.flatten, torch.reshape, torch.permute, torch.transpose):
    _rule(_function)(_linear_in_first(_function))


@_rule(torch.bmm, Tensor.bmm)
def _bmm(input: Tensor, mat2: Tensor) -> _Recorded:  # noqa: A002
    a, b = input.detach(), mat2.detach()

    def tangent(da: Tensor | None, db: Tensor | None) -> Tensor | None:
        return _sum(None if da is None else torch.bmm(da, b), None if db is None else torch.bmm(a, db))

    return torch.bmm(input, mat2), (input, mat2), tangent


@_rule(F.max_pool2d, torch.max_pool2d)
def _max_pool2d(
    input: Tensor,  # noqa: A002
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> _Recorded | None:
    if return_indices or input.dim() != 4:
        return None
    output, indices = F.max_pool2d_with_indices(input, kernel_size, stride, padding, dilation, ceil_mode)

    def tangent(dx: Tensor | None) -> Tensor | None:
        return None if dx is None else dx.flatten(2).gather(2, indices.flatten(2)).view_as(indices)

    return output, (input,), tangent


@_rule(F.dropout)
def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> _Recorded | None:  # noqa: A002
    if not training or p == 0.0:
        return input.clone(), (input,), lambda dx: dx
    output, mask = torch.native_dropout(input, p, True)
    return output, (input,), lambda dx: None if dx is None else dx * mask * (1.0 / (1.0 - p) if p < 1.0 else 0.0)


@_rule(F.log_softmax, torch.log_softmax)
def _log_softmax(input: Tensor, dim: int, *settings: Any, **named: Any) -> _Recorded:  # noqa: A002
    output = F.log_softmax(input, dim, *settings, **named)
    log_probabilities = output.detach()

    def tangent(dx: Tensor | None) -> Tensor | None:
        if dx is None:
            return None
        dx = dx.to(log_probabilities.dtype)
        return dx - (log_probabilities.exp() * dx).sum(dim, keepdim=True)

    return output, (input,), tangent
