"""AlexNet (Krizhevsky et al. 2012) in its form for 32x32 images (E3: the paper names the network and gives no recipe)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from repro.config import registry
from repro.config.schema import ModelConfig
from repro.models.blocks import check_size, classifier


@dataclass
class AlexNetConfig(ModelConfig):
    """Nothing to set."""


@registry.model("alexnet", config=AlexNetConfig)
def build(config: AlexNetConfig, *, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """Return the network, with PyTorch's default initial weights.

    Five convolutions without BatchNorm, a 2x2 pooling after the first, second and fifth, the mean over positions, one linear layer. On a
    32x32 image the maps are 8x8, 4x4, 2x2 and, after the last pooling, 1x1.

    Raises:
        UserError: the images of ``image_shape`` (C, H, W) are too small for its stride and three poolings.
    """
    check_size("alexnet", image_shape, 29)
    layers = [
        nn.Conv2d(image_shape[0], 64, kernel_size=11, stride=4, padding=5),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 192, kernel_size=5, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(192, 384, kernel_size=3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(384, 256, kernel_size=3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(256, 256, kernel_size=3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
    ]
    return classifier(256, num_classes, features=nn.Sequential(*layers))
