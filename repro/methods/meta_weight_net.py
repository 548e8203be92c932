"""Meta-Weight-Net (Shu et al. 2019), a row of Table 6: the weight of an image is a learned function of its loss.

C_i = V(l_i; Phi) onehot(y_i) / n, where l_i is the cross-entropy of image i under the present model and V is a network 1-100-1 with a
ReLU and a sigmoid. dL_meta/dV_i = dL_meta/dC_{i, y_i} / n is back-propagated through V to Phi, which takes one step; the real step uses
the new V at the same losses.

Variants (``variant``), where the paper and its two codes differ:

* ``paper``: SGD on Phi without momentum or decay, weights as V gives them;
* ``first_code`` (the code of the paper's time): SGD with momentum 0.9 and decay 5e-4, and the weights of a batch divided by their sum,
  C_i = V_i onehot(y_i) / sum_j V_j, in the look-ahead as in the real step;
* ``stable_code`` (the later one): Adam with decay 1e-4, weights as V gives them.

Recipe: ``optim=setting_a``, a meta batch of 100. The step size of Phi is 1e-3 in all of them. Deviations: Nesterov's momentum of
the first code, and its fresh draw of the meta batch (``meta.sampler=fresh``), are settings of the run; results are read at the last
epoch, where the codes report the best test epoch (A12).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from repro import registry
from repro.config import MethodConfig
from repro.determinism import Stream, seeded
from repro.fields import setting
from repro.methods.base import Batch, Context, Method, one_hot
from repro.owned import OwnedNetwork


@dataclass
class MetaWeightNetConfig(MethodConfig):
    """The function of the loss, and how it learns."""

    name: str = "meta_weight_net"
    variant: str = setting(
        "paper",
        help="paper: SGD; first_code: SGD with momentum 0.9 and decay 5e-4, weights divided by their sum; stable_code: Adam",
        choices=("paper", "first_code", "stable_code"),
    )
    learning_rate: float = setting(1e-3, help="step size of Phi; no schedule", at_least=0.0)
    hidden: int = setting(100, help="units of the hidden layer", at_least=1, at_most=100_000)


class _WeightNet(nn.Module):
    """V: losses (B, 1) to weights (B, 1) in (0, 1)."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, hidden), nn.ReLU(), nn.Linear(hidden, 1), nn.Sigmoid())

    def forward(self, losses: Tensor) -> Tensor:
        weights: Tensor = self.layers(losses)
        return weights


@registry.method("meta_weight_net", config=MetaWeightNetConfig)
class MetaWeightNet(Method):
    """One-hot targets, weighed by a learned function of the loss."""

    uses_meta: ClassVar[bool] = True
    weighs: ClassVar[bool] = True

    def __init__(self, config: MetaWeightNetConfig, context: Context) -> None:
        super().__init__(config, context)
        self._normalized = config.variant == "first_code"
        # Its first weights are drawn apart from the model's, so that methods share those.
        with seeded(Stream(context.seed, "method", "meta_weight_net")):
            network = _WeightNet(config.hidden).to(context.device)
        self._owned = OwnedNetwork(network, _optimizer(network, config))

    def coefficients(self, batch: Batch) -> Tensor:
        """See :meth:`Method.coefficients`."""
        return self._coefficients(batch).detach()

    def update(self, batch: Batch, gradient: Tensor) -> None:
        """Take one step on Phi."""
        with torch.enable_grad():
            # A sum of products whose derivative by C is the gradient.
            inner = (gradient.detach() * self._coefficients(batch)).sum()
        self._owned.optimizer.zero_grad(set_to_none=True)
        inner.backward()  # type: ignore[no-untyped-call]
        self._owned.optimizer.step()

    def targets(self, rows: Tensor) -> Tensor:
        """See :meth:`Method.targets`."""
        return one_hot(self.context.observed[rows], self.context.num_classes)

    def state_dict(self) -> dict[str, Tensor]:
        """See :meth:`Method.state_dict`."""
        return self._owned.state_dict("weight_net")

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """See :meth:`Method.load_state_dict`."""
        self._owned.load_state_dict(state, "weight_net")

    def _coefficients(self, batch: Batch) -> Tensor:
        losses = -batch.log_probabilities.gather(1, batch.observed.unsqueeze(1))
        weights: Tensor = self._owned.network(losses)
        total = weights.sum() if self._normalized else len(batch.observed)
        return one_hot(batch.observed, self.context.num_classes) * weights / total


def _optimizer(network: nn.Module, config: Any) -> torch.optim.Optimizer:
    if config.variant == "stable_code":
        return torch.optim.Adam(network.parameters(), lr=config.learning_rate, weight_decay=1e-4)
    if config.variant == "first_code":
        return torch.optim.SGD(network.parameters(), lr=config.learning_rate, momentum=0.9, weight_decay=5e-4)
    return torch.optim.SGD(network.parameters(), lr=config.learning_rate)
