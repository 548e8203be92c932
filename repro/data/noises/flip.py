"""Flip noise, as the Meta-Weight-Net code has it (G10; not in the paper): every class is mistaken for one other class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from repro.config import registry
from repro.config.fields import setting
from repro.config.schema import NoiseConfig
from repro.data.types import Labels, Matrix
from repro.randomness import Stream


@dataclass
class FlipNoiseConfig(NoiseConfig):
    """How often, and for what."""

    rate: float = setting(help="probability that a label is mistaken", at_least=0.0, at_most=1.0)
    # Apart from the noise's seed: repetitions of an experiment mistake other images, but the same classes.
    map_seed: int = setting(1, help="seed of which class each class is mistaken for", at_least=0)


def _other_classes(config: FlipNoiseConfig, num_classes: int) -> Labels:
    steps = Stream(config.map_seed, "noise", "flip", "map").integers(num_classes, num_classes - 1)
    return (np.arange(num_classes) + 1 + steps) % num_classes


def transition(config: FlipNoiseConfig, num_classes: int) -> Matrix:
    """Return the transition matrix (K, K): rate on the class that each class is mistaken for."""
    identity = np.eye(num_classes)
    return (1.0 - config.rate) * identity + config.rate * identity[_other_classes(config, num_classes)]


@registry.noise("flip", config=FlipNoiseConfig, transition=transition)
def build(config: FlipNoiseConfig, labels: Labels, num_classes: int, seed: int) -> Labels:
    """Return noisy labels (N,). The effective flip rate is ``rate``: a mistaken label is always wrong."""
    other = _other_classes(config, num_classes)
    mistaken = Stream(seed, "noise", "flip", "which").uniform(len(labels)) < config.rate
    return np.where(mistaken, other[labels], labels)
