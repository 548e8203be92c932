"""Flip noise, as the Meta-Weight-Net code has it (G10; not in the paper): every class is mistaken for one other class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from repro.config.fields import setting
from repro.config.schema import NoiseConfig
from repro.data.mistakes import register_mistakes
from repro.data.types import Labels
from repro.randomness import Stream


@dataclass
class FlipNoiseConfig(NoiseConfig):
    """How often, and for what."""

    rate: float = setting(help="probability that a label is mistaken", at_least=0.0, at_most=1.0)
    # Apart from the noise's seed: repetitions of an experiment mistake other images, but the same classes.
    map_seed: int = setting(1, help="seed of which class each class is mistaken for", at_least=0)


def _others(config: FlipNoiseConfig, num_classes: int) -> list[Labels]:
    steps = Stream(config.map_seed, "noise", "flip", "map").integers(num_classes, num_classes - 1)
    return [(np.arange(num_classes) + 1 + steps) % num_classes]


register_mistakes("flip", FlipNoiseConfig, _others)
