"""AlexNet (Krizhevsky et al. 2012) in its form for 32x32 images (E3: the paper names the network and gives no recipe)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from repro import registry
from repro.config import ModelConfig
from repro.errors import UserError

_MIN_SIZE = 29


@dataclass
class AlexNetConfig(ModelConfig):
    """Nothing to set."""


class AlexNet(nn.Module):
    """Five convolutions without BatchNorm, a 2x2 pooling after the first, second and fifth, the mean over positions, one linear layer.

    On a 32x32 image the maps are 8x8, 4x4, 2x2 and, after the last pooling, 1x1.
    """

    def __init__(self, *, channels: int, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 64, kernel_size=11, stride=4, padding=5),
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
        )
        self.classifier = nn.Linear(256, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K) of normalised images (B, C, H, W)."""
        logits: Tensor = self.classifier(self.features(images).mean((2, 3)))
        return logits


@registry.model("alexnet", config=AlexNetConfig)
def build(config: AlexNetConfig, *, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """Return the network, with PyTorch's default initial weights.

    Raises:
        UserError: the images of ``image_shape`` (C, H, W) are too small for its stride and three poolings.
    """
    channels, height, width = image_shape
    if min(height, width) < _MIN_SIZE:
        raise UserError(f"model=alexnet: needs images of at least {_MIN_SIZE}x{_MIN_SIZE} pixels, and the dataset's have {height}x{width}.")
    return AlexNet(channels=channels, num_classes=num_classes)
