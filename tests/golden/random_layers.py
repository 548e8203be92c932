"""Layers that draw random numbers, keep state, or do what a record of a pass may stumble over: one for each way of doing so."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from golden_device import DEVICE
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Lambda(nn.Module):
    """Computes ``function`` of its input, which may use the layers in ``inner``."""

    def __init__(self, function: Callable[..., Tensor], *inner: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.inner = nn.ModuleList(inner)

    def forward(self, features: Tensor) -> Tensor:
        return self.function(features, *self.inner)


class NoiseFunction(torch.autograd.Function):
    """Multiplies by noise of NumPy's global generator, and gradients by the same noise."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        noise = torch.from_numpy(np.random.uniform(size=tuple(features.shape))).to(features)
        ctx.save_for_backward(noise)
        return features * noise

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Tensor:
        (noise,) = ctx.saved_tensors
        return gradients[0] * noise


class NoisyGradient(torch.autograd.Function):
    """Draws in its backward pass."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        return features.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Tensor:
        return gradients[0] * (1.0 + torch.rand_like(gradients[0]))


class Hidden(torch.autograd.Function):
    """Computes its gradient outside of PyTorch, and says nothing about it."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        return 2.0 * features

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Tensor:
        return 2.0 * gradients[0].detach()


def sequence(features: Tensor) -> Tensor:
    """Return the maps (B, 6, 4, 4) as a sequence (B, 16, 6)."""
    return features.flatten(2).transpose(1, 2)


def maps(steps: Tensor) -> Tensor:
    return steps.transpose(1, 2).unflatten(2, (4, 4))


def attended(features: Tensor) -> Tensor:
    query = sequence(features).unflatten(2, (2, 3)).transpose(1, 2)
    return maps(F.scaled_dot_product_attention(query, query * query, query, dropout_p=0.2).transpose(1, 2).flatten(2))


def in_place(function: Callable[[Tensor], object]) -> Callable[[Tensor], Tensor]:
    """Change a copy and return the copy, whatever ``function`` returns."""

    def changed(features: Tensor) -> Tensor:
        copied = features * 1.0
        function(copied)
        return copied

    return changed


def some_are_set(features: Tensor) -> None:
    features[:, :2] = 3.0 * features[:, 2:4].clone()
    features[torch.rand_like(features) < 0.3] = 0.0


GENERATOR = torch.Generator(DEVICE)


def handed_over(features: Tensor) -> Tensor:
    return features * torch.bernoulli(torch.full_like(features, 0.7), generator=GENERATOR)


def hooked(features: Tensor) -> Tensor:
    scaled = features * 2.0
    if scaled.requires_grad:
        scaled.register_hook(lambda gradient: gradient * torch.rand_like(gradient))
    return scaled


def plain_dropout() -> nn.Module:
    return nn.Sequential(nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6), nn.AlphaDropout(0.4))


EXACT: dict[str, Callable[[], nn.Module]] = {
    "dropout in place": lambda: Lambda(in_place(lambda x: F.dropout(x, 0.4, inplace=True))),
    "alpha dropout": lambda: nn.AlphaDropout(0.4),
    "rrelu": lambda: nn.RReLU(),
    "gumbel softmax": lambda: Lambda(lambda x: F.gumbel_softmax(x, hard=True, dim=1) * x),
    "noise of a learned mean": lambda: Lambda(lambda x: x + torch.normal(x, 1.0) * torch.rand_like(x) * torch.bernoulli(x.sigmoid())),
    "an order drawn": lambda: Lambda(lambda x: x + x[torch.randperm(len(x), device=x.device)]),
    "a generator handed over": lambda: Lambda(handed_over),
    "NumPy's generator": lambda: Lambda(NoiseFunction.apply),
    "attention": lambda: Lambda(attended),
    "transformer": lambda: Lambda(lambda x, inner: maps(inner(sequence(x))), nn.TransformerEncoderLayer(6, 2, 8, 0.2, batch_first=True)),
    "LSTM": lambda: Lambda(lambda x, i: maps(i(sequence(x))[0]), nn.LSTM(6, 9, 2, dropout=0.3, batch_first=True, proj_size=6)),
    "checkpoint": lambda: Lambda(lambda x, inner: checkpoint(inner, x, use_reentrant=False), plain_dropout()),
    "autograd function that draws backwards": lambda: Lambda(NoisyGradient.apply),
    "hook that draws": lambda: Lambda(hooked),
    "elements set": lambda: Lambda(in_place(some_are_set)),
    "branch chosen by chance": lambda: Lambda(lambda x: torch.sin(x) if float(torch.rand(())) < 0.5 else x * x.mean()),
    "two kinds of dropout": lambda: nn.Sequential(nn.Dropout(0.3), nn.AlphaDropout(0.3), nn.Conv2d(6, 6, 1), nn.Dropout2d(0.3)),
    "instance norm with running statistics": lambda: nn.InstanceNorm2d(6, affine=True, track_running_stats=True),
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Conv2d(6, 6, 1)),
}

#: The same layer without the checkpoint: ``functional_call`` has put the parameters back before the checkpoint reads them again.
REFERENCE: dict[str, Callable[[], nn.Module]] = {"checkpoint": lambda: Lambda(lambda x, inner: inner(x), plain_dropout())}

#: Layers that PyTorch cannot differentiate twice.
REFUSED: dict[str, Callable[[], nn.Module]] = {
    "autograd function that hides it": lambda: Lambda(Hidden.apply),
    "reentrant checkpoint": lambda: Lambda(lambda x, inner: checkpoint(inner, x, use_reentrant=True), plain_dropout()),
}
