"""What several architectures are made of."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import Tensor, nn
from typing_extensions import override

from repro.errors import UserError


class PositionMean(nn.Module):
    """The mean over the positions of maps (B, C, H, W)."""

    @override
    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3))


def classifier(channels: int, num_classes: int, **parts: nn.Module) -> nn.Sequential:
    """Return ``parts`` one after the other, the mean over the positions of their maps of so many channels, and one linear layer.

    It maps normalised images (B, C, H, W) to logits (B, K).
    """
    return nn.Sequential(OrderedDict(parts, mean=PositionMean(), classifier=nn.Linear(channels, num_classes)))


def convolution(inputs: int, outputs: int, *, kernel_size: int = 3, stride: int = 1) -> nn.Conv2d:
    """Return a convolution without bias, padded so that a stride of 1 leaves the maps' size."""
    return nn.Conv2d(inputs, outputs, kernel_size, stride=stride, padding=kernel_size // 2, bias=False)


def stem(channels: int, width: int) -> nn.Sequential:
    """Return what a residual network begins with: a 3x3 convolution, BatchNorm and ReLU."""
    return nn.Sequential(convolution(channels, width), nn.BatchNorm2d(width), nn.ReLU(inplace=True))


def stages(make: Callable[[int, int, int], nn.Module], inputs: int, widths: Sequence[int], count: int) -> nn.Sequential:
    """Return a stage of ``count`` residual blocks for each of ``widths``; every stage but the first halves the maps.

    ``make`` makes a block of its input channels, its output channels and its stride.
    """
    blocks: list[nn.Module] = []
    for stage, outputs in enumerate(widths):
        for index in range(count):
            blocks.append(make(inputs, outputs, 2 if stage > 0 and index == 0 else 1))
            inputs = outputs
    return nn.Sequential(*blocks)


def blocks_per_stage(depth: int, others: int) -> int:
    """Return n of a ``depth`` of 6n + ``others`` layers: three stages of n blocks of two convolutions, and the other layers.

    Raises:
        UserError: there is no such depth.
    """
    count, rest = divmod(depth - others, 6)
    if rest:
        raise UserError(f"model.depth={depth}: must be 6n + {others}, such as {depth - rest} or {depth - rest + 6}.")
    return count


def check_size(model: str, image_shape: tuple[int, int, int], at_least: int) -> None:
    """Check that images of ``image_shape`` (C, H, W) have ``at_least`` so many pixels on each side.

    Raises:
        UserError: they have not.
    """
    _, height, width = image_shape
    if min(height, width) < at_least:
        raise UserError(f"model={model}: needs images of at least {at_least}x{at_least} pixels, and the dataset's have {height}x{width}.")
