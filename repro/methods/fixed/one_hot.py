"""One-hot targets: the baseline of every table. Eq. 1 with alpha = 0, so C_ik = [k = y_i] / n."""

from __future__ import annotations

from dataclasses import dataclass

from repro.config import registry
from repro.config.schema import MethodConfig
from repro.engine.method import AnnotatedTargets


@dataclass
class OneHotConfig(MethodConfig):
    """One-hot targets have no settings."""

    name: str = "one_hot"


@registry.method("one_hot", config=OneHotConfig)
class OneHot(AnnotatedTargets):
    """Cross-entropy with the annotated labels."""

    repeatable = True
