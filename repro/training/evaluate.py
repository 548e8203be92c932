"""Measuring a model on a labelled set."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.data.prepare import LabelledImages
from repro.data.transform import Transform
from repro.metric_names import MAX_CLASS_SERIES


@dataclass(frozen=True)
class Evaluation:
    """Mean cross-entropy (nats), accuracy, and accuracy per class (K,) of a model on a set, and its probabilities (N, K) of the classes."""

    loss: float
    accuracy: float
    class_accuracy: list[float]
    probabilities: Tensor

    def row(self, split: str) -> dict[str, float]:
        """Return the metrics ``split/loss`` and ``split/accuracy``."""
        return {f"{split}/loss": self.loss, f"{split}/accuracy": self.accuracy}

    def class_row(self) -> dict[str, float]:
        """Return ``class_meta_accuracy/{k}`` for every class that the meta set has."""
        if len(self.class_accuracy) > MAX_CLASS_SERIES:
            return {}
        return {f"class_meta_accuracy/{k:03d}": value for k, value in enumerate(self.class_accuracy) if not math.isnan(value)}


def exact_dtype(device: torch.device) -> torch.dtype:
    """Return the type of sums: float32 loses digits over 10,000 losses that float64 keeps, which mps has not."""
    return torch.float32 if device.type == "mps" else torch.float64


@torch.no_grad()
def evaluate(model: nn.Module, data: LabelledImages, transform: Transform, *, num_classes: int, batch_size: int) -> Evaluation:
    """Evaluate ``model`` with its running BatchNorm statistics on ``data``, not augmented; its mode is left as it was.

    A model with an output that is not finite has no accuracy: it is NaN, so that a diverged run cannot pass for one at chance.
    """
    mode = model.training
    model.eval()
    device = data.labels.device
    exact = exact_dtype(device)
    loss = torch.zeros((), dtype=exact, device=device)
    correct = torch.zeros(num_classes, dtype=exact, device=device)
    probabilities = torch.empty((len(data), num_classes), device=device)
    try:
        for start in range(0, len(data), batch_size):
            labels = data.labels[start : start + batch_size]
            logits = model(transform(data.images[start : start + batch_size], None))
            probabilities[start : start + batch_size] = logits.softmax(dim=1)
            loss += F.cross_entropy(logits, labels, reduction="sum").to(exact)
            correct.index_add_(0, labels, (logits.argmax(dim=1) == labels).to(exact))
    finally:
        model.train(mode)
    # Not bincount, which asks the device how many classes there are.
    counts = torch.zeros_like(correct).index_add_(0, data.labels, torch.ones_like(data.labels, dtype=exact))
    mean_loss = float(loss) / len(data)
    accuracy = float(correct.sum()) / len(data) if math.isfinite(mean_loss) else math.nan
    return Evaluation(mean_loss, accuracy, (correct / counts).tolist(), probabilities)
