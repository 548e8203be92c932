"""The plain step and the step that learns labels: time and peak memory, beside the same step written with other tools.

``python benchmarks/step.py --model resnet18 --device cpu --json``
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

# The profiler, which counts memory, would otherwise announce on the standard error that there is no GPU.
os.environ.setdefault("KINETO_LOG_LEVEL", "5")

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, and not installed

from benchmarks.arguments import count, list_of, run
from benchmarks.clock import Sample, in_turns, say
from benchmarks.memory import peak_mib, peak_resident_mib
from benchmarks.page import Page, Table
from benchmarks.problem import DATASETS, Learner, Problem, make_problem
from benchmarks.variants import MODES, WHATS, Variant, build, check_gradients, variants
from repro.allocator import keep_freed_memory
from repro.determinism import make_deterministic
from repro.errors import UserError
from repro.run import choose_device

#: Largest relative distance, after one float32 step from the same start, between a variant's movement and that of the eager look-ahead
#: (plain step). Rounding alone stays far below; a gradient that is only approximated does not.
EXACT = 1e-2


@dataclass(frozen=True)
class Measured:
    """What was measured of a variant.

    Attributes:
        variant: which.
        seconds: of a step.
        ratio: to the plain step in the same mode, round by round.
        gain: of the same step taken eagerly to this one, round by round; ``None`` for an eager one.
        peak_mib: peak memory of a step.
        difference: relative distance of its first step's movement from that of the same step taken eagerly by us.
        alone: peak resident MiB of a fresh process, before its first step and at its end; ``None`` where it was not asked for.
    """

    variant: Variant
    seconds: Sample
    ratio: Sample
    peak_mib: float
    difference: float
    gain: Sample | None = None
    alone: tuple[float, float] | None = None


def measure(problem: Problem, wanted: Sequence[Variant], *, repeats: int) -> list[Measured]:
    """Take every variant's first step and compare it, then one for its memory, then ``repeats`` in turns for its time."""
    built: dict[Variant, tuple[Learner, Callable[[], Any]]] = {}
    difference: dict[Variant, float] = {}
    moved: dict[bool, list[Tensor]] = {}
    for variant in wanted:
        plain = variant.what == "plain"
        if plain not in moved:
            moved[plain] = _first_step(problem, *build(problem, Variant("plain" if plain else "lookahead", "eager")))
        try:
            learner, call = build(problem, variant)
            difference[variant] = _distance(_first_step(problem, learner, call), moved[plain])
        except (UserError, torch._dynamo.exc.TorchDynamoException) as error:
            say(f"{variant} left out: {str(error).splitlines()[0]}")
            continue
        built[variant] = learner, call
        say(f"{variant}: first step done")
    moved.clear()
    peaks = {variant: peak_mib(call, problem, learner) for variant, (learner, call) in built.items()}
    seconds = in_turns({variant: call for variant, (_, call) in built.items()}, repeats=repeats, device=problem.device, at_least_s=0.05)
    rows = []
    for variant in built:
        plain_seconds = seconds.get(Variant("plain", variant.mode))
        ratio = Sample((float("nan"),)) if plain_seconds is None else seconds[variant].over(plain_seconds)
        eager = None if variant.mode == "eager" else seconds.get(replace(variant, mode="eager"))
        gain = None if eager is None else eager.over(seconds[variant])
        rows.append(Measured(variant, seconds[variant], ratio, peaks[variant], difference[variant], gain))
    return rows


def _first_step(problem: Problem, learner: Learner, call: Callable[[], Any]) -> list[Tensor]:
    """Return how far one step moves the parameters and, where labels learn, the labels."""
    watched = [*learner.model.parameters(), *learner.method.state_dict().values()]
    before = [tensor.detach().clone() for tensor in watched]
    call()
    after = [*learner.model.parameters(), *learner.method.state_dict().values()]
    movement = [new.detach().double() - old.double() for new, old in zip(after, before, strict=True)]
    labels = len(learner.method.state_dict())
    split = len(movement) - labels
    return [torch.cat([part.flatten() for part in parts]) for parts in (movement[:split], movement[split:]) if parts]


