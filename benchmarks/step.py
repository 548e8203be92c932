"""The plain step and the step that learns labels: time, images per second and peak memory, beside the same step written with other tools.

``python benchmarks/step.py --model resnet18 --device cpu``
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# The profiler, which counts memory, would otherwise announce on the standard error that there is no GPU.
os.environ.setdefault("KINETO_LOG_LEVEL", "5")

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, and not installed

from benchmarks.peers import PEERS, installed
from repro.command import exit_code_of
from repro.config import registry
from repro.doctor import Sizes, distance, movement, random_training
from repro.errors import UserError
from repro.randomness import make_deterministic
from repro.runs.provenance import device_name, versions
from repro.training.loop import Training
from repro.training.run import choose_device

#: What is measured: ``plain`` (one-hot labels, no meta step), ``lookahead`` (instance labels as a run takes the step), and the peers.
WHATS = ("plain", "lookahead", *PEERS)

#: A mode is some of these words, as ``bfloat16+channels_last+compile``, and their settings.
MODE_WORDS = {
    "eager": "exec=audit",
    "compile": "exec.compile=true",
    "cuda_graphs": "exec.cuda_graphs=true",
    "channels_last": "exec.channels_last=true",
    "bfloat16": "exec.precision=bfloat16",
    "tf32": "exec.allow_tf32=true",
}

#: By name; the CPU time of a step on one thread is what it would take with nothing else running.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}

NOTES = (
    "All variants lie in one process and take their turns, round after round; `/ plain` is the quotient to the plain step in the same "
    "mode and round. `difference` is the relative distance of a step's movement (of the parameters or of the labels, the larger one) from "
    "that of the eager step of ours in float32: a gradient that is only approximated shows in it, rounding alone stays far below 1%. "
    "Peak memory is the most bytes of tensors alive at once in a step, beside those that are there between steps."
)


def build(what: str, mode: str, sizes: Sizes, threads: int | None, device: torch.device) -> Training:
    """Return a training at its start that takes the step ``what`` in a mode.

    Raises:
        UserError: the step does not exist in this mode on the device.
    """
    method = "one_hot" if what == "plain" else "instance_labels"
    words = [MODE_WORDS[word] for word in ("eager", *mode.split("+"))]
    threading = [] if threads is None else [f"exec.threads={threads}"]
    training = random_training(f"method={method}", "optim=standard", *words, *threading, device=device, sizes=sizes)
    if what in PEERS:
        config = training.config
        training._step = PEERS[what](training.model, training.optimizer, training.method, config.optim, config.meta)
    return training


def peak_mib(call: Callable[[], object], device: torch.device) -> float:
    """Return the most MiB of tensors that are alive at once in a ``call``, beside those that are there before it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = np.cumsum([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())])
    return float(live.max(initial=0)) / 2**20


