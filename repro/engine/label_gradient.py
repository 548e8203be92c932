"""Which way the gradient of instance labels points, counted over the visits of an epoch (``trajectory.gradient=true``).

A visit's gradient dL_meta/dp_i is that of one meta batch, so much of it is noise. Of a wrongly labelled image it points the right way
where moving mass from the annotated to the true class lowers the meta loss; of a correctly labelled one where Eq. 5 raises the annotated
class's logit: where its entry lies below the label's mean of all entries. Nothing that is trained changes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from repro.engine.method import Batch, Method


class GradientDirections:
    """Counts them for ``method``, whose training images have the annotated classes ``observed`` (N,) and ``true`` (N,)."""

    def __init__(self, method: Method, observed: Tensor, true: Tensor) -> None:
        self._method, self._observed, self._true = method, observed, true
        #: Right visits and all visits, of correctly and then of wrongly labelled images.
        self.counts = torch.zeros(4, dtype=torch.int64, device=observed.device)

    def count(self, batch: Batch, gradient: Tensor) -> None:
        """Count the visits of ``batch``, given dL_meta/dC (B, K) and before the method's update."""
        observed, true = self._observed[batch.rows].unsqueeze(1), self._true[batch.rows].unsqueeze(1)
        of_observed = gradient.gather(1, observed).squeeze(1)
        wrong = (observed != true).squeeze(1)
        mean = (self._method.targets(batch.rows).to(gradient.dtype) * gradient).sum(dim=1)
        right = torch.where(wrong, gradient.gather(1, true).squeeze(1) < of_observed, of_observed < mean)
        self.counts += torch.stack([(right & ~wrong).sum(), (~wrong).sum(), (right & wrong).sum(), wrong.sum()])

    def metrics(self) -> dict[str, float]:
        """Return the shares of this epoch, and begin the next one; a share of no visits is left out."""
        counts = self.counts.tolist()
        self.counts.zero_()
        names = ("label/gradient_right_clean", "label/gradient_right_noisy")
        return {name: counts[2 * index] / counts[2 * index + 1] for index, name in enumerate(names) if counts[2 * index + 1]}
