"""VGG-16 (Simonyan and Zisserman 2015, configuration D) with BatchNorm, in its form for 32x32 images."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from repro import registry
from repro.config import ModelConfig
from repro.errors import UserError

#: Channels of the convolutions between two poolings.
_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))

_MIN_SIZE = 2 ** len(_STAGES)


@dataclass
class VGG16Config(ModelConfig):
    """Nothing to set."""


class VGG16(nn.Module):
    """Thirteen 3x3 convolutions with BatchNorm, a 2x2 pooling after each stage, the mean over positions, one linear layer.

    Five poolings leave one position of a 32x32 image, so the three wide layers of the ImageNet network, and their dropout, have
    nothing to do here (Table 9 has no dropout).
    """

    def __init__(self, *, channels: int, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = channels
        for stage in _STAGES:
            for outputs in stage:
                # With the bias that the paper's convolutions have; BatchNorm takes it out again.
                layers += [nn.Conv2d(inputs, outputs, kernel_size=3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
                inputs = outputs
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(inputs, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K) of normalised images (B, C, H, W)."""
        logits: Tensor = self.classifier(self.features(images).mean((2, 3)))
        return logits


@registry.model("vgg16", config=VGG16Config)
def build(config: VGG16Config, *, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """Return the network, with PyTorch's default initial weights.

    Raises:
        UserError: the images of ``image_shape`` (C, H, W) are too small for five poolings.
    """
    channels, height, width = image_shape
    if min(height, width) < _MIN_SIZE:
        raise UserError(f"model=vgg16: needs images of at least {_MIN_SIZE}x{_MIN_SIZE} pixels, and the dataset's have {height}x{width}.")
    return VGG16(channels=channels, num_classes=num_classes)
