"""Co-teaching (Han et al. 2018), a row of Table 6: two networks choose for each other the images to train on.

Two networks of one architecture start differently and see the same batches. Of a batch each takes the images with the smallest losses,
all but the share R(t), and the *other* network trains on those: C_i = onehot(y_i) / m for the m images that the peer chose, 0 for the
rest. R grows linearly from 0 to ``forget_rate`` over the first ``gradual_epochs``; forget_rate is the noise rate, where nothing else is
given: the probability that a label is wrong.

The run's model is the first network; the method owns the second, which has the run's recipe and its schedule, and is measured beside
the first (``peer_test/accuracy``).

Recipe: ``model=cnn_9 augment=pixels noise.include_true=false`` (Adam), and ``optim.decay_from=100`` for CIFAR-100.
Choices: ``divide_again`` is the authors' code, which divides the mean over the m images by m once more; the default follows the paper.
Deviations: in the common recipe of a table its network, SGD and augmentation; the authors also leave the last incomplete batch out of
the test set.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from repro.config import registry
from repro.config.fields import setting
from repro.config.schema import MethodConfig
from repro.engine.method import Batch, Context, Visit, WeighedImages, one_hot
from repro.engine.optimizer import Optimizer, make_optimizer
from repro.engine.schedule import Schedule
from repro.methods.shared.transition import known_transition


@dataclass
class CoTeachingConfig(MethodConfig):
    """How many images of a batch are left out."""

    name: str = "co_teaching"
    forget_rate: float | None = setting(
        None, help="share of a batch that is left out in the end; null: the probability that a label is wrong", at_least=0.0, below=1.0
    )
    gradual_epochs: int = setting(10, help="epochs in which that share grows from 0", at_least=1)
    divide_again: bool = setting(False, help="divide the loss by the number of kept images twice, as the authors' code does")


@registry.method("co_teaching", config=CoTeachingConfig)
class CoTeaching(WeighedImages):
    """One-hot targets on the images that the peer finds easy."""

    num_networks = 2
    repeatable = True

    def __init__(self, config: CoTeachingConfig, context: Context) -> None:
        super().__init__(config, context)
        assert context.make_network is not None
        assert context.optim is not None
        wrong = 1.0 - float(known_transition(context).diagonal().mean())
        self._forget_rate = wrong if config.forget_rate is None else config.forget_rate
        self.peer = context.make_network("peer").train()
        self._peer_optimizer, self._schedule = make_optimizer(self.peer, context.optim), Schedule(context.optim)
        self.keep("peer_optimizer", self._peer_optimizer.tensors())
        self._scores: Tensor | None = None

    def kept(self, size: int, epoch: int) -> int:
        """Return how many images of a batch of ``size`` stay after ``epoch`` completed epochs."""
        forgotten = self._forget_rate * min(1.0, epoch / self.config.gradual_epochs)
        return max(1, int((1.0 - forgotten) * size))

    @override
    def given(self, visit: Visit) -> tuple[Tensor, ...]:
        """Return the weight (B,) of the image with the smallest loss, that with the next one, and so on."""
        self._schedule.apply(self._peer_optimizer, visit.epoch)
        count = self.kept(len(visit.rows), visit.epoch)
        by_rank = torch.zeros(len(visit.rows), device=self.context.device)
        by_rank[:count] = 1.0 / (count * count if self.config.divide_again else count)
        return (by_rank,)

    @override
    def optimizers(self) -> tuple[Optimizer, ...]:
        return (self._peer_optimizer,)

    def weights(self, batch: Batch) -> Tensor:
        """Return the weights (B,) for the first network: of the images with the smallest losses of the second."""
        assert batch.inputs is not None
        with torch.enable_grad():
            self._scores = F.log_softmax(self.peer(batch.inputs), dim=1)
        return _chosen_by(self._scores.detach(), batch)

    def after_step(self, batch: Batch) -> None:
        """Step the second network on the images that the first, before its step, found easy."""
        scores, self._scores = self._scores, None
        assert scores is not None
        weights = _chosen_by(batch.log_probabilities, batch).unsqueeze(1)
        loss = -(one_hot(batch.observed, self.context.num_classes) * weights * scores).sum()
        self._peer_optimizer.step(torch.autograd.grad(loss, self._peer_optimizer.parameters))

    @override
    def networks(self) -> dict[str, nn.Module]:
        return {"peer": self.peer}


def _chosen_by(log_probabilities: Tensor, batch: Batch) -> Tensor:
    """Return the weights (B,) of images that a network with these log f (B, K) chooses."""
    losses = -log_probabilities.gather(1, batch.observed.unsqueeze(1)).squeeze(1)
    weights = torch.zeros_like(batch.given[0])
    weights[losses.sort(stable=True).indices] = batch.given[0]
    return weights