def _distance(mine: list[Tensor], reference: list[Tensor]) -> float:
    return max(float((own - theirs).norm() / theirs.norm()) for own, theirs in zip(mine, reference, strict=True))


def fastest(rows: Sequence[Measured]) -> list[Measured]:
    """Return the fastest exact row of each ``what``."""
    best: dict[str, Measured] = {}
    for row in rows:
        known = best.get(row.variant.what)
        if row.difference <= EXACT and (known is None or row.seconds.median < known.seconds.median):
            best[row.variant.what] = row
    return list(best.values())


def as_json(rows: Sequence[Measured], everything: Sequence[Measured]) -> list[dict[str, Any]]:
    """Return ``rows`` as ``--json`` prints them; ``ratio`` is that of the medians, to the plain step of the same mode in ``everything``."""
    plain = {row.variant.mode: row.seconds.median for row in everything if row.variant.what == "plain"}
    return [
        {
            "what": row.variant.what,
            "seconds": row.seconds.median,
            "ratio": row.seconds.median / plain[row.variant.mode] if row.variant.mode in plain else None,
            "peak_mib": row.peak_mib,
            "mode": row.variant.mode,
        }
        for row in rows
    ]


def table(model: str, rows: Sequence[Measured]) -> Table:
    """Return all rows of one network."""
    alone, gains = any(row.alone for row in rows), any(row.gain for row in rows)
    columns = ["step", "mode", "last pass", "seconds", "quartiles", "/ plain", "quartiles", "peak MiB", "difference"]
    lines = []
    for row in rows:
        lower, upper = row.seconds.quartiles
        low, high = row.ratio.quartiles
        line = [row.variant.what, row.variant.mode, row.variant.last_pass, f"{row.seconds.median:.4g}", f"{lower:.4g} - {upper:.4g}"]
        line += [f"{row.ratio.median:.2f}", f"{low:.2f} - {high:.2f}", f"{row.peak_mib:.1f}", f"{row.difference:.0e}"]
        if gains:
            line += ["—", "—"] if row.gain is None else [f"{row.gain.median:.2f}", "{:.2f} - {:.2f}".format(*row.gain.quartiles)]
        if alone:
            line += ["—", "—"] if row.alone is None else [f"{row.alone[1]:.0f}", f"{row.alone[1] - row.alone[0]:.0f}"]
        lines.append(line)
    columns += ["eager / compiled", "quartiles"] if gains else []
    return Table([*columns, *(["resident MiB, alone", "of it steps"] if alone else [])], lines, title=model)


def measure_alone(problem: Problem, variant: Variant, steps: int = 3) -> tuple[float, float]:
    """Return the peak resident MiB of this process before the first step of ``variant`` and after a few; for a fresh process."""
    _, call = build(problem, variant)
    before = peak_resident_mib()
    for _ in range(steps):
        call()
    return before, peak_resident_mib()


def in_fresh_process(arguments: argparse.Namespace, model: str, variant: Variant) -> tuple[float, float]:
    """Return :func:`measure_alone` of a process of its own."""
    command = [sys.executable, __file__, "--model", model, "--device", arguments.device, "--alone", str(variant)]
    command += ["--batch", str(arguments.batch), "--meta-batch", str(arguments.meta_batch)]
    for flag in ("threads", "num_classes"):
        value = getattr(arguments, flag)
        command += [] if value is None else [f"--{flag.replace('_', '-')}", str(value)]
    before, peak = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return before, peak


