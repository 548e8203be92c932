"""The plain step and the step that learns labels: time, images per second and peak memory, beside the same step written with other tools.

``python benchmarks/step.py --model resnet18 --device cpu --json``
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The profiler, which counts memory, would otherwise announce on the standard error that there is no GPU.
os.environ.setdefault("KINETO_LOG_LEVEL", "5")

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, and not installed

from benchmarks.common.arguments import list_of, page_parser, run, say
from benchmarks.common.memory import graphs_mib, peak_mib
from benchmarks.common.page import Page, Table
from benchmarks.common.problem import DATASETS, Learner, Problem, make_learner, make_problem, step_flops
from benchmarks.peers import PEERS, CompiledDoubleBackwardStep, installed
from repro.command import whole_number
from repro.config.schema import ExecConfig
from repro.engine.compiled import RepeatedStep
from repro.engine.execution import prepare_model
from repro.engine.lookahead import coefficient_gradient
from repro.engine.step import TrainingStep
from repro.errors import UserError
from repro.measure import CLOCKS, Sample, in_turns
from repro.randomness import make_deterministic
from repro.training.allocator import keep_freed_memory
from repro.training.guard import movement
from repro.training.run import choose_device

OURS = ("plain", "lookahead")
WHATS = (*OURS, *PEERS)

#: A mode is some of these, as ``bfloat16+channels_last+compile``. With ``tf32``, products in float32 on CUDA round factors to 10 bits.
MODE_WORDS = ("eager", "compile", "cuda_graphs", "channels_last", "bfloat16", "tf32")

#: Largest relative distance in float64 between a peer's gradient and the engine's.
SAME_GRADIENT = 1e-9

#: Largest relative distance, after one float32 step from the same start, between a variant's movement and that of the eager look-ahead
#: (plain step). Rounding alone stays far below; a gradient that is only approximated does not.
EXACT = 1e-2


@dataclass(frozen=True)
class Variant:
    """One way of taking a step: ``plain``, ``lookahead`` or a peer; words of :data:`MODE_WORDS`, joined by ``+``.

    Attributes:
        last_pass: of a peer, how the step on the new labels gets its forward pass: ``fresh`` or ``reused``; ``-`` for our own steps.
    """

    what: str
    mode: str
    last_pass: str = "-"

    def __str__(self) -> str:
        """Return it as messages name it."""
        return f"{self.what}:{self.mode}:{self.last_pass}"


@dataclass(frozen=True)
class Measured:
    """What was measured of a variant.

    Attributes:
        ratio: to the plain step in the same mode, round by round.
        difference: relative distance of its first step's movement from that of the same step taken eagerly by us.
        flops: of our own step, counted.
    """

    variant: Variant
    seconds: Sample
    ratio: Sample
    peak_mib: float
    difference: float
    flops: float


def variants(whats: Sequence[str], modes: Sequence[str]) -> Iterator[Variant]:
    """Yield every variant of ``whats`` in ``modes`` that exists, plain steps first in each mode."""
    for mode in modes:
        for what in (known for known in WHATS if known in whats):
            if what in OURS:
                yield Variant(what, mode)
            elif not installed(what):
                say(f"{what} is not installed: pip install -e '.[bench]' brings it.")
            elif mode == "eager":
                yield Variant(what, mode, "fresh")
                yield Variant(what, mode, "reused")
            elif mode == "compile" and what == "double_backward":
                yield Variant(what, mode, "fresh")


def build(problem: Problem, variant: Variant) -> tuple[Learner, Callable[[], Any]]:
    """Return a learner at its start and the call that takes its step.

    Raises:
        UserError: our step does not exist in this mode on the device.
    """
    learner = make_learner(problem, "one_hot" if variant.what == "plain" else "instance_labels")
    step: Any
    if variant.what in OURS:
        words = variant.mode.split("+")
        config = ExecConfig(
            name=variant.mode,
            precision="bfloat16" if "bfloat16" in words else "float32",
            compile="compile" in words,
            cuda_graphs="cuda_graphs" in words,
            channels_last="channels_last" in words,
        )
        model = prepare_model(learner.model, config, problem.device)
        parts = (model, learner.optimizer, learner.method, problem.config.optim, problem.config.meta)
        if config.compile or config.cuda_graphs:
            step = RepeatedStep(*parts, compile_step=config.compile, cuda_graphs=config.cuda_graphs)
        else:
            step = TrainingStep(*parts)
    else:
        kind = CompiledDoubleBackwardStep if variant.mode == "compile" else PEERS[variant.what]
        step = kind(learner.model, learner.optimizer, learner.method, reuse=variant.last_pass == "reused")
    meta = None if variant.what == "plain" else problem.meta
    return learner, lambda: step(problem.inputs, problem.rows, problem.labels[problem.rows], epoch=0, meta=meta)


def set_tf32(mode: str) -> None:
    """Allow TensorFloat-32 on CUDA, or not; it holds for the whole process, so it is set before each step that is measured."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = "tf32" in mode.split("+")


