"""What a lower precision moves at first and in the end: whole trainings in each, on 40% label noise, and their differences from float32.

``python benchmarks/precision.py --seeds 5 --problems digits,digits_resnet18,cifar10``

``cifar10`` needs the official files in ``$REPRO_DATA``.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, and not installed

from benchmarks.common.arguments import list_of, page_parser, run, say
from benchmarks.common.page import Page, Table
from repro.command import whole_number
from repro.config.compose import compose
from repro.data.prepare import prepare
from repro.training.build import build
from repro.training.guard import BOUNDS, distance, first_step
from repro.training.run import execute

#: What is trained: digits as in the demo and with a deep network, whose first step rounding moves far more, and CIFAR-10 as at the scale
#: small, shorter.
PROBLEMS = {
    "digits": ["dataset=digits"],
    "digits_resnet18": ["dataset=digits", "model=resnet18", "model.width=8", "optim=standard", "optim.epochs=30"],
    "cifar10": [
        *("dataset=cifar10", "dataset.side=16", "dataset.train_size=6000", "dataset.test_size=2000", "augment.padding=0"),
        *("model=small_cnn", "model.width=32", "optim=small_cnn_momentum", "optim.epochs=30"),
    ],
}

#: The methods and, of those that learn, a label learning rate that works for the problem.
METHODS = {
    "one_hot": {problem: ["method=one_hot"] for problem in PROBLEMS},
    "instance_labels": {
        "digits": ["method=instance_labels", "method.learning_rate=200"],
        "digits_resnet18": ["method=instance_labels", "method.learning_rate=200"],
        "cifar10": ["method=instance_labels", "method.learning_rate=750", "method.initial_target_probability=0.5"],
    },
}

#: The settings of each precision.
PRECISIONS = {
    "float32": [],
    "bfloat16": ["exec.precision=bfloat16"],
    "bfloat16, label gradient in float32": ["exec.precision=bfloat16", "exec.label_gradient=float32"],
}

METRICS = ("test/accuracy", "noise/label_error")


def train(problem: str, method: str, precision: str, seed: int) -> dict[str, float]:
    """Train one run on one CPU thread and return its :data:`METRICS` after the last epoch, and how far its first step is from float32."""
    common = ["noise=uniform", "noise.rate=0.4", "split=clean_meta", "tracker=none", "exec.device=cpu", "exec.threads=1", f"seed={seed}"]
    with tempfile.TemporaryDirectory() as folder:
        settings = [*PROBLEMS[problem], *METHODS[method][problem], *PRECISIONS[precision], *common, f"paths.runs={folder}"]
        results = json.loads((execute(compose(settings)) / "final.json").read_text())
        config, device = compose([*settings, "trajectory.record=false"]), torch.device("cpu")
        exact = dataclasses.replace(config, exec=dataclasses.replace(config.exec, precision="float32", label_gradient="precision"))
        data = prepare(config, device)
        moved, reference = (first_step(one, lambda asked: build(asked, data, device, Path(folder))) for one in (config, exact))
    return {metric: results[metric]["last"] for metric in METRICS} | distance(moved, reference)


def difference(values: Sequence[float], reference: Sequence[float]) -> str:
    """Return the mean difference in points and its 95% interval, seed by seed."""
    apart = [100.0 * (value - base) for value, base in zip(values, reference, strict=True)]
    if len(apart) < 2:
        return f"{apart[0]:+.2f}"
    from scipy import stats

    half = float(stats.t.ppf(0.975, len(apart) - 1)) * statistics.stdev(apart) / math.sqrt(len(apart))
    return f"{statistics.mean(apart):+.2f} ± {half:.2f}"


def main() -> None:
    """Train and print."""
    parser = page_parser(__doc__)
    parser.add_argument("--seeds", type=whole_number, default=5)
    parser.add_argument("--jobs", type=whole_number, default=2, help="trainings at a time (default 2)")
    parser.add_argument("--problems", type=list_of(list(PROBLEMS)), default=["digits"])
    arguments = parser.parse_args()
    seeds = range(arguments.seeds)
    work = [
        item
        for item in product(arguments.problems, METHODS, PRECISIONS, seeds)
        # Without labels that learn the label gradient has no precision.
        if item[1] != "one_hot" or "label_gradient" not in str(PRECISIONS[item[2]])
    ]
    found: dict[tuple[str, str, str], list[dict[str, float]]] = {}
    with ProcessPoolExecutor(arguments.jobs, max_tasks_per_child=1) as pool:
        for key, result in zip(work, pool.map(train, *zip(*work, strict=True)), strict=True):
            found.setdefault(key[:3], []).append(result)
            say(f"{' '.join(map(str, key))}: {result}")
    rows = []
    for (problem, method, precision), results in found.items():
        cells = [problem, method, precision]
        cells += ["" if precision == "float32" else f"{statistics.mean(result[name] for result in results):.1e}" for name in BOUNDS]
        for metric in METRICS:
            values = [result[metric] for result in results]
            base = [result[metric] for result in found[problem, method, "float32"]]
            spread = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
            cells += [f"{100 * statistics.mean(values):.2f}{spread}", "" if precision == "float32" else difference(values, base)]
        rows.append(cells)
    columns = ["problem", "method", "precision", "first step: labels", "first step: parameters"]
    table = Table([*columns, "test accuracy (%)", "against float32", "label error (%)", "against float32"], rows)
    print(table)
    if arguments.page:
        notes = [
            f"{arguments.seeds} seeds: mean ± standard deviation; differences are paired by seed, with their 95% interval (t).",
            "`first step`: relative distance from float32 of what the first step moves, the labels and the network's parameters, mean over "
            "the seeds: what `exec.precision=auto` compares with its bounds.",
        ]
        page = Page(f"precision-{'-'.join(arguments.problems)}", "What a lower precision moves in final numbers", [table], notes)
        print(page.write(torch.device("cpu")))


if __name__ == "__main__":
    run(main)
