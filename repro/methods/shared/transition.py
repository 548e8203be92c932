"""Transition matrices of label noise: known from the settings, estimated by a network, inverted.

T_ij is the probability that an image of class i is annotated as j. For uniform noise it is the smearing matrix (1 - a) I + a J / K,
with J all ones: what label smoothing trains on, row by row, and what forward and backward correction undo (Lukasik et al. 2020).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from repro.config.fields import setting
from repro.config.schema import MethodConfig
from repro.engine.method import AnnotatedTargets, Context
from repro.errors import UserError
from repro.methods.shared.teacher import load_teacher, logits_of_all

#: A matrix whose inverse multiplies round-off by more than this is of no use in float32.
WORST_CONDITION = 1e4


@dataclass
class CorrectionConfig(MethodConfig):
    """Where the transition matrix of forward and backward correction comes from."""

    matrix: str = setting(
        "known",
        help="transition matrix: known, from the settings of the noise; estimated, by the run inputs.teacher (D)",
        choices=("known", "estimated"),
    )
    percentile: float = setting(
        100.0, help="which image stands for a class in the estimate; 100: the most probable one (D)", above=0.0, at_most=100.0
    )


class CorrectionMethod(AnnotatedTargets):
    """A method that corrects the loss by a transition matrix, and reads a teacher where the matrix is estimated."""

    repeatable = True

    def __init__(self, config: CorrectionConfig, context: Context) -> None:
        super().__init__(config, context)
        #: T (K, K) that the settings ask for.
        self.transition = known_transition(context) if config.matrix == "known" else estimated_transition(context, config.percentile)

    @classmethod
    @override
    def reads_inputs(cls, config: Any) -> tuple[str, ...]:
        return ("teacher",) if config.matrix == "estimated" else ()


def known_transition(context: Context) -> Tensor:
    """Return the transition matrix (K, K) of the run's noise by its settings; the identity without noise."""
    if context.transition is None:
        return torch.eye(context.num_classes, device=context.device)
    return context.transition


def estimated_transition(context: Context, percentile: float) -> Tensor:
    """Return the transition matrix (K, K) that the teacher's predictions show (Patrini et al. 2017, Theorem 3).

    Row i is the prediction for the training image, not augmented, at the ``percentile`` of the probabilities of class i; 100 is the
    image with the highest one.
    """
    predicted = torch.softmax(logits_of_all(load_teacher(context), context), dim=1).to(torch.get_default_dtype())
    rank = max(1, math.ceil(percentile / 100.0 * len(predicted)))
    # Sorted and not kthvalue: CUDA has no deterministic one. Stable, so that of equal images the first counts.
    order = predicted.sort(dim=0, stable=True).indices
    return predicted[order[rank - 1]]


def inverse(matrix: Tensor) -> Tensor:
    """Return the inverse (K, K) of a transition matrix, computed in float64 on the CPU.

    Raises:
        UserError: it is singular, or so nearly that round-off would decide.
    """
    exact = matrix.detach().cpu().double()
    condition = float(torch.linalg.cond(exact))
    if not condition <= WORST_CONDITION:
        raise UserError(
            f"method=backward_correction: the transition matrix has a condition number of {condition:.3g}, above {WORST_CONDITION:.3g}, so "
            "it cannot be inverted. Use less noise, or method=forward_correction, which does not invert it."
        )
    inverted: Tensor = torch.linalg.inv(exact)
    return inverted.to(matrix)
