"""Layers that draw random numbers, keep state, or do what a record of a pass may stumble over."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
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
    """Multiplies by noise that it draws, and gradients by the same noise."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        noise = 1.0 + torch.randn_like(features)
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


class OnceFunction(NoiseFunction):
    """Forbids a second derivative."""

    backward = staticmethod(torch.autograd.function.once_differentiable(NoiseFunction.backward))


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


def attended(features: Tensor, **settings: Any) -> Tensor:
    query = sequence(features).unflatten(2, (2, 3)).transpose(1, 2)
    return maps(F.scaled_dot_product_attention(query, query * query, query, **settings).transpose(1, 2).flatten(2))


def filled(features: Tensor, fill: Callable[[Tensor], object]) -> Tensor:
    mask = torch.empty_like(features)
    fill(mask)
    return features * mask


def in_place(function: Callable[[Tensor], object]) -> Callable[[Tensor], Tensor]:
    """Change a copy and return the copy, whatever ``function`` returns."""

    def changed(features: Tensor) -> Tensor:
        copied = features * 1.0
        function(copied)
        return copied

    return changed


def through_a_view(features: Tensor) -> Tensor:
    copied = features * 1.0
    copied[:, :3].mul_(torch.rand_like(copied[:, :3]))
    return copied


def some_are_set(features: Tensor) -> Tensor:
    copied = features * 1.0
    copied[:, :2] = 3.0 * features[:, 2:4]
    copied[torch.rand_like(copied) < 0.3] = 0.0
    return copied


def branching(features: Tensor) -> Tensor:
    return torch.sin(features) if float(torch.rand(())) < 0.5 else features * features.mean()


def explicit(features: Tensor) -> Tensor:
    generator = torch.Generator(features.device).manual_seed(int(torch.randint(1 << 30, (1,))))
    return (
        features
        * torch.bernoulli(torch.full_like(features, 0.7), generator=generator)
        * torch.rand(features.shape, generator=generator, dtype=features.dtype, device=features.device)
    )


GENERATOR = torch.Generator(DEVICE)


def shared_generator(features: Tensor) -> Tensor:
    return features * torch.bernoulli(torch.full_like(features, 0.7), generator=GENERATOR)


