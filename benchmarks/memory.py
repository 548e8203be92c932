"""Peak memory of a step.

On CUDA it is what PyTorch's allocator counts. On a CPU it is the bytes of tensors: PyTorch's profiler reports every allocation and
release of its allocator, of whatever operation in whatever thread, and their running sum has a peak. Both are added to what lies there
between steps: parameters, buffers, optimiser state, labels and batches of that one learner. Scratch memory that a library asks the system
for directly is in neither; the peak resident memory of a fresh process (:func:`peak_resident_mib`) has it, and much else.
"""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.clock import synchronize
from benchmarks.problem import Learner, Problem

MIB = 2**20


def peak_mib(call: Callable[[], object], problem: Problem, learner: Learner) -> float:
    """Return the peak of one ``call`` in MiB: the learner's and the problem's own tensors, and all that the call allocates beside them."""
    resident = _bytes_of(_resident(problem, learner))
    if problem.device.type == "cuda":
        synchronize(problem.device)
        torch.cuda.reset_peak_memory_stats(problem.device)
        before = torch.cuda.memory_allocated(problem.device)
        call()
        synchronize(problem.device)
        return (resident + torch.cuda.max_memory_allocated(problem.device) - before) / MIB
    return (resident + allocated_peak(call)) / MIB


def allocated_peak(call: Callable[[], object]) -> int:
    """Return the most bytes that a CPU ``call`` has allocated and not yet released at any moment, in tensors of its own."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.device_type() == torch.profiler.DeviceType.CPU:
            live += event.nbytes()
            peak = max(peak, live)
    return peak


def peak_resident_mib() -> float:
    """Return the most memory that this process has had resident, libraries included, in MiB."""
    # Not ru_maxrss where it can be helped: Linux hands a process that of the one which started it.
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (MIB if sys.platform == "darwin" else 2**10)


def _resident(problem: Problem, learner: Learner) -> Iterator[Tensor]:
    yield from learner.model.parameters()
    yield from learner.model.buffers()
    yield from learner.optimizer.velocities
    yield from learner.method.state_dict().values()
    yield from (problem.inputs, problem.rows, problem.labels, problem.meta.inputs, problem.meta.targets)


def _bytes_of(tensors: Iterable[Tensor]) -> int:
    """Return the bytes behind ``tensors``, those of a shared storage once."""
    return sum({tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}.values())
