"""The engine under its public name; see :mod:`repro.engine.lookahead`."""

from repro.engine.lookahead import coefficient_gradient, lookahead_gradient, loss_gradients, recorded_forward
from repro.engine.optimizer import Lookahead

__all__ = ["Lookahead", "coefficient_gradient", "lookahead_gradient", "loss_gradients", "recorded_forward"]
