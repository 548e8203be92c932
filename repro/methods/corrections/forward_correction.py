"""Forward loss correction (Patrini et al. 2017), for the setting of Lukasik et al. 2020: predict what the annotator would have said.

With the transition matrix T_ij = P(annotated j | class i), an image of class i is annotated as j with the probability
(T^T f(x))_j, so the loss is L = -(1/n) sum_i log (T^T f(x_i))_{y_i}. Its minimiser is the clean classifier. The loss is not linear in
the coefficients, which are one-hot, C_ik = [k = y_i] / n; the method replaces the loss itself.

``matrix=known`` takes T from the settings of the run's noise. ``matrix=estimated`` asks a network that was trained on the same
annotations (``inputs.teacher``): for each class i, the image that it gives i with the highest probability is taken for a perfect
example of i, and the predicted distribution for that image is row i (Theorem 3 of Patrini et al.).

Choices: ``percentile`` below 100 takes the image at that percentile of the probabilities instead of the very highest, as the
authors' code does (97) where one image in a hundred is an outlier; the default follows the paper (D).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from repro.config import registry
from repro.engine.method import Batch, Context
from repro.methods.shared.transition import CorrectionConfig, CorrectionMethod


@dataclass
class ForwardCorrectionConfig(CorrectionConfig):
    """Where the transition matrix comes from."""

    name: str = "forward_correction"


@registry.method("forward_correction", config=ForwardCorrectionConfig)
class ForwardCorrection(CorrectionMethod):
    """Cross-entropy between the annotated labels and the prediction after the noise."""

    def __init__(self, config: ForwardCorrectionConfig, context: Context) -> None:
        super().__init__(config, context)
        self._log_matrix = self.transition.log()

    @override
    def loss(self, log_probabilities: Tensor, batch: Batch) -> Tensor:
        # log sum_k f_k T_ky from logarithms: finite where the network is certain of a class that is never annotated so. A class that
        # no class is confused with has one term, and a logarithm of 0 in the others counts as 0.
        columns = self._log_matrix.t()[batch.observed].to(log_probabilities.dtype)
        return -torch.logsumexp(log_probabilities + columns, dim=1).mean()
