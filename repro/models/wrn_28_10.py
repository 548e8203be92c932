"""Wide residual network (Zagoruyko and Komodakis 2016): WRN-28-10 as it is, other sizes by its settings."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from repro.config import registry
from repro.config.fields import setting
from repro.config.schema import ModelConfig
from repro.models.blocks import blocks_per_stage, classifier, convolution, stages


@dataclass
class WideResNetConfig(ModelConfig):
    """Its size; the defaults are WRN-28-10 without dropout (Table 9)."""

    depth: int = setting(28, help="6 n + 4, for n blocks of two convolutions in each of three stages", at_least=10, at_most=2000)
    widen_factor: int = setting(10, help="times 16: channels of the first of three stages", at_least=1, at_most=100)
    dropout: float = setting(0.0, help="probability of dropping an activation between a block's two convolutions", at_least=0.0, below=1.0)


class _Block(nn.Module):
    """BatchNorm, ReLU, 3x3 convolution, twice, beside a shortcut that is a 1x1 convolution where the shape changes.

    Where it does, the shortcut starts from the activated input, as in the authors' network.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, *, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = convolution(inputs, outputs, stride=stride)
        self.norm2 = nn.BatchNorm2d(outputs)
        # Absent rather than of probability 0: a network without dropout draws no random numbers.
        self.dropout = nn.Dropout(dropout) if dropout > 0.0 else nn.Identity()
        self.conv2 = convolution(outputs, outputs)
        self.shortcut = convolution(inputs, outputs, kernel_size=1, stride=stride) if inputs != outputs or stride != 1 else None

    def forward(self, features: Tensor) -> Tensor:
        active = F.relu(self.norm1(features))
        shortcut = features if self.shortcut is None else self.shortcut(active)
        hidden = F.relu(self.norm2(self.conv1(active)))
        result: Tensor = shortcut + self.conv2(self.dropout(hidden))
        return result


@registry.model("wrn_28_10", config=WideResNetConfig)
def build(config: WideResNetConfig, *, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """Return the network for images of ``image_shape`` (C, H, W) of any size: convolutions normal with a variance of 2 / fan-out.

    A 3x3 convolution, three stages of blocks, BatchNorm and ReLU, the mean over positions, one linear layer.

    Raises:
        UserError: there is no network of that depth.
    """
    widths = [16 * factor * config.widen_factor for factor in (1, 2, 4)]
    model = classifier(
        widths[-1],
        num_classes,
        stem=convolution(image_shape[0], 16),
        blocks=stages(partial(_Block, dropout=config.dropout), 16, widths, blocks_per_stage(config.depth, 4)),
        norm=nn.BatchNorm2d(widths[-1]),
        relu=nn.ReLU(),
    )
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
    return model
