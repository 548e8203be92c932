"""Flip-2 noise, as the Meta-Weight-Net code has it (G10; not in the paper): every class is mistaken for two other classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from repro import registry
from repro.config import NoiseConfig
from repro.data.types import Labels
from repro.determinism import Stream
from repro.errors import UserError
from repro.fields import setting


@dataclass
class Flip2NoiseConfig(NoiseConfig):
    """How often, and for what."""

    rate: float = setting(help="probability that a label is mistaken, half of it for each of two classes", at_least=0.0, at_most=1.0)
    # Apart from the noise's seed: repetitions of an experiment mistake other images, but the same classes.
    map_seed: int = setting(1, help="seed of which two classes each class is mistaken for", at_least=0)


@registry.noise("flip2", config=Flip2NoiseConfig)
def build(config: Flip2NoiseConfig, labels: Labels, num_classes: int, seed: int) -> Labels:
    """Return noisy labels (N,). The effective flip rate is ``rate``: a mistaken label is always wrong.

    Raises:
        UserError: there are no two other classes.
    """
    if num_classes < 3:
        raise UserError(f"noise=flip2: needs at least 3 classes, and the dataset has {num_classes}.")
    steps = Stream(config.map_seed, "noise", "flip2", "map")
    first = 1 + steps.integers(num_classes, num_classes - 1)
    second = 1 + steps.integers(num_classes, num_classes - 2)
    second += second >= first  # the K - 2 steps that are left
    drawn = Stream(seed, "noise", "flip2", "which").uniform(len(labels))
    step = np.where(drawn < config.rate / 2.0, first[labels], second[labels])
    return np.where(drawn < config.rate, (labels + step) % num_classes, labels)
