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
    """The sums over the visits so far, as buffers: they are part of a run's state, and changed in place."""

    probabilities: Tensor
    margins: Tensor
    trust: Tensor
    visits: Tensor
    clean: Tensor
    evaluations: Tensor

    def __init__(self, num_images: int, num_classes: int, device: torch.device, num_clean: int = 0) -> None:
        super().__init__()
        shapes = {"probabilities": (num_images, num_classes), "clean": (num_clean, num_classes), "evaluations": ()}
        for name in ("probabilities", "margins", "trust", "visits", "clean", "evaluations"):
            zeros = torch.zeros(shapes.get(name, (num_images,)), dtype=torch.float32, device=device)
            self.register_buffer(name, zeros)

    def add(self, batch: Batch, trust: Tensor | None) -> None:
        """Add a visit of each image of ``batch``; ``trust`` (B,) is that of the method."""
        scores, annotated = batch.log_probabilities, batch.observed.unsqueeze(1)
        own = scores.gather(1, annotated).squeeze(1)
        values = {
            "probabilities": scores.exp(),
            "margins": own - scores.scatter(1, annotated, -torch.inf).amax(dim=1),
            # Of a method without an opinion the sum stays NaN.
            "trust": torch.full_like(own, torch.nan) if trust is None else trust,
            "visits": torch.ones_like(own),
        }
        for name, value in values.items():
            self.get_buffer(name).index_add_(0, batch.rows, value.to(torch.float32))

    def add_clean(self, probabilities: Tensor) -> None:
        """Add an evaluation: the probabilities (M, K) of the classes of the clean images."""
        self.clean += probabilities
        self.evaluations += 1

    def content(self, data: RunData) -> bytes:
        """Return what ``predictions.npz`` holds at the end of a run on ``data``."""
        sums = {name: buffer.cpu().numpy() for name, buffer in self.named_buffers()}
        # An image that was never visited, as may be where incomplete batches are left out, has 0.
        count = np.maximum(sums["visits"], 1.0)
        means = {name: (sums[name].T / count).T for name in ("probabilities", "margins", "trust")}
        if np.isnan(means["trust"]).any():
            del means["trust"]
        if data.validation is not None:
            clean = sums["clean"] / sums["evaluations"]
            means |= {"clean_probabilities": clean, "clean_labels": data.validation.labels.cpu().numpy()}
        written = io.BytesIO()
        np.savez(written, **means, visits=sums["visits"], observed=data.observed.cpu().numpy(), indices=data.train_indices)
        return written.getvalue()
