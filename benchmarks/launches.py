"""What the steps of every method, network and execution ask of CUDA: launches, copies, waits and memory, on a driver that does nothing.

``REPRO_NULL_CUDA=FOLDER python benchmarks/launches.py --models resnet18 --executions audit,graphs`` (:mod:`benchmarks.common.null_cuda`)
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, and not installed

from benchmarks.common.arguments import list_of, page_parser, run, say
from benchmarks.common.null_cuda import ROOT, counting, environment, folder, loaded, no_waiting
from benchmarks.common.page import Page, Table
from repro.command import whole_number
from repro.config import registry
from repro.config.compose import compose
from repro.data import prepare as preparing
from repro.errors import UserError
from repro.measure import made_images
from repro.randomness import make_deterministic
from repro.runs.inputs import open_inputs
from repro.training.build import build
from repro.training.run import execute

#: Ways of execution, and their settings.
EXECUTIONS = {
    "audit": ["exec=audit"],
    "tf32": ["exec=audit", "exec.allow_tf32=true"],
    "bfloat16": ["exec=audit", "exec.precision=bfloat16", "exec.channels_last=true"],
    "graphs": ["exec=audit", "exec.cuda_graphs=true"],
    "bfloat16+graphs": ["exec=audit", "exec.precision=bfloat16", "exec.channels_last=true", "exec.cuda_graphs=true"],
    "compile": ["exec=audit", "exec.compile=true"],
    "fast": ["exec=fast"],
}

#: Steps before the one that is counted: libraries, the allocator and graphs do things once.
WARM_UP = 3
TIMED = 5


@dataclass
class Counted:
    """What one step asked of the driver, or why there is none.

    Attributes:
        events: how often what happened, by kind.
        forbidden: waits, copies and broken rules of capture, with the lines of the project that caused them.
        host_ms: CPU time of the process for a step, the median of :data:`TIMED`.
    """

    method: str
    model: str
    execution: str
    events: dict[str, int] = field(default_factory=dict)
    forbidden: dict[str, int] = field(default_factory=dict)
    reserved_mib: float = 0.0
    host_ms: float = 0.0
    error: str | None = None


def count_step(method: str, model: str, execution: str, *, batch: int, meta_batch: int, more: Sequence[str] = ()) -> Counted:
    """Take steps of a real training on made images and count the last one. On a GPU nothing is counted, and a wait is an error."""
    raw = made_images(8 * batch + meta_batch + 32)
    # For the runs that the method reads, too.
    preparing._read = lambda config: raw
    settings = [
        *("dataset=cifar100", "noise=uniform", "noise.rate=0.4", "seed=0", "tracker=none", "augment=crop_flip", "optim.epochs=2"),
        *(f"split.meta_size={meta_batch}", f"meta.batch_size={meta_batch}", f"optim.batch_size={batch}"),
    ]
    with tempfile.TemporaryDirectory() as name:
        settings += [f"paths.runs={name}"]
        read = _inputs(method, settings)
        config = compose(
            [f"method={method}", f"model={model}", "optim=standard", *settings, "exec.device=cuda", *read, *EXECUTIONS[execution], *more]
        )
        device = torch.device("cuda")
        make_deterministic(threads=1, allow_tf32=config.exec.allow_tf32)
        training = build(config, preparing.prepare(config, device), device, Path(name), open_inputs(config))
        plan = training.begin_epoch()
        for training.batch in range(WARM_UP):
            training.take_step(plan)
        torch.cuda.synchronize()
        host_ms = 1e3 * statistics.median(_cpu_time(lambda: training.take_step(plan)) for _ in range(TIMED))
        with counting() if loaded() else no_waiting() as counts:
            training.take_step(plan)
        reserved = torch.cuda.max_memory_reserved() / 2**20
    return Counted(method, model, execution, dict(counts.events), counts.forbidden, round(reserved, 1), round(host_ms, 2))


def _cpu_time(call: Callable[[], object]) -> float:
    """Return seconds of this process: on a driver that does nothing all of it is the host's work, whatever else the machine does."""
    start = time.process_time()
    call()
    return time.process_time() - start