NOTES = (
    "`plain`: one-hot labels, no meta step. `lookahead`: instance labels as a run takes the step. The others: the same step with the "
    "second-order graph of `higher`, `torchopt`, or `torch.autograd.grad(create_graph=True)` and `torch.func.functional_call` "
    "(compiled: nested `torch.func.grad`). `last pass`: whether the step on the new labels makes its own forward pass or goes back "
    "through the first one. Labels' update and optimiser are the same code everywhere.",
    "All variants lie in one process and take their turns, round after round: plain, lookahead, ..., plain, ...; `/ plain` is the "
    "quotient to the plain step in the same mode and round, `eager / compiled` that of the same step in both modes. Two steps of each "
    "come before (compilation, memory). `difference` is the relative distance between the variant's first step in float32 (movement of "
    "the parameters and of the labels, the larger one) and the eager one of ours.",
    "Peak memory, CPU: the most bytes of tensors alive in a step, from PyTorch's record of every allocation and release, with "
    "parameters, buffers, labels and batches of that variant. CUDA: the allocator's own peak, counted alike. `resident, alone`: the "
    "peak of a fresh process, libraries included; `of it steps` is how much of it the first steps added.",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for."""
    options = _parser().parse_args(arguments)
    device = choose_device(options.device)
    make_deterministic(threads=options.threads, allow_tf32=False)
    keep_freed_memory()

    def problem_of(model: str) -> Problem:
        return make_problem(model, device=device, batch=options.batch, meta_batch=options.meta_batch, num_classes=options.num_classes)

    if options.alone:
        print(json.dumps(measure_alone(problem_of(options.model), Variant(*options.alone.split(":")))))
        return
    equal = check_gradients()
    say("gradients equal the engine's: " + ", ".join(f"{name} {error:.0e}" for name, error in equal.items()))
    wanted = list(variants(options.what, options.modes))
    tables, printed = [], []
    for model in DATASETS if options.model == "all" else [options.model]:
        rows = measure(problem_of(model), wanted, repeats=options.repeats)
        if options.fresh_memory:
            rows = [replace(row, alone=in_fresh_process(options, model, row.variant)) for row in rows]
        tables.append(table(model, rows))
        chosen = rows if options.all_rows else fastest(rows)
        printed += [row if options.model != "all" else {"model": model, **row} for row in as_json(chosen, rows)]
    print(json.dumps(printed, indent=2) if options.json else "\n\n".join(f"{shown.title}\n{shown}" for shown in tables))
    if options.page:
        gradients = "Gradients in float64 on a small network with BatchNorm, relative distance to the engine's: "
        gradients += ", ".join(f"{name} {error:.0e}" for name, error in equal.items()) + "."
        sizes = f"{options.batch} training and {options.meta_batch} meta images, float32, {options.repeats} rounds, medians and quartiles."
        page = Page(f"step-{options.model}", "Time and memory of a step", tables, [sizes, gradients, *NOTES])
        say(f"written: {page.write(device)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", "--models", default="resnet18", choices=[*DATASETS, "all"])
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--batch", type=count, default=128, help="training images in a step (default 128)")
    parser.add_argument("--meta-batch", type=count, default=256, help="meta images in a step (default 256)")
    parser.add_argument("--num-classes", type=count, help="default: of CIFAR-100, or of digits for digits_cnn")
    parser.add_argument("--repeats", type=count, default=5, help="rounds (default 5)")
    parser.add_argument("--what", type=list_of(WHATS), default=list(WHATS), help=f"of {','.join(WHATS)} (default all)")
    parser.add_argument("--modes", type=list_of(MODES), default=list(MODES), help=f"of {','.join(MODES)} (default both)")
    parser.add_argument("--threads", type=count, help="CPU threads of one operation (default: PyTorch's choice)")
    parser.add_argument("--json", action="store_true", help="print JSON: each step in its fastest exact mode")
    parser.add_argument("--all-rows", action="store_true", help="with --json: every mode and variant")
    parser.add_argument("--fresh-memory", action="store_true", help="also the peak resident memory of one fresh process per row")
    parser.add_argument("--page", action="store_true", help="write a dated page under docs/benchmarks")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    run(main)
