"""A small convolutional network for small images; ours, for the demo and the tests."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from repro import registry
from repro.config import ModelConfig
from repro.fields import setting


@dataclass
class DigitsCNNConfig(ModelConfig):
    """Its size."""

    name: str = "digits_cnn"
    width: int = setting(32, help="channels of the first convolution; the second has twice as many", at_least=1)


class DigitsCNN(nn.Module):
    """Two 3x3 convolutions of stride 2 with BatchNorm, and one linear layer.

    Strides instead of pooling, and no third convolution: on a CPU, images this small spend their time in calls, not in arithmetic.
    """

    def __init__(self, *, width: int, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        channels, height, pixels_wide = image_shape
        self.features = nn.Sequential(*_convolution(channels, width), *_convolution(width, 2 * width), nn.Flatten())
        self.classifier = nn.Linear(2 * width * _halved_twice(height) * _halved_twice(pixels_wide), num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K) of normalised images (B, C, H, W)."""
        logits: Tensor = self.classifier(self.features(images))
        return logits


def _convolution(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, kernel_size=3, stride=2, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def _halved_twice(size: int) -> int:
    """Return the size after two convolutions of stride 2 with padding 1, each of which rounds up."""
    return ((size + 1) // 2 + 1) // 2


@registry.model("digits_cnn", config=DigitsCNNConfig)
def build(config: DigitsCNNConfig, *, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """Return the network for images of ``image_shape`` (C, H, W)."""
    return DigitsCNN(width=config.width, image_shape=image_shape, num_classes=num_classes)
