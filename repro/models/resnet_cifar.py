"""ResNet of depth 6n + 2 for 32x32 images (He et al. 2016, section 4.2): ResNet-20, 32, 44, 56, 110."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from repro.config import registry
from repro.config.fields import setting
from repro.config.schema import ModelConfig
from repro.models.blocks import blocks_per_stage, classifier, convolution, stages, stem


@dataclass
class ResNetCifarConfig(ModelConfig):
    """Its size."""

    name: str = "resnet_cifar"
    depth: int = setting(32, help="layers with weights, 6n + 2", at_least=8, at_most=2000)
    width: int = setting(16, help="channels of the first stage; the next ones have 2 and 4 times as many", at_least=1, at_most=1024)


class Block(nn.Module):
    """ReLU(x + residual(x)), with two convolutions and their BatchNorm as residual."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            convolution(inputs, outputs, stride=stride),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            convolution(outputs, outputs),
            nn.BatchNorm2d(outputs),
        )
        self._stride = stride
        self._new_channels = outputs - inputs

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps (B, outputs, H / stride, W / stride) of maps (B, inputs, H, W)."""
        shortcut = maps
        if self._stride != 1:
            shortcut = shortcut[:, :, :: self._stride, :: self._stride]
        if self._new_channels:
            shortcut = F.pad(shortcut, (0, 0, 0, 0, 0, self._new_channels))
        return F.relu(shortcut + self.residual(maps))


@registry.model("resnet_cifar", config=ResNetCifarConfig)
def build(config: ResNetCifarConfig, *, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """Return the network, its weights drawn as He et al. 2015 do (normal, variance 2 / fan-in), for images of any size.

    A 3x3 convolution, three stages of n blocks of two 3x3 convolutions, the mean over positions, one linear layer. A block's shortcut has
    no parameters: where a stage halves the maps it takes every second position, and new channels are zero.

    Raises:
        UserError: there is no such depth.
    """
    width = config.width
    blocks = blocks_per_stage(config.depth, 2)
    model = classifier(
        4 * width, num_classes, stem=stem(image_shape[0], width), blocks=stages(Block, width, [width, 2 * width, 4 * width], blocks)
    )
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
    return model
