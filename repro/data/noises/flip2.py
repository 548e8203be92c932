"""Flip-2 noise, as the Meta-Weight-Net code has it (G10; not in the paper): every class is mistaken for two other classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from repro.config import registry
from repro.config.fields import setting
from repro.config.schema import NoiseConfig
from repro.data.types import Labels, Matrix
from repro.errors import UserError
from repro.randomness import Stream


@dataclass
class Flip2NoiseConfig(NoiseConfig):
    """How often, and for what."""

    rate: float = setting(help="probability that a label is mistaken, half of it for each of two classes", at_least=0.0, at_most=1.0)
    # Apart from the noise's seed: repetitions of an experiment mistake other images, but the same classes.
    map_seed: int = setting(1, help="seed of which two classes each class is mistaken for", at_least=0)


def _steps(config: Flip2NoiseConfig, num_classes: int) -> tuple[Labels, Labels]:
    """Return how far around the circle of classes the two classes lie that each class is mistaken for."""
    if num_classes < 3:
        raise UserError(f"noise=flip2: needs at least 3 classes, and the dataset has {num_classes}.")
    drawn = Stream(config.map_seed, "noise", "flip2", "map")
    first = 1 + drawn.integers(num_classes, num_classes - 1)
    second = 1 + drawn.integers(num_classes, num_classes - 2)
    return first, second + (second >= first)  # the K - 2 steps that are left


def transition(config: Flip2NoiseConfig, num_classes: int) -> Matrix:
    """Return the transition matrix (K, K): half the rate on each of the two classes that a class is mistaken for."""
    identity, classes = np.eye(num_classes), np.arange(num_classes)
    mistaken = sum(identity[(classes + step) % num_classes] for step in _steps(config, num_classes))
    matrix: Matrix = (1.0 - config.rate) * identity + config.rate / 2.0 * mistaken
    return matrix


@registry.noise("flip2", config=Flip2NoiseConfig, transition=transition)
def build(config: Flip2NoiseConfig, labels: Labels, num_classes: int, seed: int) -> Labels:
    """Return noisy labels (N,). The effective flip rate is ``rate``: a mistaken label is always wrong.

    Raises:
        UserError: there are no two other classes.
    """
    first, second = _steps(config, num_classes)
    drawn = Stream(seed, "noise", "flip2", "which").uniform(len(labels))
    step = np.where(drawn < config.rate / 2.0, first[labels], second[labels])
    return np.where(drawn < config.rate, (labels + step) % num_classes, labels)
