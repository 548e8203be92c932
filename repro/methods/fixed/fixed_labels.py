"""Training on converged labels that do not move: Table 3 (static), "Ours (Labels)" of Table 4, label transfer of Table 5.

Image i has the target p_i^(1/T) / Z, where p_i is the average over the inputs of its labels at the end of their training (C9,
:mod:`repro.methods.shared.averaged_labels`), and C_ik = target_ik / n. The inputs may have trained another architecture: labels belong to
the images.

Choices where the paper is silent: the last epoch or the mean over the last few (C9), tempering by the power 1/T, in which T below
1 sharpens (E6), which folds and what is averaged (C1, C4).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from repro.config import registry
from repro.config.fields import setting
from repro.engine.method import Context, Method
from repro.errors import UserError
from repro.methods.shared.averaged_labels import AveragedLabelsConfig, averaged_labels


@dataclass
class FixedLabelsConfig(AveragedLabelsConfig):
    """Which labels, and how they are tempered."""

    name: str = "fixed_labels"
    temperature: float = setting(1.0, help="T of p^(1/T) / Z; above 1 softens (E6)", above=0.0)
    last_epochs: int = setting(1, help="mean over so many epochs at the end (C9)", at_least=1)


@registry.method("fixed_labels", config=FixedLabelsConfig)
class FixedLabels(Method):
    """Fixed targets, one distribution an image."""

    repeatable = True
    reads = ("labels",)

    def __init__(self, config: FixedLabelsConfig, context: Context) -> None:
        super().__init__(config, context)
        labels = averaged_labels(context, config)
        if config.last_epochs > labels.epochs:
            raise UserError(f"method.last_epochs={config.last_epochs}: must be at most the {labels.epochs} epochs of the inputs.")
        self._targets = tempered(labels.converged(config.last_epochs), config.temperature)

    @override
    def targets(self, rows: Tensor) -> Tensor:
        return self._targets[rows]


def tempered(distributions: Tensor, temperature: float) -> Tensor:
    """Return p^(1/T) / Z of each row p of ``distributions`` (B, K); a class of probability 0 keeps it."""
    return torch.softmax(distributions.log() / temperature, dim=1)
