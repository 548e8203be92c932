"""What a run made of each training image: its network's predictions and its method's trust, summed over the visits.

They tell wrong annotations from right ones better than the last prediction does, since a network learns what is wrong last. They come from
the forward passes that training takes anyway: augmented images, in training mode, before the step. ``predictions.npz``, which
:func:`numpy.load` reads, holds means over the visits, row by row as ``labels/`` has them:

* ``probabilities`` (N, K): of the classes;
* ``margins`` (N,): logit of the annotated class minus the largest other one (area under the margin; Pleiss et al. 2020);
* ``trust`` (N,): :meth:`repro.engine.method.Method.trust`; not there where the method has none;
* ``visits`` (N,): how many there were; ``observed`` (N,): annotated classes; ``indices`` (N,): positions in the published training set.

Where they are low, an annotation is doubtful (:mod:`repro.labels.doubt`). What to make of them shows on images whose labels are known to
be right, where the run holds some out: ``clean_probabilities`` (M, K), the means over the evaluations after each epoch of images of the
validation set (the meta set, unless ``split.validation_size`` says otherwise), augmented as in training, and ``clean_labels`` (M,). How
often the network predicted the annotated class at the visits of each of E epochs is in ``train_accuracy`` (E,), how often it predicted
that of the clean images afterwards in ``clean_accuracy`` (E,).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from repro.data.prepare import LabelledImages, RunData
from repro.engine.method import Batch
from repro.randomness import Stream

#: Of a validation set of twice as many images or more every second, third, ... is enough.
CLEAN = 1000


class Predictions(nn.Module):
    """The sums over the visits so far, as buffers: they are part of a run's state, and changed in place.

    Attributes:
        sums: of each image its probabilities, margin, trust and visits (N, K + 3), together, so that a step adds them in one operation.
        clean: of each clean image its probabilities (M, K).
        clean_accuracy: that after each epoch (E,).
        held_out: the clean images; ``None`` where the run holds none out.
    """

    sums: Tensor
    clean: Tensor
    clean_accuracy: Tensor

    def __init__(self, data: RunData, epochs: int) -> None:
        super().__init__()
        self._data, self.held_out = data, data.validation
        if self.held_out is not None:
            every = slice(None, None, max(1, len(self.held_out) // CLEAN))
            self.held_out = LabelledImages(self.held_out.images[every], self.held_out.labels[every])
        shapes = {"sums": (len(data.observed), data.num_classes + 3), "clean": (len(self.held_out or ()), data.num_classes)}
        for name, shape in (shapes | {"clean_accuracy": (epochs,)}).items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float32, device=data.observed.device))

    def add(self, batch: Batch, trust: Tensor | None) -> None:
        """Add a visit of each image of ``batch``; ``trust`` (B,) is that of the method."""
        scores, annotated = batch.log_probabilities, batch.observed.unsqueeze(1)
        own = scores.gather(1, annotated)
        margin = own - scores.scatter(1, annotated, -torch.inf).amax(dim=1, keepdim=True)
        # Of a method without an opinion the sum stays NaN.
        trusted = torch.full_like(own, torch.nan) if trust is None else trust.unsqueeze(1)
        values = torch.cat([scores.exp(), margin, trusted, torch.ones_like(own)], dim=1)
        self.sums.index_add_(0, batch.rows, values.to(torch.float32))

    def shown(self, stream: Stream) -> LabelledImages:
        """Return the clean images as training shows its own, with what ``stream`` draws."""
        assert self.held_out is not None
        draws = self._data.transform.draw(stream, len(self.held_out))
        return LabelledImages(self._data.transform(self.held_out.images, draws), self.held_out.labels)

    def add_clean(self, epoch: int, probabilities: Tensor) -> None:
        """Add what the network predicts after ``epoch``, from 1: the probabilities (M, K) of the classes of the clean images."""
        assert self.held_out is not None
        self.clean += probabilities
        self.clean_accuracy[epoch - 1] = (probabilities.argmax(dim=1) == self.held_out.labels).to(torch.float32).mean()

    def content(self, rows: Sequence[dict[str, Any]]) -> bytes:
        """Return what ``predictions.npz`` holds at the end of a run whose metrics are ``rows``, from epoch 0 on."""
        sums = self.sums.cpu().numpy()
        visits = sums[:, -1]
        # An image that was never visited, as may be where incomplete batches are left out, has 0.
        mean = sums / np.maximum(visits, 1.0)[:, None]
        means = {"probabilities": mean[:, :-3], "margins": mean[:, -3], "trust": mean[:, -2]}
        if np.isnan(means["trust"]).any():
            del means["trust"]
        if self.held_out is not None:
            accuracy, labels = self.clean_accuracy.cpu().numpy(), self.held_out.labels.cpu().numpy()
            means |= {"clean_probabilities": self.clean.cpu().numpy() / len(accuracy), "clean_labels": labels, "clean_accuracy": accuracy}
            means["train_accuracy"] = np.array([row["train/accuracy"] for row in rows[1:]])
        written = io.BytesIO()
        np.savez(written, **means, visits=visits, observed=self._data.observed.cpu().numpy(), indices=self._data.train_indices)
        return written.getvalue()