def check_gradients() -> dict[str, float]:
    """Return each installed peer's relative distance from the engine's gradient, in float64 on a small network with BatchNorm.

    Raises:
        UserError: one is not the same gradient.
    """
    problem = make_problem("digits_cnn", device=torch.device("cpu"), batch=16, meta_batch=32)
    found: dict[str, float] = {}
    coefficients = torch.rand(16, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 16
    for name in [name for name in PEERS if installed(name)]:
        learner = make_learner(problem, "instance_labels")
        model, meta = learner.model.double(), (problem.meta.inputs.double(), problem.meta.targets)
        exact = coefficient_gradient(model, problem.inputs.double(), coefficients, *meta, 0.3)
        for reuse in (False, True):
            own = PEERS[name](model, learner.optimizer, learner.method, reuse=reuse).coefficient_gradient(
                problem.inputs.double(), coefficients, *meta, 0.3
            )
            found[name] = max(found.get(name, 0.0), float((own - exact).norm() / exact.norm()))
        if not found[name] <= SAME_GRADIENT:
            raise UserError(f"{name}: its gradient differs from the engine's by {found[name]:.1e} (relative); at most {SAME_GRADIENT:.0e}.")
    return found


def measure(problem: Problem, wanted: Sequence[Variant], *, repeats: int, clock: str = "wall") -> list[Measured]:
    """Take every variant's first step and compare it, then one for its memory, then ``repeats`` in turns for its time."""
    built: dict[Variant, tuple[Learner, Callable[[], Any]]] = {}
    difference: dict[Variant, float] = {}
    graphs: dict[Variant, float] = {}
    moved: dict[str, list[Tensor]] = {}
    for variant in wanted:
        reference = "plain" if variant.what == "plain" else "lookahead"
        set_tf32(variant.mode)
        try:
            learner, call = build(problem, variant)
            if reference not in moved:
                moved[reference] = first_step(*build(problem, Variant(reference, "eager")))
            before = graphs_mib(problem.device)
            difference[variant] = distance(first_step(learner, call), moved[reference])
            graphs[variant] = graphs_mib(problem.device) - before
        except (UserError, torch._dynamo.exc.TorchDynamoException) as error:
            say(f"{variant} left out: {str(error).splitlines()[0]}")
            continue
        built[variant] = learner, call
        say(f"{variant}: first step done")
    moved.clear()
    peaks = {variant: peak_mib(call, problem, learner) + graphs[variant] for variant, (learner, call) in built.items()}
    calls = {variant: call for variant, (_, call) in built.items()}
    seconds = in_turns(
        calls, repeats=repeats, device=problem.device, clock=clock, before=lambda item: set_tf32(item.mode), at_least_s=0.05, say=say
    )
    rows = []
    for variant, taken in seconds.items():
        plain = seconds.get(Variant("plain", variant.mode))
        ratio = Sample((float("nan"),)) if plain is None else taken.over(plain)
        flops = step_flops(problem, learns=variant.what != "plain")
        rows.append(Measured(variant, taken, ratio, peaks[variant], difference[variant], flops))
    return rows


def first_step(learner: Learner, call: Callable[[], Any]) -> list[Tensor]:
    """Return how far one step moves the parameters and, where labels learn, the labels."""
    return [moved for moved in movement(learner.model, learner.method, call) if len(moved)]


def distance(mine: list[Tensor], reference: list[Tensor]) -> float:
    """Return the relative distance between two movements, of the parameters or of the labels, whichever is larger."""
    return max(float((own - theirs).norm() / theirs.norm()) for own, theirs in zip(mine, reference, strict=True))


def fastest(rows: Sequence[Measured]) -> list[Measured]:
    """Return the fastest exact row of each ``what``."""
    exact = sorted((row for row in rows if row.difference <= EXACT), key=lambda row: row.seconds.median)
    best = {row.variant.what: row for row in reversed(exact)}
    return [best[what] for what in WHATS if what in best]


def as_json(rows: Sequence[Measured], everything: Sequence[Measured]) -> list[dict[str, Any]]:
    """Return ``rows`` as ``--json`` prints them; ``ratio`` is that of the medians, to the plain step of the same mode in ``everything``."""
    plain = {row.variant.mode: row.seconds.median for row in everything if row.variant.what == "plain"}
    printed = []
    for row in rows:
        mode, seconds = row.variant.mode, row.seconds.median
        ratio = seconds / plain[mode] if mode in plain else None
        printed.append({"what": row.variant.what, "seconds": seconds, "ratio": ratio, "peak_mib": row.peak_mib, "mode": mode})
    return printed


def table(model: str, rows: Sequence[Measured], batch: int) -> Table:
    """Return all rows of one network, whose steps had ``batch`` training images."""
    lines = []
    for row in rows:
        what, seconds = row.variant, row.seconds.median
        line = [what.what, what.mode, what.last_pass, f"{seconds:.4g}", "{:.4g} - {:.4g}".format(*row.seconds.quartiles)]
        line += [f"{row.ratio.median:.2f}", "{:.2f} - {:.2f}".format(*row.ratio.quartiles)]
        lines.append([*line, f"{batch / seconds:.1f}", f"{row.flops / seconds / 1e12:.3g}", f"{row.peak_mib:.1f}", f"{row.difference:.0e}"])
    columns = ["step", "mode", "last pass", "seconds", "quartiles", "/ plain", "quartiles", "images/s", "TFLOP/s", "peak MiB", "difference"]
    return Table(columns, lines, title=model)


NOTES = (
    "`plain`: one-hot labels, no meta step. `lookahead`: instance labels as a run takes the step. `dual_numbers`: the same, with the "
    "Jacobian-vector product by one more forward pass (`torch.autograd.forward_ad`). The others: with the "
    "second-order graph of `higher`, `torchopt`, or `torch.autograd.grad(create_graph=True)` and `torch.func.functional_call` "
    "(compiled: nested `torch.func.grad`). `last pass`: whether the step on the new labels makes its own forward pass or goes back "
    "through the first one. Labels' update and optimiser are the same code everywhere.",
    "All variants lie in one process and take their turns, round after round: plain, lookahead, ..., plain, ...; `/ plain` is the "
    "quotient to the plain step in the same mode and round. Two steps of each come before (compilation, memory). `difference` is the "
    "relative distance between the variant's first step (movement of the parameters and of the labels, the larger one) and the eager one "
    "of ours in float32.",
    "Images are training images. TFLOP/s are those of our own step, counted and not measured: two for each multiply-accumulate of "
    "convolutions and matrix products (`sweeps/plan/counting.py`), over the time of each step.",
    "Peak memory, CPU: the most bytes of tensors alive in a step, from PyTorch's record of every allocation and release, with "
    "parameters, buffers, labels and batches of that variant. CUDA: the allocator's own peak, counted alike.",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for."""
    options = _parser().parse_args(arguments)
    device = choose_device(options.device)
    make_deterministic(threads=options.threads, allow_tf32=False)
    keep_freed_memory()
    equal = check_gradients()
    gradients = ", ".join(f"{name} {error:.0e}" for name, error in equal.items())
    say(f"gradients equal the engine's: {gradients}")
    wanted = list(variants(options.what, options.modes))
    tables, printed = [], []
    for model in DATASETS if options.model == "all" else [options.model]:
        problem = make_problem(model, device=device, batch=options.batch, meta_batch=options.meta_batch)
        rows = measure(problem, wanted, repeats=options.repeats, clock=options.clock)
        tables.append(table(model, rows, options.batch))
        printed += [row if options.model != "all" else {"model": model, **row} for row in as_json(fastest(rows), rows)]
    print(json.dumps(printed, indent=2) if options.json else "\n\n".join(f"{shown.title}\n{shown}" for shown in tables))
    if options.page:
        sizes = f"{options.batch} training and {options.meta_batch} meta images, {options.repeats} rounds, medians and quartiles"
        sizes += " of CPU time." if options.clock == "cpu" else "."
        small = f"Gradients in float64 on a small network with BatchNorm, relative distance to the engine's: {gradients}."
        say(f"written: {Page(f'step-{options.model}', 'Time and memory of a step', tables, [sizes, small, *NOTES]).write(device)}")


def _parser() -> argparse.ArgumentParser:
    parser = page_parser(__doc__)
    parser.add_argument("--repeats", type=whole_number, default=5, help="rounds (default 5)")
    parser.add_argument("--model", default="resnet18", choices=[*DATASETS, "all"])
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--batch", type=whole_number, default=128, help="training images in a step (default 128)")
    parser.add_argument("--meta-batch", type=whole_number, default=256, help="meta images in a step (default 256)")
    parser.add_argument("--threads", type=whole_number, help="CPU threads of one operation (default: PyTorch's choice)")
    parser.add_argument("--clock", default="wall", choices=list(CLOCKS), help="cpu: CPU time, on a machine with others, with --threads 1")
    parser.add_argument("--what", type=list_of(WHATS), default=list(WHATS), help=f"of {','.join(WHATS)} (default all)")
    modes = f"each one of {', '.join(MODE_WORDS)}, or some joined by + (default eager,compile; peers have these only)"
    parser.add_argument("--modes", type=list_of(MODE_WORDS, "+"), default=["eager", "compile"], help=modes)
    parser.add_argument("--json", action="store_true", help="print JSON: each step in its fastest exact mode")
    return parser


if __name__ == "__main__":
    run(main)
