"""Peak memory of a step.

On CUDA it is what PyTorch's allocator counts, and what a step's CUDA graph holds. On a CPU it is the bytes of tensors: PyTorch's
profiler reports every allocation and release of its allocator, of whatever operation in whatever thread, and their running sum has a
peak. Both are added to what lies there between steps: parameters, buffers, optimiser state, labels and batches of that one learner.
Scratch memory that a library asks the system for directly is in neither.
"""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.common.problem import Learner, Problem
from repro.measure import synchronize

MIB = 2**20


def peak_mib(call: Callable[[], object], problem: Problem, learner: Learner) -> float:
    """Return the peak of one ``call`` in MiB: the learner's and the problem's own tensors, and all that the call allocates beside them."""
    tensors = [*learner.model.parameters(), *learner.model.buffers(), *learner.optimizer.velocities, *learner.method.state_dict().values()]
    tensors += [problem.inputs, problem.rows, problem.labels, problem.meta.inputs, problem.meta.targets]
    # Those of a shared storage once.
    resident = sum({tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}.values())
    if problem.device.type == "cuda":
        synchronize(problem.device)
        torch.cuda.reset_peak_memory_stats(problem.device)
        before = torch.cuda.memory_allocated(problem.device)
        call()
        synchronize(problem.device)
        return (resident + torch.cuda.max_memory_allocated(problem.device) - before) / MIB
    return (resident + allocated_peak(call)) / MIB


def graphs_mib(device: torch.device) -> float:
    """Return the memory in MiB that the CUDA graphs of this process hold: it is theirs for good, and a replay allocates nothing."""
    if device.type != "cuda":
        return 0.0
    # Graphs that were dropped before must not count here and be freed by the time of the next look.
    gc.collect()
    torch.cuda.empty_cache()
    segments = torch.cuda.memory_snapshot()  # type: ignore[no-untyped-call]
    held = [segment["total_size"] for segment in segments if tuple(segment["segment_pool_id"]) != (0, 0)]
    return float(sum(held)) / MIB


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
