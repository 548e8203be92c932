"""The network of nine convolutions that Co-teaching (Han et al. 2018, their Table 2) was measured with."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from repro.config import registry
from repro.config.fields import setting
from repro.config.schema import ModelConfig
from repro.models.blocks import check_size, classifier

#: Factors of ``width`` and padding of the three convolutions of each stage.
_STAGES = (((1, 1), (1, 1), (1, 1)), ((2, 1), (2, 1), (2, 1)), ((4, 0), (2, 0), (1, 0)))


@dataclass
class CNN9Config(ModelConfig):
    """Its size and regularisation."""

    name: str = "cnn_9"
    width: int = setting(128, help="channels of the first stage and of the last convolution", at_least=1, at_most=1024)
    dropout: float = setting(0.25, help="share of whole maps that are dropped after each of the two poolings", at_least=0.0, below=1.0)


@registry.model("cnn_9", config=CNN9Config)
def build(config: CNN9Config, *, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """Return the network, with PyTorch's default initial weights.

    Three stages of three 3x3 convolutions with BatchNorm and leaky ReLU (slope 0.01), the mean over positions, one linear layer. After the
    first and the second stage, of 128 and 256 channels, stand a 2x2 pooling and a dropout of whole maps; the third has 512, 256 and 128
    channels and no padding, so that 2x2 positions of a 32x32 image are left, and one of a 28x28 image.

    Raises:
        UserError: the images of ``image_shape`` (C, H, W) are too small for the convolutions without padding.
    """
    check_size("cnn_9", image_shape, 28)
    layers: list[nn.Module] = []
    inputs = image_shape[0]
    for number, stage in enumerate(_STAGES):
        if number > 0:
            layers += [nn.MaxPool2d(2), nn.Dropout2d(config.dropout)]
        for factor, padding in stage:
            outputs = factor * config.width
            layers += [nn.Conv2d(inputs, outputs, kernel_size=3, padding=padding), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.01)]
            inputs = outputs
    return classifier(inputs, num_classes, features=nn.Sequential(*layers))
