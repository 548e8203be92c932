"""What several architectures are made of."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from repro.errors import UserError


class Features(nn.Module):
    """Layers, the mean over the positions of their maps, and one linear layer."""

    def __init__(self, layers: Iterable[nn.Module], *, channels: int, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K) of normalised images (B, C, H, W)."""
        logits: Tensor = self.classifier(self.features(images).mean((2, 3)))
        return logits


class ResNet(nn.Module):
    """A 3x3 convolution with BatchNorm, residual blocks, the mean over the positions of their maps, and one linear layer."""

    def __init__(self, blocks: Iterable[nn.Module], *, channels: int, width: int, outputs: int, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(convolution(channels, width), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        # An iterator makes them now: first weights are drawn in the order of the layers.
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(outputs, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K) of normalised images (B, C, H, W)."""
        logits: Tensor = self.classifier(self.blocks(self.stem(images)).mean((2, 3)))
        return logits


def convolution(inputs: int, outputs: int, *, kernel_size: int = 3, stride: int = 1) -> nn.Conv2d:
    """Return a convolution without bias, padded so that a stride of 1 leaves the maps' size."""
    return nn.Conv2d(inputs, outputs, kernel_size, stride=stride, padding=kernel_size // 2, bias=False)


def check_size(model: str, image_shape: tuple[int, int, int], at_least: int) -> None:
    """Check that images of ``image_shape`` (C, H, W) have ``at_least`` so many pixels on each side.

    Raises:
        UserError: they have not.
    """
    _, height, width = image_shape
    if min(height, width) < at_least:
        raise UserError(f"model={model}: needs images of at least {at_least}x{at_least} pixels, and the dataset's have {height}x{width}.")
