"""No label noise: every label is as published."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from repro.config import registry
from repro.config.schema import NoiseConfig
from repro.data.types import CleanLabels, Labels, Matrix


@dataclass
class NoNoiseConfig(NoiseConfig):
    """Nothing to set."""


def transition(config: NoNoiseConfig, num_classes: int) -> Matrix:
    """Return the transition matrix (K, K): the identity."""
    return np.eye(num_classes)


@registry.noise("none", config=NoNoiseConfig, transition=transition)
def build(config: NoNoiseConfig, clean: CleanLabels, seed: int) -> Labels:
    """Return a copy of the labels (N,). The effective flip rate is 0."""
    return clean.labels.copy()
