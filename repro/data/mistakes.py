"""Kinds of noise in which a class is mistaken for certain others: what they share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from repro.config import registry
from repro.data.types import CleanLabels, Labels, Matrix
from repro.randomness import Stream

#: Returns, given the settings and the number of classes K, the classes (K,) that each class is mistaken for, one array for each of them.
Others = Callable[[Any, int], Sequence[Labels]]


def register_mistakes(name: str, config: type[Any], others: Others) -> None:
    """Register a kind of noise in which a label is mistaken with probability ``rate``, for each of the ``others`` alike.

    Where another class is the class itself, it is not mistaken; else the effective flip rate is ``rate``.
    """

    def transition(settings: Any, num_classes: int) -> Matrix:
        """Return the transition matrix (K, K): the rate, in equal shares, on the classes that a class is mistaken for."""
        identity = np.eye(num_classes)
        mistaken = others(settings, num_classes)
        matrix: Matrix = (1.0 - settings.rate) * identity + settings.rate / len(mistaken) * sum(identity[other] for other in mistaken)
        return matrix

    @registry.noise(name, config=config, transition=transition)
    def build(settings: Any, clean: CleanLabels, seed: int) -> Labels:
        """Return noisy labels (N,)."""
        labels, mistaken = clean.labels, others(settings, clean.num_classes)
        drawn = Stream(seed, "noise", name, "which").uniform(len(labels))
        observed = labels.copy()
        # Below the rate a label is mistaken; the first of two others takes the lower half.
        for count in range(len(mistaken), 0, -1):
            below = drawn < settings.rate * count / len(mistaken)
            observed[below] = mistaken[count - 1][labels[below]]
        return observed