class NumpyNoise(NoiseFunction):
    """Multiplies by noise of NumPy's global generator."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        noise = torch.from_numpy(np.random.uniform(size=tuple(features.shape))).to(features)
        ctx.save_for_backward(noise)
        return features * noise


def stochastic_depth(mode: str) -> nn.Module:
    ops = pytest.importorskip("torchvision.ops")
    return Lambda(lambda x, inner: x + ops.stochastic_depth(inner(x), 0.4, mode), nn.Conv2d(6, 6, 1))


def drop_block(size: int) -> nn.Module:
    return pytest.importorskip("torchvision.ops").DropBlock2d(0.3, size)


def recurrent(kind: type[nn.RNNBase], **settings: Any) -> nn.Module:
    return Lambda(lambda x, inner: maps(inner(sequence(x))[0]), kind(6, 6, 2, dropout=0.3, batch_first=True, **settings))


def checkpointed(*layers: nn.Module, reentrant: bool = False) -> nn.Module:
    return Lambda(lambda x, inner: checkpoint(inner, x, use_reentrant=reentrant), nn.Sequential(*layers))


def encoder(**settings: Any) -> nn.Module:
    return Lambda(lambda x, inner: maps(inner(sequence(x))), nn.TransformerEncoderLayer(6, 2, 8, batch_first=True, **settings))


def decoder() -> nn.Module:
    return Lambda(lambda x, inner: maps(inner(sequence(x), sequence(x * x))), nn.TransformerDecoderLayer(6, 2, 8, 0.2, batch_first=True))


def attention(**settings: Any) -> nn.Module:
    return Lambda(
        lambda x, inner: maps(inner(sequence(x), sequence(x), sequence(x), **settings)[0]),
        nn.MultiheadAttention(6, 2, 0.2, batch_first=True),
    )


def hooked(hook: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def run(features: Tensor) -> Tensor:
        scaled = features * 2.0
        if scaled.requires_grad:
            scaled.register_hook(hook)
        return scaled

    return run


#: A layer for each thing of PyTorch that draws random numbers, and for what else a record of a pass may meet.
EXACT: dict[str, Callable[[], nn.Module]] = {
    "F.dropout": lambda: Lambda(lambda x: F.dropout(x, 0.4)),
    "F.dropout, in place": lambda: Lambda(in_place(lambda x: F.dropout(x, 0.4, inplace=True))),
    "torch.dropout": lambda: Lambda(lambda x: torch.dropout(x, 0.4, True)),
    "torch.dropout_": lambda: Lambda(in_place(lambda x: torch.dropout_(x, 0.4, True))),
    "torch.native_dropout": lambda: Lambda(lambda x: torch.native_dropout(x, 0.4, True)[0]),
    "F.dropout1d": lambda: Lambda(lambda x: F.dropout1d(x.flatten(2), 0.4).view_as(x)),
    "F.dropout2d": lambda: Lambda(lambda x: F.dropout2d(x, 0.4)),
    "F.dropout2d, in place": lambda: Lambda(in_place(lambda x: F.dropout2d(x, 0.4, inplace=True))),
    "F.dropout3d": lambda: Lambda(lambda x: F.dropout3d(x.unsqueeze(4), 0.4).squeeze(4)),
    "F.alpha_dropout": lambda: Lambda(lambda x: F.alpha_dropout(x, 0.4, training=True)),
    "F.alpha_dropout, in place": lambda: Lambda(in_place(lambda x: F.alpha_dropout(x, 0.4, training=True, inplace=True))),
    "F.feature_alpha_dropout": lambda: Lambda(lambda x: F.feature_alpha_dropout(x, 0.4, training=True)),
    "torch.feature_dropout": lambda: Lambda(lambda x: torch.feature_dropout(x, 0.4, True)),
    "F.rrelu": lambda: Lambda(lambda x: F.rrelu(x, training=True)),
    "F.rrelu, in place": lambda: Lambda(in_place(lambda x: F.rrelu(x, training=True, inplace=True))),
    "F.gumbel_softmax": lambda: Lambda(lambda x: F.gumbel_softmax(x, dim=1)),
    "F.gumbel_softmax, hard": lambda: Lambda(lambda x: F.gumbel_softmax(x, hard=True, dim=1) * x),
    "F.fractional_max_pool2d": lambda: Lambda(lambda x: F.fractional_max_pool2d(x, 2, output_size=3)),
    "F.fractional_max_pool3d": lambda: Lambda(
        lambda x: F.pad(F.fractional_max_pool3d(x.unsqueeze(1), 2, output_size=(4, 2, 2))[:, 0], (0, 0, 0, 0, 1, 1))
    ),
    "noise added": lambda: Lambda(lambda x: x + torch.randn_like(x)),
    "noise multiplied": lambda: Lambda(lambda x: x * torch.rand_like(x)),
    "noise added, torch.normal": lambda: Lambda(lambda x: x + torch.normal(0.0, 1.0, x.shape, dtype=x.dtype, device=x.device)),
    "noise of a learned mean, torch.normal": lambda: Lambda(lambda x: x + torch.normal(x, 1.0)),
    "noise, reparametrised": lambda: Lambda(lambda x: torch.distributions.Normal(x, 0.1 + x * x).rsample()),
    "torch.bernoulli": lambda: Lambda(lambda x: x * torch.bernoulli(torch.sigmoid(x))),
    "Tensor.bernoulli": lambda: Lambda(lambda x: x * x.sigmoid().bernoulli()),
    "Tensor.bernoulli_": lambda: Lambda(lambda x: filled(x, lambda mask: mask.bernoulli_(0.6))),
    "Tensor.bernoulli_ of the features": lambda: Lambda(lambda x: x + in_place(lambda y: y.bernoulli_(0.6))(x)),
    "Tensor.uniform_": lambda: Lambda(lambda x: filled(x, lambda mask: mask.uniform_())),
    "Tensor.normal_": lambda: Lambda(lambda x: filled(x, lambda mask: mask.normal_())),
    "Tensor.exponential_": lambda: Lambda(lambda x: filled(x, lambda mask: mask.exponential_())),
    "Tensor.cauchy_, log_normal_, geometric_": lambda: Lambda(lambda x: filled(x, lambda m: m.cauchy_().log_normal_().geometric_(0.5))),
    "torch.poisson": lambda: Lambda(lambda x: x * torch.poisson(x.detach().abs() + 1.0)),
    "torch.multinomial": lambda: Lambda(lambda x: x[:, torch.multinomial(torch.ones(6, device=x.device), 6)]),
    "torch.randperm": lambda: Lambda(lambda x: x + x[torch.randperm(len(x), device=x.device)]),
    "torch.randint": lambda: Lambda(lambda x: x.roll(int(torch.randint(4, (1,))), 2)),
    "a generator handed over": lambda: Lambda(explicit),
    "a generator that lives on": lambda: Lambda(shared_generator),
    "NumPy's generator": lambda: Lambda(NumpyNoise.apply),
    "F.scaled_dot_product_attention": lambda: Lambda(lambda x: attended(x, dropout_p=0.2)),
    "F.scaled_dot_product_attention, no dropout": lambda: Lambda(attended),
    "nn.MultiheadAttention": attention,
    "nn.MultiheadAttention, no weights": lambda: attention(need_weights=False),
    "nn.TransformerEncoderLayer": lambda: encoder(dropout=0.2),
    "nn.TransformerEncoderLayer, gelu, norm first": lambda: encoder(dropout=0.2, activation="gelu", norm_first=True),
    "nn.TransformerEncoderLayer, no dropout": lambda: encoder(dropout=0.0),
    "nn.TransformerDecoderLayer": decoder,
    "nn.RNN": lambda: recurrent(nn.RNN),
    "nn.GRU": lambda: recurrent(nn.GRU),
    "nn.LSTM": lambda: recurrent(nn.LSTM),
    "nn.LSTM, projected": lambda: Lambda(
        lambda x, i: maps(i(sequence(x))[0]), nn.LSTM(6, 9, 2, dropout=0.3, batch_first=True, proj_size=6)
    ),
    "stochastic depth, batch": lambda: stochastic_depth("batch"),
    "stochastic depth, row": lambda: stochastic_depth("row"),
    "DropBlock2d": lambda: drop_block(3),
    "checkpoint of dropout": lambda: checkpointed(nn.Conv2d(6, 6, 1), nn.Dropout(0.4), nn.Tanh()),
    "checkpoint of alpha dropout and BatchNorm": lambda: checkpointed(nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6), nn.AlphaDropout(0.4)),
    "autograd function that draws": lambda: Lambda(NoiseFunction.apply),
    "autograd function that draws in its backward pass": lambda: Lambda(NoisyGradient.apply),
    "hook that scales gradients": lambda: Lambda(hooked(lambda g: 0.3 * g)),
    "hook that draws": lambda: Lambda(hooked(lambda g: g * torch.rand_like(g))),
    "changed through a view": lambda: Lambda(through_a_view),
    "elements set": lambda: Lambda(some_are_set),
    "branch chosen by chance": lambda: Lambda(branching),
    "branch chosen by the data": lambda: Lambda(lambda x: torch.sin(x) if float(x.detach().mean()) > 0.01 else x * x),
    "two kinds of dropout": lambda: nn.Sequential(nn.Dropout(0.3), nn.AlphaDropout(0.3), nn.Conv2d(6, 6, 1), nn.Dropout2d(0.3)),
    "instance norm with running statistics": lambda: nn.InstanceNorm2d(6, affine=True, track_running_stats=True),
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Conv2d(6, 6, 1)),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(6, 6, 1)),
    "orthogonal": lambda: nn.utils.parametrizations.orthogonal(nn.Conv2d(6, 6, 1)),
}

#: The same layers without the checkpoint: ``functional_call`` has put the parameters back before the checkpoint reads them again.
REFERENCE: dict[str, Callable[[], nn.Module]] = {
    "checkpoint of dropout": lambda: Lambda(lambda x, i: i(x), nn.Sequential(nn.Conv2d(6, 6, 1), nn.Dropout(0.4), nn.Tanh())),
    "checkpoint of alpha dropout and BatchNorm": lambda: Lambda(
        lambda x, i: i(x), nn.Sequential(nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6), nn.AlphaDropout(0.4))
    ),
}

#: A layer that PyTorch cannot differentiate twice, and a word of the message that refuses it.
REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "autograd function that forbids it": (lambda: Lambda(OnceFunction.apply), "OnceFunctionBackward"),
    "autograd function that hides it": (lambda: Lambda(Hidden.apply), "HiddenBackward"),
    "reentrant checkpoint": (lambda: checkpointed(nn.Conv2d(6, 6, 1), nn.Dropout(0.4), reentrant=True), "CheckpointFunctionBackward"),
}
