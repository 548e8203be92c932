"""ResNet-18 (He et al. 2016) in its form for 32x32 images."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from repro import registry
from repro.config import ModelConfig
from repro.fields import setting

#: Channels and stride of each stage's first block; each stage has two blocks.
_STAGES = ((1, 1), (2, 2), (4, 2), (8, 2))


@dataclass
class ResNet18Config(ModelConfig):
    """Its size."""

    width: int = setting(64, help="channels of the first stage; the next ones have 2, 4 and 8 times as many", at_least=1, at_most=1024)


class ResNet18(nn.Module):
    """A 3x3 convolution of stride 1 without pooling, four stages of two basic blocks, the mean over positions, one linear layer.

    The torchvision network begins with a 7x7 convolution of stride 2 and a pooling, which leaves a 32x32 image little to look at.
    """

    def __init__(self, *, width: int, channels: int, num_classes: int) -> None:
        super().__init__()
        from torchvision.models.resnet import BasicBlock

        self.stem = nn.Sequential(_convolution(channels, width, kernel_size=3), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        blocks: list[nn.Module] = []
        inputs = width
        for factor, stride in _STAGES:
            outputs = width * factor
            shortcut = None
            if stride != 1:
                shortcut = nn.Sequential(_convolution(inputs, outputs, kernel_size=1, stride=stride), nn.BatchNorm2d(outputs))
            blocks += [BasicBlock(inputs, outputs, stride, shortcut), BasicBlock(outputs, outputs)]
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(inputs, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K) of normalised images (B, C, H, W)."""
        logits: Tensor = self.classifier(self.blocks(self.stem(images)).mean((2, 3)))
        return logits


def _convolution(inputs: int, outputs: int, *, kernel_size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size, stride=stride, padding=kernel_size // 2, bias=False)


@registry.model("resnet18", config=ResNet18Config)
def build(config: ResNet18Config, *, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """Return the network, with PyTorch's default initial weights, for images of ``image_shape`` (C, H, W) of any size."""
    return ResNet18(width=config.width, channels=image_shape[0], num_classes=num_classes)
