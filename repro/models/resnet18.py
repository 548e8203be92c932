"""ResNet-18 (He et al. 2016) in its form for 32x32 images."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from repro.config import registry
from repro.config.fields import setting
from repro.config.schema import ModelConfig
from repro.models.blocks import classifier, convolution, stages, stem


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
    widths = [width, 2 * width, 4 * width, 8 * width]
    return classifier(8 * width, num_classes, stem=stem(image_shape[0], width), blocks=stages(_block, width, widths, 2))


def _block(inputs: int, outputs: int, stride: int) -> nn.Module:
    from torchvision.models.resnet import BasicBlock

    shortcut = None
    if stride != 1:
        shortcut = nn.Sequential(convolution(inputs, outputs, kernel_size=1, stride=stride), nn.BatchNorm2d(outputs))
    block: nn.Module = BasicBlock(inputs, outputs, stride, shortcut)
    return block
