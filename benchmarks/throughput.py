"""Images per second, and how much of what the device can do in matrix products that is, over ways of executing the same step.

``python benchmarks/throughput.py --model resnet18 --device cuda``
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, and not installed

from benchmarks.arguments import count, list_of, run
from benchmarks.clock import Sample, in_turns, say, seconds_of, synchronize
from benchmarks.execution import EXECUTIONS, Execution, our_step, set_tf32
from benchmarks.flops import forward_flops, matrix_product, units_per_image
from benchmarks.loader import Images, LoadedBatch, device_batches, loader_batches
from benchmarks.page import Page, Table
from benchmarks.peers import DoubleBackwardStep
from benchmarks.problem import DATASETS, Problem, make_learner, make_problem
from repro.allocator import keep_freed_memory
from repro.determinism import make_deterministic
from repro.errors import UserError
from repro.run import choose_device
from repro.step import MetaBatch

#: Steps of an epoch: random numbers are drawn for a whole epoch at once, and a real one has about 300 steps.
_STEPS_PER_EPOCH = 50


@dataclass(frozen=True)
class Row:
    """One line of the result.

    Attributes:
        what: ``plain``, ``lookahead`` or ``usual way``.
        execution: how.
        runs: processes side by side on the device.
        images: training images per second of all of them together.
        flops: counted FLOP/s.
        ceiling: FLOP/s of a matrix product in the same precision.
    """

    what: str
    execution: Execution
    runs: int
    images: Sample
    flops: float
    ceiling: float


def stepper(problem: Problem, execution: Execution, *, learns: bool) -> Callable[[], None]:
    """Return a call that makes a batch on the device, a meta batch if the step learns labels, and takes the step."""
    learner = make_learner(problem, "instance_labels" if learns else "one_hot")
    step = our_step(problem, learner, execution)
    batches, meta_batches = _batches(problem, device_batches)

    def call() -> None:
        inputs, _, rows = next(batches)
        step(inputs, rows, _next_meta(meta_batches) if learns else None)

    return call


def usual_stepper(problem: Problem, workers: int) -> Callable[[], None]:
    """Return the same for the usual way: a DataLoader each for training and meta images, double backward, float32, eager."""
    learner = make_learner(problem)
    step = DoubleBackwardStep(learner.model, learner.optimizer, learner.method)

    def load(images: Images, batch: int, device: torch.device, purpose: str) -> Iterator[LoadedBatch]:
        return loader_batches(images, batch, device, workers)

    batches, meta_batches = _batches(problem, load)

    def call() -> None:
        inputs, labels, rows = next(batches)
        step(inputs, rows, labels, epoch=0, meta=_next_meta(meta_batches))

    return call


def _batches(
    problem: Problem, load: Callable[[Images, int, torch.device, str], Iterator[LoadedBatch]]
) -> tuple[Iterator[LoadedBatch], Iterator[LoadedBatch]]:
    shape = (problem.inputs.shape[1], problem.inputs.shape[2], problem.inputs.shape[3])
    images = Images.made(shape, classes=problem.num_classes, count=len(problem.labels))
    return load(images, len(problem.rows), problem.device, "train"), load(images, len(problem.meta.targets), problem.device, "meta")


def _next_meta(batches: Iterator[LoadedBatch]) -> MetaBatch:
    inputs, targets, _ = next(batches)
    return MetaBatch(inputs=inputs, targets=targets)


def measure(
    problem: Problem, executions: Sequence[Execution], whats: Sequence[str], *, repeats: int, at_least_s: float
) -> tuple[list[Row], dict[str, Sample]]:
    """Return a row for each way that exists, and the ceilings in FLOP/s by precision; steps and matrix products take turns."""
    calls: dict[tuple[str, Execution], Callable[[], object]] = {}
    for execution in executions:
        for what in whats:
            set_tf32(execution)
            try:
                call = stepper(problem, execution, learns=what == "lookahead")
                for _ in range(2):
                    call()
            except (UserError, torch._dynamo.exc.TorchDynamoException) as error:
                say(f"{what}, {execution.name} left out: {str(error).splitlines()[0]}")
                continue
            calls[what, execution] = call
            say(f"{what}, {execution.name}: ready")
    flops_of: dict[str, float] = {}
    for precision in dict.fromkeys(execution.precision for _, execution in calls):
        probe, flops_of[precision] = matrix_product(problem.device, precision)
        set_tf32(Execution(precision))
        probe()
        calls["ceiling", Execution(precision)] = probe
    seconds = in_turns(calls, repeats=repeats, device=problem.device, before=lambda name: set_tf32(name[1]), at_least_s=at_least_s)
    set_tf32(Execution())
    ceilings = {name: Sample(tuple(flops_of[name] / value for value in seconds["ceiling", Execution(name)].values)) for name in flops_of}
    per_forward = forward_flops(make_learner(problem).model, problem)
    rows = []
    for (what, execution), taken in seconds.items():
        if what != "ceiling":
            images = Sample(tuple(len(problem.rows) / value for value in taken.values))
            flops = images.median * per_forward * units_per_image(problem, learns=what == "lookahead")
            rows.append(Row(what, execution, 1, images, flops, ceilings[execution.precision].median))
    return rows, ceilings


def measure_usual(problem: Problem, *, workers: int, repeats: int, at_least_s: float, ceiling: float) -> Row:
    """Return the row of the usual way, alone, since its workers would take the processor from others."""
    call = usual_stepper(problem, workers)
    call()
    seconds = in_turns({"usual": call}, repeats=repeats, device=problem.device, at_least_s=at_least_s)["usual"]
    images = Sample(tuple(len(problem.rows) / value for value in seconds.values))
    flops = images.median * forward_flops(make_learner(problem).model, problem) * units_per_image(problem, learns=True)
    return Row("usual way", Execution(), 1, images, flops, ceiling)


def side_by_side(options: argparse.Namespace, row: Row, runs: int) -> Row:
    """Return ``row`` measured in ``runs`` processes at once on the device, which start together; their images per second are added.

    Raises:
        UserError: one of the processes could not start.
    """
    command = [sys.executable, __file__, "--model", options.model, "--device", options.device, "--batch", str(options.batch)]
    command += ["--meta-batch", str(options.meta_batch), "--worker", json.dumps({"what": row.what, **asdict(row.execution)})]
    command += ["--repeats", str(options.repeats), "--at-least-s", str(options.at_least_s)]
    command += [] if options.threads is None else ["--threads", str(options.threads)]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(runs)]
    try:
        if any(_line(process) != "ready" for process in processes):
            raise UserError(f"{runs} runs of {row.what}, {row.execution.name}: one could not start; what it says stands above.")
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        rates = [json.loads(_line(process)) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    together = Sample(tuple(sum(turn) for turn in zip(*rates, strict=True)))
    return replace(row, runs=runs, images=together, flops=row.flops * together.median / row.images.median)


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def work(problem: Problem, settings: dict[str, Any], *, repeats: int, at_least_s: float) -> None:
    """Be one of the processes of :func:`side_by_side`: get ready, wait for the word, and print the images per second of each turn."""
    what = settings.pop("what")
    execution = Execution(**settings)
    set_tf32(execution)
    call = stepper(problem, execution, learns=what == "lookahead")
    for _ in range(2):
        call()
    synchronize(problem.device)
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps([len(problem.rows) / seconds_of(call, problem.device, at_least_s) for _ in range(repeats)]), flush=True)


def tables(rows: Sequence[Row], ceilings: dict[str, Sample]) -> list[Table]:
    """Return the rows, and the ceilings that they are held against."""
    usual = next((row.images.median for row in rows if row.what == "usual way"), None)
    lines = []
    for row in rows:
        lower, upper = row.images.quartiles
        line = [row.what, row.execution.name, str(row.runs), f"{row.images.median:.1f}", f"{lower:.1f} - {upper:.1f}"]
        line += [f"{row.flops / 1e12:.3g}", f"{100 * row.flops / row.ceiling:.1f}"]
        line += [] if usual is None else ["—" if row.what == "plain" else f"{row.images.median / usual:.2f}"]
        lines.append(line)
    columns = ["step", "execution", "runs", "images/s", "quartiles", "TFLOP/s", "% of ceiling"] + ([] if usual is None else ["/ usual way"])
    ceiling_lines = []
    for precision, rate in ceilings.items():
        lower, upper = (value / 1e12 for value in rate.quartiles)
        ceiling_lines.append([precision, f"{rate.median / 1e12:.3g}", f"{lower:.3g} - {upper:.3g}"])
    return [
        Table(columns, lines, title="Throughput"),
        Table(["matrix product", "TFLOP/s", "quartiles"], ceiling_lines, title="Ceiling"),
    ]


def as_json(rows: Sequence[Row], ceilings: dict[str, Sample]) -> dict[str, Any]:
    """Return the rows, and the ceilings by precision, as ``--json`` prints them; rates are medians."""
    return {
        "ceilings_flops": {precision: rate.median for precision, rate in ceilings.items()},
        "rows": [
            {
                "what": row.what,
                "execution": row.execution.name,
                "runs": row.runs,
                "images_per_s": row.images.median,
                "flops": row.flops,
                "of_ceiling": row.flops / row.ceiling,
            }
            for row in rows
        ],
    }


NOTES = (
    "A call makes an augmented batch on the device (and a meta batch) and takes one step: `plain` with one-hot labels, `lookahead` "
    "with instance labels. `usual way`: the same algorithm by double backward in float32, eager, with a torchvision DataLoader for "
    "the training and one for the meta images; measured apart, after the others. Images are training images.",
    "TFLOP/s are counted, not measured: two for each multiply-accumulate of convolutions and linear layers in the least passes that "
    "the algorithm needs (3 forward passes for a plain step; 3 + 3 M/B + 4 for one that looks ahead with M meta images to B training "
    "images). What a program computes twice does not count.",
    "Ceiling: a square product of matrices in the same precision, in the same process, taking turns with the steps. `runs` above 1: "
    "as many processes on the device at once, started together; their images per second added.",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for."""
    options = _parser().parse_args(arguments)
    device = choose_device(options.device)
    make_deterministic(threads=options.threads, allow_tf32=False)
    keep_freed_memory()
    problem = make_problem(
        options.model, device=device, batch=options.batch, meta_batch=options.meta_batch, images=options.batch * _STEPS_PER_EPOCH
    )
    if options.worker:
        work(problem, json.loads(options.worker), repeats=options.repeats, at_least_s=options.at_least_s)
        return
    wanted = [way for way in EXECUTIONS[device.type] if not options.executions or way.name.replace(" ", "+") in options.executions]
    if not wanted:
        known = ", ".join(way.name.replace(" ", "+") for way in EXECUTIONS[device.type])
        raise UserError(f"--executions={','.join(options.executions)}: none of them exists on {device.type}. Allowed: {known}.")
    rows, ceilings = measure(problem, wanted, options.what, repeats=options.repeats, at_least_s=options.at_least_s)
    alone = list(rows)
    for runs in [number for number in options.runs if number > 1]:
        for what in options.what:
            best = max((row for row in alone if row.what == what), key=lambda row: row.images.median, default=None)
            if best is not None:
                rows.append(side_by_side(options, best, runs))
    if options.usual:
        ceiling = ceilings["float32"].median if "float32" in ceilings else float("nan")
        usual = measure_usual(problem, workers=options.workers, repeats=options.repeats, at_least_s=options.at_least_s, ceiling=ceiling)
        rows.append(usual)
    shown = tables(rows, ceilings)
    print(json.dumps(as_json(rows, ceilings), indent=2) if options.json else "\n\n".join(map(str, shown)))
    if options.page:
        sizes = f"{options.model}, {options.batch} training and {options.meta_batch} meta images, {options.repeats} rounds, medians"
        sizes += f" and quartiles; usual way with {options.workers} workers a loader." if options.usual else " and quartiles."
        title = "Images per second and the share of the matrix-product ceiling"
        say(f"written: {Page(f'throughput-{options.model}', title, shown, [sizes, *NOTES]).write(device)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18", choices=list(DATASETS))
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--batch", type=count, default=128, help="training images in a step (default 128)")
    parser.add_argument("--meta-batch", type=count, default=256, help="meta images in a step (default 256)")
    parser.add_argument("--what", type=list_of(("plain", "lookahead")), default=["plain", "lookahead"], help="default plain,lookahead")
    parser.add_argument("--executions", type=lambda text: text.split(","), default=[], help="such as float32,bfloat16+channels_last")
    parser.add_argument("--runs", type=lambda text: [count(part) for part in text.split(",")], default=[1], help="such as 1,2,4")
    parser.add_argument("--usual", action=argparse.BooleanOptionalAction, default=True, help="also the usual way")
    parser.add_argument("--workers", type=int, default=2, help="of each DataLoader of the usual way (default 2)")
    parser.add_argument("--repeats", type=count, default=5, help="rounds (default 5)")
    parser.add_argument("--at-least-s", type=float, default=0.5, help="seconds of a measurement (default 0.5)")
    parser.add_argument("--threads", type=count, help="CPU threads of one operation (default: PyTorch's choice)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--page", action="store_true", help="write a dated page under docs/benchmarks")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    run(main)
