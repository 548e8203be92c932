"""ResNet of depth 6n + 2 for 32x32 images (He et al. 2016, section 4.2): ResNet-20, 32, 44, 56, 110."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from repro import registry
from repro.config import ModelConfig
from repro.errors import UserError
from repro.fields import setting


@dataclass
class ResNetCifarConfig(ModelConfig):
    """Its size."""

    name: str = "resnet_cifar"
    depth: int = setting(32, help="layers with weights, 6n + 2", at_least=8, at_most=2000)
    width: int = setting(16, help="channels of the first stage; the next ones have 2 and 4 times as many", at_least=1, at_most=1024)


class ResNetCifar(nn.Module):
    """A 3x3 convolution, three stages of n blocks of two 3x3 convolutions, the mean over positions, one linear layer.

    A block's shortcut has no parameters: where a stage halves the maps it takes every second position, and new channels are zero.
    """

    def __init__(self, *, depth: int, width: int, channels: int, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(_convolution(channels, width), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        blocks: list[nn.Module] = []
        inputs = width
        for stage in range(3):
            for index in range((depth - 2) // 6):
                outputs = width * 2**stage
                blocks.append(Block(inputs, outputs, stride=2 if stage > 0 and index == 0 else 1))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(inputs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K) of normalised images (B, C, H, W)."""
        logits: Tensor = self.classifier(self.blocks(self.stem(images)).mean((2, 3)))
        return logits


class Block(nn.Module):
    """ReLU(x + residual(x)), with two convolutions and their BatchNorm as residual."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            _convolution(inputs, outputs, stride=stride),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            _convolution(outputs, outputs),
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


def _convolution(inputs: int, outputs: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)


@registry.model("resnet_cifar", config=ResNetCifarConfig)
def build(config: ResNetCifarConfig, *, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """Return the network, its weights drawn as He et al. 2015 do (normal, variance 2 / fan-in), for images of any size.

    Raises:
        UserError: there is no such depth.
    """
    if (config.depth - 2) % 6 != 0:
        raise UserError(f"model.depth={config.depth}: must be 6n + 2, such as 20, 32, 44, 56 or 110.")
    return ResNetCifar(depth=config.depth, width=config.width, channels=image_shape[0], num_classes=num_classes)
