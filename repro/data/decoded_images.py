"""Images of any size and format that Pillow reads, decoded once and kept in a file that is verified."""

from __future__ import annotations

import functools
import hashlib
import io
import logging
import struct
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from repro.data.types import Images
from repro.errors import UserError, first_of
from repro.files import write_atomically

logger = logging.getLogger(__name__)

#: Images whose statistics are taken at once.
_BLOCK = 1024


@dataclass(frozen=True)
class DecodedImages:
    """Images (N, C, side, side), and mean and standard deviation of each channel, of pixels in [0, 1]."""

    pixels: Images
    mean: tuple[float, ...]
    std: tuple[float, ...]


@functools.cache
def image_suffixes() -> frozenset[str]:
    """Return how the names of files end that Pillow reads, such as ``.png``."""
    from PIL import Image

    return frozenset(name for name, kind in Image.registered_extensions().items() if kind in Image.OPEN)


def decoded(root: Path, files: Sequence[str], side: int, kept_below: Path) -> DecodedImages:
    """Return the images ``files`` below ``root``, resized to ``side``; of one channel if all are gray, else of three.

    They are kept in a file below ``kept_below``, which is used as long as it is whole and no image has another size or date.

    Raises:
        UserError: some cannot be read, or are the same file twice; nothing is kept then.
    """
    stats = [(root / file).stat() for file in files]
    listing = "\n".join(f"{file}/{stat.st_size}/{stat.st_mtime_ns}" for file, stat in zip(files, stats, strict=True))
    fingerprint = hashlib.sha256(listing.encode(errors="surrogateescape")).hexdigest()
    path = kept_below / f"{hashlib.sha256(f'{root.resolve()}/{side}'.encode(errors='surrogateescape')).hexdigest()[:16]}.npz"
    try:
        # Reading an array compares the checksum that the file has of it.
        with np.load(path) as kept:
            if str(kept["fingerprint"]) == fingerprint:
                return DecodedImages(kept["pixels"], tuple(kept["mean"].tolist()), tuple(kept["std"].tolist()))
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        logger.warning("%s is damaged (%s): the images are decoded again.", path, error)
    pixels = _decoded(root, files, side)
    mean, std = statistics(pixels)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: np.savez(file, fingerprint=fingerprint, pixels=pixels, mean=mean, std=std))
    except OSError as error:
        logger.warning("%s cannot be written (%s): the next run decodes the images again.", path, error.strerror)
    return DecodedImages(pixels, mean, std)


def _decoded(root: Path, files: Sequence[str], side: int) -> Images:
    from PIL import Image

    pixels = np.empty((len(files), 3, side, side), np.uint8)
    all_gray, seen, problems = True, dict[bytes, str](), list[str]()
    for row, file in enumerate(tqdm(files, desc="decoding", unit="image", disable=None)):
        try:
            content = (root / file).read_bytes()
            pixels[row], gray = _decode(content, side)
            all_gray = all_gray and gray
        # Whatever Pillow's many formats raise for a file that is not what its name says, or was cut.
        except (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError) as error:
            problems.append(f"{root / file} cannot be read as an image ({' '.join(str(error).split())})")
            continue
        if (first := seen.setdefault(hashlib.sha256(content).digest(), file)) != file:
            problems.append(f"{root / file} is the same image as {first}")
    if problems:
        raise UserError(f"{first_of(problems)}.")
    return pixels[:, :1].copy() if all_gray else pixels


def _decode(content: bytes, side: int) -> tuple[Images, bool]:
    """Return an image (3, side, side) as it is meant to be looked at, and whether it is gray."""
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(content)) as opened:
        image = ImageOps.exif_transpose(opened)
    if image.mode == "F":
        raise ValueError("its pixels are fractions, of unknown range")
    if image.mode.startswith("I"):
        # 16 bits a pixel, which Pillow would cut off at 255.
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    resized = image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(resized).transpose(2, 0, 1), image.mode in ("1", "L", "LA")


def statistics(pixels: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel of images (N, C, H, W), in units of 255."""
    counts = np.zeros((pixels.shape[1], 256))
    for start in range(0, len(pixels), _BLOCK):
        block = pixels[start : start + _BLOCK]
        counts += [np.bincount(block[:, channel].ravel(), minlength=256) for channel in range(pixels.shape[1])]
    values, shares = np.arange(256) / 255.0, counts / counts.sum(axis=1, keepdims=True)
    mean = shares @ values
    std = np.sqrt(shares @ values**2 - mean**2)
    # Images that are all of one colour.
    return tuple(mean.tolist()), tuple(np.where(std > 0.0, std, 1.0).tolist())
