"""VGG-16 (Simonyan and Zisserman 2015, configuration D) with BatchNorm, in its form for 32x32 images."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from repro.config import registry
from repro.config.schema import ModelConfig
from repro.models.blocks import check_size, classifier

#: Channels of the convolutions between two poolings.
_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


@dataclass
class VGG16Config(ModelConfig):
    """Nothing to set."""


@registry.model("vgg16", config=VGG16Config)
def build(config: VGG16Config, *, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """Return the network, with PyTorch's default initial weights.

    Thirteen 3x3 convolutions with BatchNorm, a 2x2 pooling after each stage, the mean over positions, one linear layer: five poolings
    leave one position of a 32x32 image, so the three wide layers of the ImageNet network, and their dropout, have nothing to do here
    (Table 9 has no dropout).

    Raises:
        UserError: the images of ``image_shape`` (C, H, W) are too small for five poolings.
    """
    check_size("vgg16", image_shape, 2 ** len(_STAGES))
    layers: list[nn.Module] = []
    inputs = image_shape[0]
    for stage in _STAGES:
        for outputs in stage:
            # With the bias that the paper's convolutions have; BatchNorm takes it out again.
            layers += [nn.Conv2d(inputs, outputs, kernel_size=3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
            inputs = outputs
        layers.append(nn.MaxPool2d(2))
    return classifier(inputs, num_classes, features=nn.Sequential(*layers))
