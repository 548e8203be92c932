"""Replay (section 3.1, stage 2): training on all the data with the labels that were learned on the folds.

"Dynamic" labels of Table 3: at each step the image i has the target p_i that the inputs' label trajectories, averaged, had at the
same moment (:mod:`repro.methods.shared.averaged_labels`), so C_ik = p_ik / n. Nothing is learned about labels here: no held-out data is
left (C5).

Choices where the paper is silent: which folds are averaged for an image (C1), which moments correspond (C2), whether
probabilities or logits are averaged (C4). What was recorded, before or after the update of a visit, is the inputs'
``trajectory.when`` (C3).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from repro.config import registry
from repro.config.fields import setting
from repro.engine.method import Batch, Context, Method, Visit
from repro.errors import UserError
from repro.methods.shared.averaged_labels import AveragedLabelsConfig, averaged_labels


@dataclass
class ReplayConfig(AveragedLabelsConfig):
    """How the trajectories are averaged and matched in time."""

    name: str = "replay"
    align: str = setting(
        "auto",
        help="which moments correspond (C2); auto: visit for instance labels, fraction for class labels",
        choices=("auto", "visit", "fraction"),
    )


@registry.method("replay", config=ReplayConfig)
class Replay(Method):
    """Fixed trajectories of targets."""

    repeatable = True
    reads = ("labels",)

    def __init__(self, config: ReplayConfig, context: Context) -> None:
        super().__init__(config, context)
        self._labels = averaged_labels(context, config, config.align)
        if self._labels.align != "fraction" and self._labels.epochs != context.epochs:
            raise UserError(
                f"optim.epochs={context.epochs}, but the labels were recorded over {self._labels.epochs} epochs: with "
                f"method.align={self._labels.align} both must be equal. method.align=fraction stretches the trajectory."
            )
        self._moment = 0, 0

    @override
    def given(self, visit: Visit) -> tuple[Tensor, ...]:
        self._moment = visit.epoch, visit.step
        return (self.targets(visit.rows),)

    @override
    def coefficients(self, batch: Batch) -> Tensor:
        return batch.given[0] / len(batch.rows)

    def targets(self, rows: Tensor) -> Tensor:
        """Return the targets at the step that was taken last; before the first one, those of the first step."""
        return self._labels.at(rows, *self._moment)
