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

    width: int = setting(16, help="channels of the first convolution; the next ones have 2 and 4 times as many", at_least=1)


class DigitsCNN(nn.Module):
    """Three 3x3 convolutions with BatchNorm, a 2x2 pooling before each but the first, the mean over positions, one linear layer."""

    def __init__(self, *, width: int, channels: int, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_convolution(channels, width),
            nn.MaxPool2d(2),
            *_convolution(width, 2 * width),
            nn.MaxPool2d(2),
            *_convolution(2 * width, 4 * width),
        )
        self.classifier = nn.Linear(4 * width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K) of normalised images (B, C, H, W)."""
        logits: Tensor = self.classifier(self.features(images).mean((2, 3)))
        return logits


def _convolution(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


@registry.model("digits_cnn", config=DigitsCNNConfig)
def build(config: DigitsCNNConfig, *, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """Return the network for images of ``image_shape`` (C, H, W), at least 4 pixels high and wide."""
    return DigitsCNN(width=config.width, channels=image_shape[0], num_classes=num_classes)
