"""What a run made of each training image: its network's predictions and its method's trust, summed over the visits.

They tell wrong annotations from right ones better than the last prediction does, since a network learns what is wrong last. They come from
the forward passes that training takes anyway: augmented images, in training mode, before the step. ``predictions.npz``, which
:func:`numpy.load` reads, holds means over the visits, row by row as ``labels/`` has them:

* ``probabilities`` (N, K): of the classes;
* ``margins`` (N,): logit of the annotated class minus the largest other one (area under the margin; Pleiss et al. 2020);
* ``trust`` (N,): :meth:`repro.engine.method.Method.trust`; not there where the method has none;
* ``visits`` (N,): how many there were; ``observed`` (N,): annotated classes; ``indices`` (N,): positions in the published training set.

Where they are low, an annotation is doubtful (:mod:`repro.labels.doubt`). What to make of them shows on images whose labels are known to
be right, where the run holds some out: ``clean_probabilities`` (M, K), the means over the evaluations after each epoch of the validation
set (the meta set, unless ``split.validation_size`` says otherwise), not augmented, and ``clean_labels`` (M,).
"""

from __future__ import annotations

import io

import numpy as np
import torch
from torch import Tensor, nn

from repro.data.prepare import RunData
from repro.engine.method import Batch


class Predictions(nn.Module):
    """The sums over the visits so far, as buffers: they are part of a run's state, and changed in place.

    Attributes:
        sums: of each image its probabilities, margin, trust and visits (N, K + 3), together, so that a step adds them in one operation.
        clean: of each clean image its probabilities (M, K).
        evaluations: how many these sums are of.
    """

    sums: Tensor
    clean: Tensor
    evaluations: Tensor

    def __init__(self, num_images: int, num_classes: int, device: torch.device, num_clean: int = 0) -> None:
        super().__init__()
        shapes = {"sums": (num_images, num_classes + 3), "clean": (num_clean, num_classes), "evaluations": ()}
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float32, device=device))

    def add(self, batch: Batch, trust: Tensor | None) -> None:
        """Add a visit of each image of ``batch``; ``trust`` (B,) is that of the method."""
        scores, annotated = batch.log_probabilities, batch.observed.unsqueeze(1)
        own = scores.gather(1, annotated)
        margin = own - scores.scatter(1, annotated, -torch.inf).amax(dim=1, keepdim=True)
        # Of a method without an opinion the sum stays NaN.
        trusted = torch.full_like(own, torch.nan) if trust is None else trust.unsqueeze(1)
        values = torch.cat([scores.exp(), margin, trusted, torch.ones_like(own)], dim=1)
        self.sums.index_add_(0, batch.rows, values.to(torch.float32))

    def add_clean(self, probabilities: Tensor) -> None:
        """Add an evaluation: the probabilities (M, K) of the classes of the clean images."""
        self.clean += probabilities
        self.evaluations += 1

    def content(self, data: RunData) -> bytes:
        """Return what ``predictions.npz`` holds at the end of a run on ``data``."""
        sums = self.sums.cpu().numpy()
        visits = sums[:, -1]
        # An image that was never visited, as may be where incomplete batches are left out, has 0.
        mean = sums / np.maximum(visits, 1.0)[:, None]
        means = {"probabilities": mean[:, :-3], "margins": mean[:, -3], "trust": mean[:, -2]}
        if np.isnan(means["trust"]).any():
            del means["trust"]
        if data.validation is not None:
            clean = (self.clean / self.evaluations).cpu().numpy()
            means |= {"clean_probabilities": clean, "clean_labels": data.validation.labels.cpu().numpy()}
        written = io.BytesIO()
        np.savez(written, **means, visits=visits, observed=data.observed.cpu().numpy(), indices=data.train_indices)
        return written.getvalue()
