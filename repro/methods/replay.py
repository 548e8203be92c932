"""Replay (section 3.1, stage 2): training on all the data with the labels that were learned on the folds.

"Dynamic" labels of Table 3: at each step the image i has the target p_i that the inputs' label trajectories, averaged, had at the
same moment (:mod:`repro.averaging`), so C_ik = p_ik / n. Nothing is learned about labels here: no held-out data is left (C5).

Choices where the paper is silent: which folds are averaged for an image (C1), which moments correspond (C2), whether
probabilities or logits are averaged (C4). What was recorded, before or after the update of a visit, is the inputs'
``trajectory.when`` (C3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from repro import registry
from repro.averaging import Moment, averaged_labels, check_length
from repro.config import MethodConfig
from repro.fields import setting
from repro.methods.base import Batch, Context, Method


@dataclass
class ReplayConfig(MethodConfig):
    """How the trajectories are averaged and matched in time."""

    name: str = "replay"
    align: str = setting(
        "auto",
        help="which moments correspond (C2); auto: visit for instance labels, fraction for class labels",
        choices=("auto", "visit", "fraction", "epoch_end", "step"),
    )
    folds: str = setting(
        "trained",
        help="average over the inputs that trained on the image, or over all; the others keep its first label (C1)",
        choices=("trained", "all"),
    )
    mean: str = setting("probability", help="what is averaged (C4)", choices=("probability", "logit"))


@registry.method("replay", config=ReplayConfig)
class Replay(Method):
    """Fixed trajectories of targets."""

    compiles = "network"

    def __init__(self, config: ReplayConfig, context: Context) -> None:
        super().__init__(config, context)
        self._labels = averaged_labels(context, align=config.align, mean=config.mean, folds=config.folds)
        check_length(self._labels)
        self._moment = Moment(0, 0)

    @classmethod
    def reads_inputs(cls, config: Any) -> tuple[str, ...]:
        """See :meth:`Method.reads_inputs`."""
        return ("labels",)

    def coefficients(self, batch: Batch) -> Tensor:
        """See :meth:`Method.coefficients`."""
        self._moment = Moment(batch.epoch, batch.step)
        return self.targets(batch.rows) / len(batch.rows)

    def targets(self, rows: Tensor) -> Tensor:
        """Return the targets at the step that was taken last; before the first one, those of the first step."""
        return self._labels.at(rows, self._moment)
