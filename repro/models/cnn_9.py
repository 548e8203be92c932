"""The network of nine convolutions that Co-teaching (Han et al. 2018, their Table 2) was measured with."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from repro import registry
from repro.config import ModelConfig
from repro.errors import UserError
from repro.fields import setting

#: Factors of ``width`` and padding of the three convolutions of each stage.
_STAGES = (((1, 1), (1, 1), (1, 1)), ((2, 1), (2, 1), (2, 1)), ((4, 0), (2, 0), (1, 0)))

#: Two poolings and three convolutions without padding leave one position of so many pixels.
_MIN_SIZE = 28


@dataclass
class CNN9Config(ModelConfig):
    """Its size and regularisation."""

    name: str = "cnn_9"
    width: int = setting(128, help="channels of the first stage and of the last convolution", at_least=1, at_most=1024)
    dropout: float = setting(0.25, help="share of whole maps that are dropped after each of the two poolings", at_least=0.0, below=1.0)


class CNN9(nn.Module):
    """Three stages of three 3x3 convolutions with BatchNorm and leaky ReLU (slope 0.01), the mean over positions, one linear layer.

    After the first and the second stage, of 128 and 256 channels, stand a 2x2 pooling and a dropout of whole maps; the third has 512, 256
    and 128 channels and no padding, so that 2x2 positions of a 32x32 image are left.
    """

    def __init__(self, *, width: int, dropout: float, channels: int, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = channels
        for number, stage in enumerate(_STAGES):
            if number > 0:
                layers += [nn.MaxPool2d(2), nn.Dropout2d(dropout)]
            for factor, padding in stage:
                outputs = factor * width
                layers += [nn.Conv2d(inputs, outputs, kernel_size=3, padding=padding), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.01)]
                inputs = outputs
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(inputs, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K) of images (B, C, H, W)."""
        logits: Tensor = self.classifier(self.features(images).mean((2, 3)))
        return logits


@registry.model("cnn_9", config=CNN9Config)
def build(config: CNN9Config, *, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """Return the network, with PyTorch's default initial weights.

    Raises:
        UserError: the images of ``image_shape`` (C, H, W) are too small for the convolutions without padding.
    """
    channels, height, width = image_shape
    if min(height, width) < _MIN_SIZE:
        raise UserError(f"model=cnn_9: needs images of at least {_MIN_SIZE}x{_MIN_SIZE} pixels, and the dataset's have {height}x{width}.")
    return CNN9(width=config.width, dropout=config.dropout, channels=channels, num_classes=num_classes)
