"""One-hot targets: the baseline of every table. Eq. 1 with alpha = 0, so C_ik = [k = y_i] / n."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from repro import registry
from repro.config import MethodConfig
from repro.methods.base import Batch, Method, one_hot


@dataclass
class OneHotConfig(MethodConfig):
    """One-hot targets have no settings."""

    name: str = "one_hot"


@registry.method("one_hot", config=OneHotConfig)
class OneHot(Method):
    """Cross-entropy with the annotated labels."""

    compiles = "everything"

    def coefficients(self, batch: Batch) -> Tensor:
        """See :meth:`Method.coefficients`."""
        return one_hot(batch.observed, self.context.num_classes) / len(batch.observed)

    def targets(self, rows: Tensor) -> Tensor:
        """See :meth:`Method.targets`."""
        return one_hot(self.context.observed[rows], self.context.num_classes)
