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

import torch
from torch import Tensor, nn
from typing_extensions import override

from repro.config import registry
from repro.config.fields import setting
from repro.config.schema import MethodConfig, OptimConfig
from repro.engine.method import AnnotatedTargets, Batch, Context, one_hot
from repro.engine.optimizer import make_optimizer
from repro.randomness import Stream, seeded


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


#: How Phi steps, by variant: the algorithm, its momentum (Adam's beta_1) and its weight decay.
_STEPS = {"paper": ("sgd", 0.0, 0.0), "first_code": ("sgd", 0.9, 5e-4), "stable_code": ("adam", 0.9, 1e-4)}


@registry.method("meta_weight_net", config=MetaWeightNetConfig)
class MetaWeightNet(AnnotatedTargets):
    """One-hot targets, weighed by a learned function of the loss."""

    repeatable = True
    uses_meta = True
    weighs = True

    def __init__(self, config: MetaWeightNetConfig, context: Context) -> None:
        super().__init__(config, context)
        # V: losses (B, 1) to weights (B, 1). Its first weights are drawn apart from the model's, so that methods share those.
        with seeded(Stream(context.seed, "method", "meta_weight_net")):
            layers = [nn.Linear(1, config.hidden), nn.ReLU(), nn.Linear(config.hidden, 1), nn.Sigmoid()]
        self.network = nn.Sequential(*layers).to(context.device)
        algorithm, momentum, weight_decay = _STEPS[config.variant]
        recipe = OptimConfig("phi", algorithm, epochs=1, learning_rate=config.learning_rate, weight_decay=weight_decay, momentum=momentum)
        self._optimizer = make_optimizer(self.network, recipe)
        self.keep("optimizer", self._optimizer.tensors())

    @override
    def coefficients(self, batch: Batch) -> Tensor:
        return self._coefficients(batch).detach()

    def update(self, batch: Batch, gradient: Tensor) -> None:
        """Take one step on Phi."""
        with torch.enable_grad():
            # A sum of products whose derivative by C is the gradient.
            inner = (gradient.detach() * self._coefficients(batch)).sum()
        self._optimizer.step(torch.autograd.grad(inner, self._optimizer.parameters))

    def _coefficients(self, batch: Batch) -> Tensor:
        losses = -batch.log_probabilities.gather(1, batch.observed.unsqueeze(1))
        weights: Tensor = self.network(losses)
        total = weights.sum() if self.config.variant == "first_code" else len(batch.observed)
        return one_hot(batch.observed, self.context.num_classes) * weights / total
