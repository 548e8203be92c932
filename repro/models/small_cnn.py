"""Convolutional networks for photographs on a CPU; ours, the small stand-ins for the networks of the paper."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from repro.config import registry
from repro.config.fields import setting
from repro.config.schema import ModelConfig
from repro.models.blocks import check_size

_STRIDES = 4


@dataclass
class SmallCNNConfig(ModelConfig):
    """Its size and its kind."""

    name: str = "small_cnn"
    width: int = setting(16, help="channels of the first convolution; the second has twice as many", at_least=1, at_most=1024)
    block: str = setting(
        "none",
        help="what follows the two convolutions: nothing; one more convolution; a residual block of two",
        choices=("none", "plain", "residual"),
    )
    batch_norm: bool = setting(True, help="BatchNorm after each convolution; without it, a bias in each")


class ResidualBlock(nn.Module):
    """ReLU(x + two convolutions of x), as in He et al. 2016."""

    def __init__(self, channels: int, *, batch_norm: bool) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            _unit(channels, channels, stride=1, batch_norm=batch_norm),
            *_unit(channels, channels, stride=1, batch_norm=batch_norm)[:-1],
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps (B, channels, H, W) of maps of that shape."""
        return F.relu(maps + self.residual(maps))


def _unit(inputs: int, outputs: int, *, stride: int, batch_norm: bool) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=not batch_norm)
    norm = [nn.BatchNorm2d(outputs)] if batch_norm else []
    return nn.Sequential(convolution, *norm, nn.ReLU(inplace=True))


@registry.model("small_cnn", config=SmallCNNConfig)
def build(config: SmallCNNConfig, *, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """Return the network, with PyTorch's default initial weights.

    Two 3x3 convolutions of stride 2, ``block`` on the maps that they leave, and one linear layer on all their positions. Strides come
    first, because a CPU pays for positions; the linear layer sees every position, so that few layers can memorise.

    Raises:
        UserError: images of ``image_shape`` (C, H, W) have fewer pixels on a side than the strides take.
    """
    check_size("small_cnn", image_shape, _STRIDES)
    channels, height, width = image_shape
    wide, batch_norm = 2 * config.width, config.batch_norm
    features = nn.Sequential(
        _unit(channels, config.width, stride=2, batch_norm=batch_norm), _unit(config.width, wide, stride=2, batch_norm=batch_norm)
    )
    if config.block == "plain":
        features.append(_unit(wide, wide, stride=1, batch_norm=batch_norm))
    elif config.block == "residual":
        features.append(ResidualBlock(wide, batch_norm=batch_norm))
    positions = math.ceil(height / _STRIDES) * math.ceil(width / _STRIDES)
    return nn.Sequential(OrderedDict(features=features, flat=nn.Flatten(), classifier=nn.Linear(wide * positions, num_classes)))
