"""Every way of taking a step that is compared, and the check that the others compute the engine's gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.clock import say
from benchmarks.execution import Execution, our_step
from benchmarks.peers import PEERS, CompiledDoubleBackwardStep, PeerStep, installed
from benchmarks.problem import Learner, Problem, make_learner, make_problem
from repro.errors import UserError
from repro.lookahead import coefficient_gradient

OURS = ("plain", "lookahead")
WHATS = (*OURS, *PEERS)
MODES = ("eager", "compile")

#: Largest relative distance in float64 between a peer's gradient and the engine's.
SAME_GRADIENT = 1e-9


@dataclass(frozen=True)
class Variant:
    """One way of taking a step.

    Attributes:
        what: ``plain``, ``lookahead`` or a peer.
        mode: ``eager`` or ``compile``.
        last_pass: of a peer, how the step on the new labels gets its forward pass: ``fresh`` or ``reused``; ``-`` for our own steps.
    """

    what: str
    mode: str
    last_pass: str = "-"

    def __str__(self) -> str:
        """Return the name that ``--alone`` takes."""
        return f"{self.what}:{self.mode}:{self.last_pass}"


def variants(whats: Sequence[str], modes: Sequence[str]) -> Iterator[Variant]:
    """Yield every variant of ``whats`` in ``modes`` that exists, plain steps first in each mode."""
    for mode in modes:
        for what in WHATS:
            if what not in whats:
                continue
            if what in OURS:
                yield Variant(what, mode)
            elif not installed(what):
                if mode == modes[0]:
                    say(f"{what} is not installed: pip install -e '.[bench]' brings it.")
            elif mode == "eager":
                yield Variant(what, mode, "fresh")
                yield Variant(what, mode, "reused")
            elif what == "double_backward":
                yield Variant(what, mode, "fresh")


def build(problem: Problem, variant: Variant) -> tuple[Learner, Callable[[], Any]]:
    """Return a learner at its start and the call that takes its step.

    Raises:
        UserError: our step does not exist in this mode.
    """
    if variant.what in OURS:
        plain = variant.what == "plain"
        learner = make_learner(problem, "one_hot" if plain else "instance_labels")
        execution = Execution(compile=variant.mode == "compile")
        own = our_step(problem, learner, execution)
        return learner, lambda: own(problem.inputs, problem.rows, None if plain else problem.meta)
    learner = make_learner(problem)
    kind: type[PeerStep] = CompiledDoubleBackwardStep if variant.mode == "compile" else PEERS[variant.what]
    step = kind(learner.model, learner.optimizer, learner.method, reuse=variant.last_pass == "reused")
    return learner, lambda: step(problem.inputs, problem.rows, problem.observed, epoch=0, meta=problem.meta)


def check_gradients() -> dict[str, float]:
    """Return each installed peer's relative distance from the engine's gradient, in float64 on a small network with BatchNorm.

    Raises:
        UserError: one is not the same gradient.
    """
    problem = make_problem("digits_cnn", device=torch.device("cpu"), batch=16, meta_batch=32)
    found: dict[str, float] = {}
    for name in [name for name in PEERS if installed(name)]:
        learner = make_learner(problem)
        model = learner.model.double()
        inputs, meta_inputs = problem.inputs.double(), problem.meta.inputs.double()
        coefficients = torch.rand(16, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 16
        exact = coefficient_gradient(model, inputs, coefficients, meta_inputs, problem.meta.targets, 0.3)
        for reuse in (False, True):
            step = PEERS[name](model, learner.optimizer, learner.method, reuse=reuse)
            own = step.coefficient_gradient(inputs, coefficients, meta_inputs, problem.meta.targets, 0.3)
            found[name] = max(found.get(name, 0.0), float((own - exact).norm() / exact.norm()))
        if not found[name] <= SAME_GRADIENT:
            raise UserError(f"{name}: its gradient differs from the engine's by {found[name]:.1e} (relative); at most {SAME_GRADIENT:.0e}.")
    return found
