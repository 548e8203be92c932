"""Uniform (symmetric) noise: a label is replaced by one drawn from all classes (section 3.5)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from repro.config import registry
from repro.config.fields import setting
from repro.config.schema import NoiseConfig
from repro.data.types import CleanLabels, Labels, Matrix
from repro.randomness import Stream


@dataclass
class UniformNoiseConfig(NoiseConfig):
    """How many labels are drawn again, and from what."""

    rate: float = setting(help="probability that a label is drawn again", at_least=0.0, at_most=1.0)
    # G1: the paper's wording includes it. The label then stays right in 1 of K cases.
    include_true: bool = setting(True, help="the true class may be drawn again")
    # G2
    draw: str = setting(
        "bernoulli", help="bernoulli: each label on its own; exact: rate * N labels, rounded", choices=("bernoulli", "exact")
    )


def transition(config: UniformNoiseConfig, num_classes: int) -> Matrix:
    """Return the transition matrix (K, K): (1 - rate) I + rate J / K, or rate / (K - 1) off the diagonal without the true class."""
    identity = np.eye(num_classes)
    drawn = np.ones_like(identity) if config.include_true else 1.0 - identity
    matrix: Matrix = (1.0 - config.rate) * identity + config.rate * drawn / drawn.sum(axis=1, keepdims=True)
    return matrix


@registry.noise("uniform", config=UniformNoiseConfig, transition=transition)
def build(config: UniformNoiseConfig, clean: CleanLabels, seed: int) -> Labels:
    """Return noisy labels (N,).

    The effective flip rate, the probability that a label really becomes wrong, is ``rate * (K - 1) / K`` with ``include_true``
    and ``rate`` without: 0.36 and 0.4 for ten classes at rate 0.4.
    """
    labels, num_classes = clean.labels, clean.num_classes
    count = len(labels)
    chance = Stream(seed, "noise", "uniform", "which")
    if config.draw == "exact":
        replaced = np.zeros(count, dtype=np.bool_)
        replaced[chance.permutation(count)[: round(config.rate * count)]] = True
    else:
        replaced = chance.uniform(count) < config.rate
    classes = Stream(seed, "noise", "uniform", "class")
    if config.include_true:
        drawn = classes.integers(count, num_classes)
    else:
        # A step of 1 to K - 1 around the circle of classes reaches every class but the one it starts from.
        drawn = (labels + 1 + classes.integers(count, num_classes - 1)) % num_classes
    return np.where(replaced, drawn, labels)
