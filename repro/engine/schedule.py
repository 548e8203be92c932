"""The learning rate and the momentum of each epoch: pure functions of the recipe, so a resumed run needs no state of theirs."""

from __future__ import annotations

import math

from repro.config.schema import OptimConfig
from repro.engine.optimizer import Optimizer


class Schedule:
    """The schedule of a recipe (A3, A4). Epochs are counted from 0: ``epoch`` is the number of completed ones."""

    def __init__(self, config: OptimConfig) -> None:
        self._config = config

    def learning_rate(self, epoch: int) -> float:
        """Return the learning rate of an epoch."""
        config = self._config
        if epoch < config.warmup_epochs:
            return config.learning_rate * (epoch + 1) / config.warmup_epochs
        if config.schedule == "step":
            passed = sum(milestone <= epoch for milestone in config.milestones)
            return config.learning_rate * config.gamma**passed
        if config.schedule == "cosine":
            done = (epoch - config.warmup_epochs) / max(1, config.epochs - config.warmup_epochs)
            return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * done))
        if config.schedule == "linear" and epoch >= config.decay_from:
            return config.learning_rate * (config.epochs - epoch) / max(1, config.epochs - config.decay_from)
        return config.learning_rate

    def momentum(self, epoch: int) -> float:
        """Return the momentum of an epoch, Adam's beta_1."""
        late = self._config.late_momentum
        return self._config.momentum if late is None or epoch < self._config.decay_from else late

    def apply(self, optimizer: Optimizer, epoch: int) -> None:
        """Set both in ``optimizer`` for the steps of an epoch."""
        optimizer.learning_rate, optimizer.momentum = self.learning_rate(epoch), self.momentum(epoch)