def timed(call: Callable[[], object], device: torch.device, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds that a call takes, with what it gives the device to do."""
    start = clock()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start


def measure(
    whats: Sequence[str], modes: Sequence[str], sizes: Sizes, *, threads: int | None, device: torch.device, clock: str = "wall"
) -> list[dict[str, Any]]:
    """Take the steps of every variant that exists, ``sizes.steps`` times in turns: a slow moment of the machine hits all of them."""
    reference = {what: movement(build(what, "eager", sizes, threads, device)) for what in ("plain", "lookahead")}
    rows: list[dict[str, Any]] = []
    calls: list[Callable[[], object]] = []
    for mode, what in ((mode, what) for mode in modes for what in whats):
        if what in PEERS and (mode != "eager" or not installed(what)):
            say(f"{what}, {mode}: left out; peers are eager, and `pip install -e '.[bench]'` brings them")
            continue
        try:
            training = build(what, mode, sizes, threads, device)
            take = functools.partial(training.take_step, training.begin_epoch())
            # A CUDA graph holds its memory from the step that makes it, and a replay allocates nothing.
            peak = peak_mib(take, device) if device.type == "cuda" else 0.0
            difference = distance(movement(training), reference["plain" if what == "plain" else "lookahead"])
        except (UserError, RuntimeError) as error:
            say(f"{what}, {mode}: left out: {str(error).partition(chr(10))[0]}")
            continue
        peak = peak or peak_mib(take, device)
        rows.append({"what": what, "mode": mode, "peak_mib": peak, "difference": difference})
        calls.append(take)
        say(f"{what}, {mode}: first steps done")
    seconds = np.zeros((sizes.steps, len(rows)))
    for index in range(sizes.steps):
        for column, (row, call) in enumerate(zip(rows, calls, strict=True)):
            make_deterministic(threads=threads, allow_tf32="tf32" in row["mode"])
            seconds[index, column] = timed(call, device, CLOCKS[clock])
        say(f"round {index + 1} of {sizes.steps}")
    plain = {row["mode"]: column for column, row in enumerate(rows) if row["what"] == "plain"}
    for column, row in enumerate(rows):
        row["seconds"], row["seconds_q1"], row["seconds_q3"] = np.quantile(seconds[:, column], [0.5, 0.25, 0.75]).tolist()
        if row["mode"] in plain:
            row["ratio"] = float(np.median(seconds[:, column] / seconds[:, plain[row["mode"]]]))
    return rows


def page(rows: Sequence[dict[str, Any]], sizes: Sizes, device: torch.device) -> str:
    """Return what was measured as a Markdown page."""
    machine = f"{datetime.now(UTC):%Y-%m-%d}, {device_name(device)}, {torch.get_num_threads()} threads of PyTorch, "
    machine += ", ".join(f"{name} {version}" for name, version in versions().items())
    lines = ["| step | mode | seconds | quartiles | / plain | images/s | peak MiB | difference |", "|---|---|--:|--:|--:|--:|--:|--:|"]
    for row in rows:
        seconds, ratio = row["seconds"], f"{row['ratio']:.2f}" if "ratio" in row else ""
        times = [f"{seconds:.4g}", f"{row['seconds_q1']:.4g} - {row['seconds_q3']:.4g}", ratio, f"{sizes.batch / seconds:.1f}"]
        cells = [row["what"], row["mode"], *times, f"{row['peak_mib']:.1f}", f"{row['difference']:.0e}"]
        lines.append(f"| {' | '.join(cells)} |")
    title = f"# Time and memory of a step: {' '.join(sizes.model)}, {sizes.batch} training and {sizes.meta_batch} meta images"
    return "\n\n".join([title, machine, f"    python {' '.join(sys.argv)}", "\n".join(lines), NOTES])


def say(text: str) -> None:
    """Tell whoever waits how far it is; results alone go to the standard output."""
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18", choices=list(registry.choices("model")))
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--batch", type=int, default=128, help="training images in a step (default 128)")
    parser.add_argument("--meta-batch", type=int, default=256, help="meta images in a step (default 256)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default 5)")
    parser.add_argument("--threads", type=int, help="CPU threads of one operation (default: PyTorch's choice)")
    parser.add_argument("--clock", default="wall", choices=list(CLOCKS), help="cpu: CPU time, on a machine with others, with --threads 1")
    parser.add_argument("--what", nargs="+", choices=WHATS, default=WHATS)
    parser.add_argument("--modes", nargs="+", default=["eager", "compile"], help=f"words of {', '.join(MODE_WORDS)}, joined by +")
    options = parser.parse_args(arguments)
    for word in "+".join(options.modes).split("+"):
        if word not in MODE_WORDS:
            raise UserError(f"--modes: {word} is none of {', '.join(MODE_WORDS)}")
    device = choose_device(options.device)
    sizes = Sizes((f"model={options.model}",), options.batch, options.meta_batch, options.repeats)
    rows = measure(options.what, options.modes, sizes, threads=options.threads, device=device, clock=options.clock)
    print(page(rows, sizes, device))


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
