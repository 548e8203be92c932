"""From uint8 pixels to normalised, augmented network inputs, a batch at a time and on the device.

What is random is drawn for a whole epoch at once (:meth:`Transform.draw`); applying it is then a function of pixels and numbers,
so that a resumed run sees the very images that an uninterrupted one would have seen.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from repro.config.schema import AugmentConfig
from repro.errors import UserError
from repro.randomness import Stream

#: Mean and standard deviation per channel of pixels in [0, 1] that stand in for a dataset's own (A6).
_STATISTICS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "meta_weight_net": ((125.3 / 255.0, 123.0 / 255.0, 113.9 / 255.0), (63.0 / 255.0, 62.1 / 255.0, 66.7 / 255.0)),
}


class Transform:
    """Crop, mirror and normalise uint8 images (A5, A6).

    Images are padded in pixel space, so that an added zero is a black pixel; then cropped to their size, mirrored, and last
    normalised.
    """

    def __init__(
        self,
        config: AugmentConfig,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        image_shape: tuple[int, int, int],
        device: torch.device,
    ) -> None:
        """Take the augmentation and the dataset's own ``mean`` and ``std`` per channel, of pixels in [0, 1].

        Raises:
            UserError: the settings do not fit images of ``image_shape`` (C, H, W).
        """
        channels, height, width = image_shape
        self.normalization = config.normalization
        if config.normalization == "none":
            mean, std = (0.0,) * channels, (1.0,) * channels
        elif config.normalization != "dataset":
            mean, std = _STATISTICS[config.normalization]
        if len(mean) != channels:
            raise UserError(
                f"augment.normalization={config.normalization}: has {len(mean)} channels, and the dataset's images {channels}. "
                "Use augment.normalization=dataset."
            )
        if config.padding_mode == "reflect" and config.padding >= min(height, width):
            raise UserError(
                f"augment.padding={config.padding}: with augment.padding_mode=reflect it must be below the {min(height, width)} pixels "
                "of an image."
            )
        self._padding = config.padding
        self._reflect = config.padding_mode == "reflect"
        self._flip = config.horizontal_flip
        self._device = device
        self._mean, self._std = (torch.tensor(of, dtype=torch.float32, device=device).view(1, channels, 1, 1) for of in (mean, std))
        self._rows = torch.arange(height, device=device)
        self._columns = torch.arange(width, device=device)

    def draw(self, stream: Stream, count: int) -> Tensor | None:
        """Draw the augmentation of ``count`` visits; ``None`` when images are not augmented.

        Returns:
            For each visit crop top, crop left and whether to mirror: uint8 (count, 3), on the device.
        """
        if not self.augments:
            return None
        offsets = 2 * self._padding + 1
        top, left = stream.integers(count, offsets), stream.integers(count, offsets)
        mirrored = stream.integers(count, 2 if self._flip else 1)
        values = np.stack([top, left, mirrored], axis=1).astype(np.uint8)
        return torch.from_numpy(values).to(self._device)

    @property
    def augments(self) -> bool:
        """Whether a visit can show an image otherwise than as it is."""
        return self._padding > 0 or self._flip

    def __call__(self, images: Tensor, draws: Tensor | None) -> Tensor:
        """Return float32 inputs (B, C, H, W) of ``images`` (B, C, H, W), augmented by ``draws`` (B, 3) or not at all.

        Images are uint8; float32 ones are inputs already, and nothing is done.
        """
        if images.dtype == torch.float32:
            assert draws is None, "inputs cannot be augmented: the padding belongs to pixels"
            return images
        if draws is not None:
            images = self._crop_and_mirror(images, draws)
        return (images.to(torch.float32) / 255.0).sub_(self._mean).div_(self._std)

    def _crop_and_mirror(self, images: Tensor, draws: Tensor) -> Tensor:
        """Look each output pixel up in the image that it comes from; the padded images are never made."""
        batch, channels, height, width = images.shape
        top, left, mirrored = draws.to(torch.int64).unbind(dim=1)
        # Output column j of a mirrored image comes from column W - 1 - j of its crop.
        columns = torch.where(mirrored[:, None] == 1, width - 1 - self._columns, self._columns)
        rows, rows_inside = self._source(self._rows + (top[:, None] - self._padding), height)
        columns, columns_inside = self._source(columns + (left[:, None] - self._padding), width)
        pixels = (rows[:, :, None] * width + columns[:, None, :]).view(batch, 1, height * width)
        found = images.reshape(batch, channels, height * width).gather(2, pixels.expand(-1, channels, -1)).view_as(images)
        if self._reflect:
            return found
        return found * (rows_inside[:, None, :, None] & columns_inside[:, None, None, :])

    def _source(self, positions: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Bring ``positions`` outside an axis of ``size`` pixels back into it, and say which were inside."""
        inside = (positions >= 0) & (positions < size)
        if self._reflect:
            positions = positions.abs()
            positions = torch.minimum(positions, 2 * (size - 1) - positions)
        return positions.clamp(0, size - 1), inside
