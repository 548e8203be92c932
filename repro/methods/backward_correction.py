"""Backward loss correction (Patrini et al. 2017), for the setting of Lukasik et al. 2020: an unbiased estimate of the clean loss.

With the transition matrix T_ij = P(annotated j | class i) and the losses l_k = -log f_k(x), the corrected loss of an image annotated
as y is (T^-1 l)_y, whose mean over the annotations of an image is the loss of its true class. It is linear in the coefficients:
C_i = (row y_i of T^-1) / n. The rows sum to 1; entries may be negative, and then the loss has no lower bound.

``matrix`` and ``percentile`` are those of :mod:`repro.methods.forward_correction`. For uniform noise T is the smearing matrix
(1 - a) I + a J / K, and T^-1 is I / (1 - a) - a J / ((1 - a) K).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from repro import registry
from repro.config import MethodConfig
from repro.corrections import estimated_transition, inverse, known_transition
from repro.fields import setting
from repro.methods.base import Batch, Context, Method, one_hot


@dataclass
class BackwardCorrectionConfig(MethodConfig):
    """Where the transition matrix comes from."""

    name: str = "backward_correction"
    matrix: str = setting(
        "known",
        help="transition matrix: known, from the settings of the noise; estimated, by the run inputs.teacher (D)",
        choices=("known", "estimated"),
    )
    percentile: float = setting(
        100.0, help="which image stands for a class in the estimate; 100: the most probable one (D)", above=0.0, at_most=100.0
    )


@registry.method("backward_correction", config=BackwardCorrectionConfig)
class BackwardCorrection(Method):
    """Coefficients that undo the noise on average."""

    def __init__(self, config: BackwardCorrectionConfig, context: Context) -> None:
        super().__init__(config, context)
        known = config.matrix == "known"
        self._inverse = inverse(known_transition(context) if known else estimated_transition(context, config.percentile))

    @classmethod
    def reads_inputs(cls, config: Any) -> tuple[str, ...]:
        """See :meth:`Method.reads_inputs`."""
        return ("teacher",) if config.matrix == "estimated" else ()

    def coefficients(self, batch: Batch) -> Tensor:
        """See :meth:`Method.coefficients`."""
        return self._inverse[batch.observed] / len(batch.observed)

    def targets(self, rows: Tensor) -> Tensor:
        """Return the annotated labels: the rows of coefficients may be negative, so they are no distributions."""
        return one_hot(self.context.observed[rows], self.context.num_classes)
