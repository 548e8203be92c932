"""How single operations map tangents: the rules of :mod:`repro.engine.linearize`.

A rule runs an operation as it was called and returns its output, its inputs, and the map of their tangents (``None``: zero) to that of
the output; or ``None``, without having run anything, where it does not know this form of a call. Parameters are named as in PyTorch, since
they may be passed by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

TangentMap = Callable[..., "Tensor | None"]
Recorded = tuple[Tensor, tuple[object, ...], TangentMap]

#: The rule of each function that PyTorch code calls.
RULES: dict[Any, Callable[..., Recorded | None]] = {}


def _rule(*functions: Any) -> Callable[[Callable[..., Recorded | None]], Callable[..., Recorded | None]]:
    def decorate(rule: Callable[..., Recorded | None]) -> Callable[..., Recorded | None]:
        RULES.update(dict.fromkeys(functions, rule))
        return rule

    return decorate


def _sum(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return first + second


@_rule(F.conv2d)
def _conv2d(input: Tensor, weight: Tensor, bias: Tensor | None = None, *settings: Any, **named: Any) -> Recorded:
    output = F.conv2d(input, weight, bias, *settings, **named)
    x, w = input.detach(), weight.detach()

    def tangent(dx: Tensor | None, dw: Tensor | None, db: Tensor | None) -> Tensor | None:
        if dw is None and db is not None:
            dw = torch.zeros_like(w)
        through_weight = None if dw is None else F.conv2d(x, dw, db, *settings, **named)
        return _sum(through_weight, None if dx is None else F.conv2d(dx, w, None, *settings, **named))

    return output, (input, weight, bias), tangent


@_rule(F.linear)
def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Recorded:
    output = F.linear(input, weight, bias)
    x, w = input.detach(), weight.detach()

    def tangent(dx: Tensor | None, dw: Tensor | None, db: Tensor | None) -> Tensor | None:
        if dw is None and db is not None:
            dw = torch.zeros_like(w)
        result = _sum(None if dx is None else F.linear(dx, w), None if dw is None else F.linear(x, dw))
        return _sum(result, db)

    return output, (input, weight, bias), tangent


@_rule(F.batch_norm)
def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Recorded | None:
    """With x_hat = (x - mean) / sigma over the batch, y = gamma x_hat + beta.

    The Jacobian of x_hat by x, (I - 1 1^T / n - x_hat x_hat^T / n) / sigma, is symmetric: the map of tangents is the map of gradients,
    for which there is one fast kernel.
    """
    if not training:
        return None
    output, mean, inverse_sigma = torch.native_batch_norm(input, weight, bias, running_mean, running_var, True, momentum, eps)
    x, mean, inverse_sigma = input.detach(), mean.detach(), inverse_sigma.detach()
    gamma = None if weight is None else weight.detach()

    def tangent(dx: Tensor | None, dgamma: Tensor | None, dbeta: Tensor | None) -> Tensor | None:
        result: Tensor | None = None
        if dx is not None:
            mask = [True, False, False]
            result = torch.ops.aten.native_batch_norm_backward(dx, x, gamma, None, None, mean, inverse_sigma, True, eps, mask)[0]
        if dgamma is None and dbeta is None:
            return result
        scale = torch.zeros_like(mean) if dgamma is None else dgamma * inverse_sigma
        shift = -scale * mean if dbeta is None else dbeta - scale * mean
        shape = (1, -1) + (1,) * (x.dim() - 2)
        scale, shift = scale.view(shape), shift.view(shape)
        if result is None:
            return torch.addcmul(shift, x, scale).to(x.dtype)
        # In place, where x may be bfloat16 and the others are not: on a GPU the kernels convert number by number.
        return result.add_(shift).addcmul_(x, scale)

    return output, (input, weight, bias), tangent


@_rule(F.relu, torch.relu, Tensor.relu)
def _relu(input: Tensor, inplace: bool = False) -> Recorded:
    output = F.relu(input, inplace=inplace)
    positive = output.detach()
    return output, (input,), lambda dx: None if dx is None else torch.ops.aten.threshold_backward(dx, positive, 0)


@_rule(F.leaky_relu)
def _leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Recorded | None:
    if negative_slope <= 0.0:
        return None
    output = F.leaky_relu(input, negative_slope, inplace=inplace)
    signed = output.detach()  # of the input's sign, and still there where the input is overwritten
    return output, (input,), lambda dx: None if dx is None else torch.ops.aten.leaky_relu_backward(dx, signed, negative_slope, True)


def _sum_of_two(function: Any) -> Callable[..., Recorded | None]:
    def rule(input: Any, other: Any, **named: Any) -> Recorded | None:
        if named or not (isinstance(input, Tensor) and isinstance(other, Tensor) and input.shape == other.shape):
            return None
        return function(input, other), (input, other), _sum

    return rule


_rule(Tensor.add, torch.add)(_sum_of_two(torch.add))
_rule(Tensor.add_, Tensor.__iadd__)(_sum_of_two(Tensor.add_))


def _linear_in_first(function: Any) -> Callable[..., Recorded]:
    """Return the rule of a function that is linear in its first argument and has no other tensors."""

    def rule(input: Tensor, *settings: Any, **named: Any) -> Recorded:
        return function(input, *settings, **named), (input,), lambda dx: None if dx is None else function(dx, *settings, **named)

    return rule


_LINEAR = (
    *(Tensor.float, Tensor.mean, Tensor.sum, Tensor.flatten, Tensor.reshape, Tensor.permute, Tensor.transpose),
    *(torch.mean, torch.sum, torch.flatten, torch.reshape, torch.permute, torch.transpose),
)
for _function in _LINEAR:
    _rule(_function)(_linear_in_first(_function))


@_rule(Tensor.view)
def _view(input: Tensor, *shape: Any) -> Recorded | None:
    if any(isinstance(size, torch.dtype) for size in shape):
        return None
    # A tangent need not lie in memory as its tensor does.
    return input.view(*shape), (input,), lambda dx: None if dx is None else dx.reshape(*shape)


@_rule(torch.bmm, Tensor.bmm)
def _bmm(input: Tensor, mat2: Tensor) -> Recorded:
    a, b = input.detach(), mat2.detach()

    def tangent(da: Tensor | None, db: Tensor | None) -> Tensor | None:
        return _sum(None if da is None else torch.bmm(da, b), None if db is None else torch.bmm(a, db))

    return torch.bmm(input, mat2), (input, mat2), tangent


@_rule(F.max_pool2d, torch.max_pool2d)
def _max_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Recorded | None:
    if return_indices or input.dim() != 4:
        return None
    output, indices = F.max_pool2d_with_indices(input, kernel_size, stride, padding, dilation, ceil_mode)

    def tangent(dx: Tensor | None) -> Tensor | None:
        return None if dx is None else dx.flatten(2).gather(2, indices.flatten(2)).view_as(indices)

    return output, (input,), tangent


@_rule(F.dropout)
def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Recorded | None:
    if inplace or p == 1.0:
        return None
    if not training or p == 0.0:
        return input.clone(), (input,), lambda dx: dx
    output, mask = torch.native_dropout(input, p, True)
    return output, (input,), lambda dx: None if dx is None else dx * mask * (1.0 / (1.0 - p))


@_rule(F.dropout2d)
def _dropout2d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Recorded | None:
    """With a mask drawn as PyTorch draws it."""
    if inplace or p == 1.0 or input.dim() != 4:
        return None
    if not training or p == 0.0:
        return input.clone(), (input,), lambda dx: dx
    kept = input.new_empty(*input.shape[:2], 1, 1).bernoulli_(1.0 - p).div_(1.0 - p)
    return input * kept, (input,), lambda dx: None if dx is None else dx * kept


@_rule(F.pad)
def _pad(input: Tensor, pad: Any, mode: str = "constant", value: float | None = None) -> Recorded | None:
    if mode != "constant":
        return None
    return F.pad(input, pad, mode, value), (input,), lambda dx: None if dx is None else F.pad(dx, pad)


@_rule(Tensor.__getitem__)
def _getitem(input: Tensor, index: Any) -> Recorded | None:
    if not all(isinstance(part, slice | int) for part in (index if isinstance(index, tuple) else (index,))):
        return None
    return input[index], (input,), lambda dx: None if dx is None else dx[index]


@_rule(F.log_softmax, torch.log_softmax)
def _log_softmax(input: Tensor, dim: int, *settings: Any, **named: Any) -> Recorded:
    output = F.log_softmax(input, dim, *settings, **named)
    log_probabilities = output.detach()

    def tangent(dx: Tensor | None) -> Tensor | None:
        if dx is None:
            return None
        dx = dx.to(log_probabilities.dtype)
        return dx - (log_probabilities.exp() * dx).sum(dim, keepdim=True)

    return output, (input,), tangent
