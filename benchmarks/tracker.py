"""What the W&B mirror costs: steps and whole short runs on digits with it and without it, in turns.

``python benchmarks/tracker.py``
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, and not installed

from benchmarks.arguments import count, list_of, run
from benchmarks.clock import Sample, say
from benchmarks.page import Page, Table
from repro.compose import compose
from repro.run import execute

#: Of each network: its settings, and the epochs of a run.
RUNS = {
    "digits_cnn": (["optim.batch_size=64", "meta.batch_size=100"], 20),
    "resnet18": (["model=resnet18", "optim.batch_size=64", "meta.batch_size=100"], 2),
}
TRACKERS = ("none", "offline")


@dataclass
class Seconds:
    """What was measured of one network and one tracker, a run each.

    Attributes:
        step: median over the epochs of a run of epoch / steps; evaluation, once an epoch, included.
        run: from the settings to the finished folder.
    """

    step: list[float] = field(default_factory=list)
    run: list[float] = field(default_factory=list)


def settings(model: str, tracker: str, seed: int, folder: Path) -> list[str]:
    """Return the command line of a run."""
    extra, epochs = RUNS[model]
    words = ["method=instance_labels", "dataset=digits", "noise=uniform", "noise.rate=0.4", f"seed={seed}", f"tracker={tracker}"]
    words += [f"optim.epochs={epochs}", "optim.milestones=[]", "exec.device=cpu", f"paths.runs={folder}"]
    return [*words, *extra]


def measure(models: Sequence[str], repeats: int) -> dict[tuple[str, str], Seconds]:
    """Train ``repeats`` runs of each network with each tracker, in turns; one more of each comes first and does not count."""
    found = {(model, tracker): Seconds() for model in models for tracker in TRACKERS}
    for seed in range(repeats + 1):
        for (model, tracker), seconds in found.items():
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                run = execute(compose(settings(model, tracker, seed, Path(folder))))
                whole = time.perf_counter() - start
                rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
            epochs = [row for row in rows if row["epoch"] > 0]
            if seed:
                seconds.step.append(Sample(tuple(row["time/epoch_s"] / epochs[0]["step"] for row in epochs)).median)
                seconds.run.append(whole)
        say(f"round {seed} of {repeats}")
    return found


def table(found: dict[tuple[str, str], Seconds]) -> Table:
    """Return the medians, and what the mirror adds to them."""
    lines = []
    for (model, tracker), seconds in found.items():
        step, run = Sample(tuple(seconds.step)), Sample(tuple(seconds.run))
        without = found[model, TRACKERS[0]]
        slower, added = step.over(Sample(tuple(without.step))).median, run.median - Sample(tuple(without.run)).median
        lower, upper = (1e3 * value for value in step.quartiles)
        line = [model, tracker, f"{1e3 * step.median:.2f}", f"{lower:.2f} - {upper:.2f}", f"{slower:.3f}"]
        lines.append([*line, f"{run.median:.2f}", f"{added:+.2f}"])
    return Table(["network", "tracker", "step, ms", "quartiles", "/ none", "run, s", "added, s"], lines)


NOTES = (
    "Runs of instance labels on digits (8x8 images) with 64 training and 100 meta images a step, trained one after the other in one "
    "process, trackers in turns. `step`: a run's median epoch divided by its steps, evaluation included; the mirror has a process of its "
    "own, which may take time from it. `run`: from the settings to the finished folder; what the mirror adds is mostly the start and the "
    "end of W&B's process, once a run and whatever its length. Its package is imported in the first round, which does not count.",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=list_of(tuple(RUNS)), default=list(RUNS), help=f"of {','.join(RUNS)} (default both)")
    parser.add_argument("--repeats", type=count, default=5, help="rounds (default 5)")
    parser.add_argument("--page", action="store_true", help="write a dated page under docs/benchmarks")
    options = parser.parse_args(arguments)
    shown = table(measure(options.models, options.repeats))
    print(shown)
    if options.page:
        sizes = f"{options.repeats} rounds, medians and quartiles; `/ none` is the quotient of steps round by round."
        say(f"written: {Page('tracker', 'What the W&B mirror costs', [shown], [sizes, *NOTES]).write(torch.device('cpu'))}")


if __name__ == "__main__":
    run(main)
