"""Backward loss correction (Patrini et al. 2017), for the setting of Lukasik et al. 2020: an unbiased estimate of the clean loss.

With the transition matrix T_ij = P(annotated j | class i) and the losses l_k = -log f_k(x), the corrected loss of an image annotated
as y is (T^-1 l)_y, whose mean over the annotations of an image is the loss of its true class. It is linear in the coefficients:
C_i = (row y_i of T^-1) / n. The rows sum to 1; entries may be negative, and then the loss has no lower bound.

``matrix`` and ``percentile`` are those of :mod:`repro.methods.corrections.forward_correction`. For uniform noise T is the smearing matrix
(1 - a) I + a J / K, and T^-1 is I / (1 - a) - a J / ((1 - a) K).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from repro.config import registry
from repro.engine.method import Batch, Context
from repro.methods.shared.transition import CorrectionConfig, CorrectionMethod, inverse


@dataclass
class BackwardCorrectionConfig(CorrectionConfig):
    """Where the transition matrix comes from."""

    name: str = "backward_correction"


@registry.method("backward_correction", config=BackwardCorrectionConfig)
class BackwardCorrection(CorrectionMethod):
    """Coefficients that undo the noise on average. They may be negative, so they are no targets: those are the annotated labels."""

    def __init__(self, config: BackwardCorrectionConfig, context: Context) -> None:
        super().__init__(config, context)
        self._inverse = inverse(self.transition)

    @override
    def coefficients(self, batch: Batch) -> Tensor:
        return self._inverse[batch.observed] / len(batch.observed)
