"""Measuring a model on a labelled set, and the labels of a method on the training set."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.data.prepare import LabelledImages
from repro.data.transform import Transform
from repro.methods.base import Method
from repro.metrics import MAX_CLASS_SERIES, LabelTotals


@dataclass(frozen=True)
class Evaluation:
    """Mean cross-entropy (nats), accuracy, and accuracy per class (K,) of a model on a set."""

    loss: float
    accuracy: float
    class_accuracy: list[float]

    def row(self, split: str) -> dict[str, float]:
        """Return the metrics ``split/loss`` and ``split/accuracy``."""
        return {f"{split}/loss": self.loss, f"{split}/accuracy": self.accuracy}


@torch.no_grad()
def evaluate(model: nn.Module, data: LabelledImages, transform: Transform, *, num_classes: int, batch_size: int) -> Evaluation:
    """Evaluate ``model`` with its running BatchNorm statistics on ``data``, not augmented; its mode is left as it was.

    A model with an output that is not finite has no accuracy: it is NaN, so that a diverged run cannot pass for one at chance.
    """
    mode = model.training
    model.eval()
    device = data.labels.device
    # Sums in float32 over 10,000 losses lose digits that a float64 keeps; mps has no float64.
    exact = torch.float32 if device.type == "mps" else torch.float64
    loss = torch.zeros((), dtype=exact, device=device)
    correct = torch.zeros(num_classes, dtype=exact, device=device)
    try:
        for start in range(0, len(data), batch_size):
            labels = data.labels[start : start + batch_size]
            logits = model(transform(data.images[start : start + batch_size], None))
            loss += F.cross_entropy(logits, labels, reduction="sum").to(exact)
            correct.index_add_(0, labels, (logits.argmax(dim=1) == labels).to(exact))
    finally:
        model.train(mode)
    counts = torch.bincount(data.labels, minlength=num_classes)
    mean_loss = float(loss) / len(data)
    accuracy = float(correct.sum()) / len(data) if math.isfinite(mean_loss) else math.nan
    return Evaluation(mean_loss, accuracy, (correct / counts).tolist())


def class_accuracy_row(evaluation: Evaluation) -> dict[str, float]:
    """Return ``class_meta_accuracy/{k}`` for every class that the meta set has."""
    if len(evaluation.class_accuracy) > MAX_CLASS_SERIES:
        return {}
    return {f"class_meta_accuracy/{k:03d}": value for k, value in enumerate(evaluation.class_accuracy) if not math.isnan(value)}


@torch.no_grad()
def label_metrics(
    method: Method, observed: Tensor, true: Tensor, *, num_classes: int, noisy: bool, groups: Tensor | None = None, block: int = 8192
) -> dict[str, float]:
    """Return the label metrics of ``method`` over the training set, ``block`` images at a time; ``groups`` (K,) are superclasses."""
    totals = LabelTotals(num_classes, groups)
    for start in range(0, len(observed), block):
        rows = torch.arange(start, min(start + block, len(observed)), device=observed.device)
        totals.add(method.targets(rows), observed[rows], true[rows])
    return totals.metrics(noisy=noisy)