def _inputs(method: str, settings: Sequence[str]) -> list[str]:
    """Train what ``method`` reads, on the CPU and small, and return the overrides that name it."""
    reads = registry.get("method", method).build.reads_inputs(registry.get("method", method).config())
    small = ["optim=standard", *settings, "model=small_cnn", "model.width=2", "exec.device=cpu"]
    found = []
    if "labels" in reads:
        found += [f"inputs.labels=[{execute(compose(['method=instance_labels', *small])).name}]"]
    if "teacher" in reads:
        found += [f"inputs.teacher={execute(compose(['method=one_hot', *small])).name}"]
    return found


def in_a_process(method: str, model: str, execution: str, *, batch: int, meta_batch: int) -> Counted:
    """Count a step in a process of its own: PyTorch's settings and a broken capture would outlive it."""
    null = folder()
    assert null is not None
    sizes = ["--batch", str(batch), "--meta-batch", str(meta_batch)]
    what = ["--methods", method, "--models", model, "--executions", execution]
    command = [sys.executable, "-W", "ignore", __file__, *what, *sizes, "--here"]
    done = subprocess.run(command, cwd=ROOT, env=environment(null), capture_output=True, text=True, check=False)
    try:
        return Counted(**json.loads(done.stdout.splitlines()[-1]))
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return Counted(method, model, execution, error=last)


COLUMNS = (
    *("method", "network", "execution", "launches", "library calls", "graph launches"),
    *("waits, copies, violations", "reserved MiB", "host ms"),
)


def row(counted: Counted) -> list[str]:
    """Return the cells of :data:`COLUMNS`."""
    names = [counted.method, counted.model, counted.execution]
    if counted.error is not None:
        return [*names, counted.error[:60], *[""] * (len(COLUMNS) - 4)]
    events = [str(counted.events.get(kind, 0)) for kind in ("launch", "library call", "graph launch")]
    return [*names, *events, str(sum(counted.forbidden.values())), f"{counted.reserved_mib:.0f}", f"{counted.host_ms:.1f}"]


def main() -> None:
    """Count and print."""
    parser = page_parser(__doc__)
    methods, models = list(registry.choices("method")), list(registry.choices("model"))
    parser.add_argument("--methods", type=list_of(["all", *methods]), default=["all"])
    parser.add_argument("--models", type=list_of(["all", *models]), default=["resnet18"])
    parser.add_argument("--executions", type=list_of(["all", *EXECUTIONS]), default=["audit"])
    parser.add_argument("--batch", type=whole_number, default=128)
    parser.add_argument("--meta-batch", type=whole_number, default=256)
    parser.add_argument("--here", action="store_true", help="count one step in this process and print it as JSON")
    arguments = parser.parse_args()
    if folder() is None:
        raise UserError("REPRO_NULL_CUDA is not set: it names the folder of a CUDA driver that does nothing.")
    sizes = {"batch": arguments.batch, "meta_batch": arguments.meta_batch}
    if arguments.here:
        assert loaded()
        print(json.dumps(asdict(count_step(arguments.methods[0], arguments.models[0], arguments.executions[0], **sizes))))
        return
    found = []
    asked = ((arguments.models, models), (arguments.methods, methods), (arguments.executions, EXECUTIONS))
    for model, method, execution in product(*(known if "all" in named else named for named, known in asked)):
        found.append(in_a_process(method, model, execution, **sizes))
        say(" ".join(row(found[-1])))
        for place, times in found[-1].forbidden.items():
            say(f"    {times} x {place}")
    table = Table(COLUMNS, [row(counted) for counted in found])
    print(table)
    if arguments.page:
        note = "Counted on a CUDA driver that does nothing: the host's code runs for real, kernels do not. A driver's own time is missing."
        print(Page(f"launches-{'-'.join(arguments.models)}", "What a step asks of CUDA", [table], [note]).write(torch.device("cpu")))


if __name__ == "__main__":
    run(main)
