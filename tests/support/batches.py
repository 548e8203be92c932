"""Batches as a method sees them inside a step."""

from __future__ import annotations

import torch
from torch import Tensor

from repro.engine.method import Batch, Method, Visit


def batch_at(
    method: Method, rows: Tensor, scores: Tensor | None = None, *, epoch: int = 0, step: int = 0, inputs: Tensor | None = None
) -> Batch:
    """Return the batch of the training images at ``rows`` (B,), with log f ``scores`` (B, K), and what ``method`` gives for the step."""
    observed = method.context.observed[rows]
    given = method.given(Visit(rows, observed, epoch, step))
    scores = torch.zeros(len(rows), method.context.num_classes) if scores is None else scores
    return Batch(rows=rows, observed=observed, log_probabilities=scores, inputs=inputs, given=given)
