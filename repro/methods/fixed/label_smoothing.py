"""Label smoothing (Szegedy et al. 2016), the fixed-label baseline of Tables 2, 4 and 8, and a correction of label noise.

Two conventions are in use, and the paper does not say which its baseline has:

* ``uniform``: mass ``a`` is spread over all K classes, the annotated one included (Szegedy et al., Mueller et al.):
  p = (1 - a) onehot + a / K;
* ``nontarget``: mass ``a`` goes to the other K - 1 classes only, as the paper's class labels have it (section 2.1).

``uniform`` with ``a`` equals ``nontarget`` with a (K - 1) / K. A third form belongs to the study of Lukasik et al. 2020, in which
smoothing is one of several matrices that a vector of losses is multiplied by:

* ``noise``: the target of an image annotated as y is row y of the transition matrix of the run's noise; for uniform noise that may
  draw the true class this is ``uniform`` with ``a`` equal to the rate.

C_ik = p_ik / n.

Deviation: the paper gives no ``a``; the default 0.1 is the usual one (D).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from repro.config import registry
from repro.config.fields import setting
from repro.config.schema import MethodConfig
from repro.engine.method import Context, Method, smoothed
from repro.methods.shared.transition import known_transition


@dataclass
class LabelSmoothingConfig(MethodConfig):
    """How much mass is moved, and where to."""

    name: str = "label_smoothing"
    alpha: float = setting(
        0.1, help="probability mass that is moved off the annotated class; the form noise ignores it", at_least=0.0, at_most=1.0
    )
    form: str = setting(
        "uniform",
        help="where the mass goes: all classes; all but the annotated one; as the noise has it",
        choices=("uniform", "nontarget", "noise"),
    )


@registry.method("label_smoothing", config=LabelSmoothingConfig)
class LabelSmoothing(Method):
    """Fixed smoothed targets."""

    repeatable = True

    def __init__(self, config: LabelSmoothingConfig, context: Context) -> None:
        super().__init__(config, context)
        moved = config.alpha
        if config.form == "uniform":
            moved *= (context.num_classes - 1) / context.num_classes
        self._target_probability = 1.0 - moved
        self._matrix = known_transition(context) if config.form == "noise" else None

    @override
    def targets(self, rows: Tensor) -> Tensor:
        if self._matrix is not None:
            return self._matrix[self.context.observed[rows]]
        return smoothed(self.context.observed[rows], self._target_probability, self.context.num_classes)
