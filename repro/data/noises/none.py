"""No label noise: every label is as published."""

from __future__ import annotations

from dataclasses import dataclass

from repro import registry
from repro.config import NoiseConfig
from repro.data.types import Labels


@dataclass
class NoNoiseConfig(NoiseConfig):
    """Nothing to set."""


@registry.noise("none", config=NoNoiseConfig)
def build(config: NoNoiseConfig, labels: Labels, num_classes: int, seed: int) -> Labels:
    """Return a copy of ``labels`` (N,). The effective flip rate is 0."""
    return labels.copy()
