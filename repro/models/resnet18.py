"""ResNet-18 (He et al. 2016) in its form for 32x32 images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from repro.config import registry
from repro.config.fields import setting
from repro.config.schema import ModelConfig
from repro.models.blocks import classifier, convolution, stem

#: Channels and stride of each stage's first block; each stage has two blocks.
_STAGES = ((1, 1), (2, 2), (4, 2), (8, 2))


@dataclass
class ResNet18Config(ModelConfig):
    """Its size."""

    width: int = setting(64, help="channels of the first stage; the next ones have 2, 4 and 8 times as many", at_least=1, at_most=1024)


@registry.model("resnet18", config=ResNet18Config)
def build(config: ResNet18Config, *, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """Return the network, with PyTorch's default initial weights, for images of ``image_shape`` (C, H, W) of any size.

    A 3x3 convolution of stride 1 without pooling, four stages of two basic blocks, the mean over positions, one linear layer. The
    torchvision network begins with a 7x7 convolution of stride 2 and a pooling, which leaves a 32x32 image little to look at.
    """
    width = config.width
    return classifier(8 * width, num_classes, stem=stem(image_shape[0], width), blocks=nn.Sequential(*_blocks(width)))


def _blocks(width: int) -> Iterator[nn.Module]:
    from torchvision.models.resnet import BasicBlock

    inputs = width
    for factor, stride in _STAGES:
        outputs = width * factor
        shortcut = None
        if stride != 1:
            shortcut = nn.Sequential(convolution(inputs, outputs, kernel_size=1, stride=stride), nn.BatchNorm2d(outputs))
        yield BasicBlock(inputs, outputs, stride, shortcut)
        yield BasicBlock(outputs, outputs)
        inputs = outputs
