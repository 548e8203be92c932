"""The time of a step at the roofline of GPUs, and GPU-hours of the paper's tables by it: counted, not measured.

``python benchmarks/roofline.py --page``
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, and not installed

from benchmarks.common.arguments import page_parser, run
from benchmarks.common.page import Page, Table
from repro.command import whole_number
from sweeps.plan.cost import ASSUMED_REACHED, estimate
from sweeps.plan.counting import count_step
from sweeps.plan.gpus import AUDIT, EXECUTIONS, GPUS, Execution, auto
from sweeps.plan.plan import make_plan
from sweeps.plan.roofline import CONTEXT_BYTES, KERNEL_S, LAUNCH_S, seconds
from sweeps.spec.load import known_specs, load_spec

#: The paper's networks.
MODELS = ("resnet18", "vgg16", "alexnet", "wrn_28_10")
SHOWN = ("a100", "h100", "h200")


def step_table(model: str, batch: int, meta_batch: int) -> Table:
    """Return the milliseconds of a plain and of a look-ahead step of ``model`` on CIFAR-100, as a CUDA graph."""
    lines = []
    for what, meta in (("plain", 0), ("look-ahead", meta_batch)):
        counted = count_step(model, "{}", (3, 32, 32), 100, batch=batch, meta_batch=meta)
        peaks = f"{counted.float32_peak_bytes / 2**20:.0f}", f"{counted.peak_bytes / 2**20:.0f}"
        for name in SHOWN:
            formats = (Execution(execution.products, graphs=True) for execution in EXECUTIONS)
            times = [f"{1e3 * seconds(counted, GPUS[name], execution).whole:.2f}" for execution in formats]
            lines.append([what, GPUS[name].title, *times, f"{1e3 * LAUNCH_S * counted.launches:.1f}", f"{counted.flops / 1e9:.0f}", *peaks])
    columns = ["step", "GPU", "float32 ms", "TF32 ms", "bfloat16 ms", "host ms if eager", "GFLOP", "float32 peak MiB", "bfloat16 peak MiB"]
    return Table(columns, lines, title=model)


def hours_table() -> Table:
    """Return the GPU-hours of Table 1 and of all tables."""
    tables = [name for name in known_specs() if name.startswith("table")]
    lines = []
    for title, names in (("Table 1", ["table1"]), ("all tables", tables)):
        with tempfile.TemporaryDirectory() as folder:
            plan = make_plan([load_spec(name) for name in names], Path(folder))
            works = [cost.work for cost in estimate(plan, gpu=GPUS[SHOWN[0]]).runs.values() if cost.work is not None]
        for name in SHOWN:
            gpu = GPUS[name]
            before, after = (sum(work.hours(gpu, way) for work in works) / ASSUMED_REACHED for way in (AUDIT, auto(gpu)))
            lines.append([title, str(len(works)), gpu.title, f"{before:,.0f}", f"{after:,.0f}", f"{before / after:.1f}"])
    columns = ["runs of", "runs", "GPU", "exec=audit", "exec=auto", "quotient"]
    return Table(columns, lines, title=f"GPU-hours at {ASSUMED_REACHED:g} of the roofline")


def main() -> None:
    """Count and print."""
    parser = page_parser(__doc__)
    parser.add_argument("--batch", type=whole_number, default=128, help="training images in a step (default 128)")
    parser.add_argument("--meta-batch", type=whole_number, default=256, help="meta images in a step (default 256)")
    options = parser.parse_args()
    tables = [*(step_table(model, options.batch, options.meta_batch) for model in MODELS), hours_table()]
    print("\n\n".join(f"{table.title}\n{table}" for table in tables))
    if options.page:
        published = "; ".join(
            f"{gpu.title}: {gpu.float32:g} TFLOP/s in float32, {gpu.tf32:g} in TF32, {gpu.bfloat16:g} in bfloat16, {gpu.bandwidth:g} GB/s "
            f"({gpu.source})"
            for gpu in map(GPUS.__getitem__, SHOWN)
        )
        notes = (
            "**Counted, not measured: no GPU has computed anything here.** Of each operation of a real step on tensors without numbers are "
            "counted the FLOPs, two for each multiply-accumulate, and the bytes of arguments and results. It takes the largest of FLOPs "
            f"over the peak of its number format, bytes over the bandwidth, and {1e6 * KERNEL_S:g} us that any kernel is assumed to take; "
            f"a step is the sum. Run one operation after another it takes at least {1e6 * LAUNCH_S:g} us of the host for each (assumed; "
            "column `host ms if eager`), as a CUDA graph not.",
            f"Steps: {options.batch} training and {options.meta_batch} meta images of CIFAR-100. `plain`: one-hot labels; `look-ahead`: "
            "instance labels. Gathering and augmenting images is not counted. Peak: tensors alive, parameters and the optimiser's "
            f"included; a run needs about {CONTEXT_BYTES / 2**30:g} GiB more (assumed).",
            f"Hours: all runs of the specs as `python -m sweeps plan` counts them, with evaluations, at {ASSUMED_REACHED:g} of the "
            "roofline's speed, which is assumed. `exec=audit`: float32, one operation after another; `exec=auto`: bfloat16, CUDA graphs.",
            f"Published peaks, dense, and bandwidths: {published}.",
        )
        print(Page("roofline", "The time of a step at the roofline", tables, notes).write(torch.device("cpu")))


if __name__ == "__main__":
    run(main)
