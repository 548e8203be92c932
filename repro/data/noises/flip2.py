"""Flip-2 noise, as the Meta-Weight-Net code has it (G10; not in the paper): every class is mistaken for two other classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from repro.config.fields import setting
from repro.config.schema import NoiseConfig
from repro.data.mistakes import register_mistakes
from repro.data.types import Labels
from repro.errors import UserError
from repro.randomness import Stream


@dataclass
class Flip2NoiseConfig(NoiseConfig):
    """How often, and for what."""

    rate: float = setting(help="probability that a label is mistaken, half of it for each of two classes", at_least=0.0, at_most=1.0)
    # Apart from the noise's seed: repetitions of an experiment mistake other images, but the same classes.
    map_seed: int = setting(1, help="seed of which two classes each class is mistaken for", at_least=0)


def _others(config: Flip2NoiseConfig, num_classes: int) -> list[Labels]:
    if num_classes < 3:
        raise UserError(f"noise=flip2: needs at least 3 classes, and the dataset has {num_classes}.")
    drawn = Stream(config.map_seed, "noise", "flip2", "map")
    # How far around the circle of classes the other two lie.
    first = 1 + drawn.integers(num_classes, num_classes - 1)
    second = 1 + drawn.integers(num_classes, num_classes - 2)
    second += second >= first  # the K - 2 steps that are left
    return [(np.arange(num_classes) + step) % num_classes for step in (first, second)]


register_mistakes("flip2", Flip2NoiseConfig, _others)
