"""One training step as one graph of tensor operations, compiled.

The step is written once, as Python that PyTorch runs operation by operation (:mod:`repro.engine.step`). To compile it, that Python runs
once more while every operation, those of the backward passes included, is noted; the notes are a program without Python, which
``torch.compile`` turns into machine code, whole. A step is noted once for each shape of batch.

What a step changes (parameters, velocities, running statistics, the method's labels) is changed in place, so the program refers to those
tensors; noting it takes a real step, whose effects are taken back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repro.engine.optimizer import Optimizer
from repro.errors import UserError

#: Takes tensors, or ``None`` in place of some; changes the state in place; returns what was measured.
TensorStep = Callable[..., tuple[Tensor, ...]]


class Programs:
    """The programs of one step, one for each shape of its arguments and each momentum.

    Args:
        step: runs tensor operations only, the same ones for all arguments of the same shapes.
        state: returns every tensor that the step changes in place.
        optimizers: those of the step; their learning rates change without another program.
        compile_step: compile the noted operations.
        cuda_graphs: record the step, compiled or not, as a CUDA graph and replay it.
    """

    def __init__(
        self,
        step: TensorStep,
        state: Callable[[], list[Tensor]],
        optimizers: Sequence[Optimizer],
        *,
        compile_step: bool,
        cuda_graphs: bool,
    ) -> None:
        self._step = step
        self._state = state
        self._optimizers = optimizers
        # On the device, and filled there when a rate changes: a new tensor would be copied from the host, and the step would wait for it.
        self._rates = [torch.full((), torch.nan, dtype=one.parameters[0].dtype, device=one.parameters[0].device) for one in optimizers]
        self._filled: list[float | Tensor] = [torch.nan] * len(self._rates)
        self._compile = compile_step
        self._cuda_graphs = cuda_graphs
        self.made: dict[tuple[object, ...], TensorStep] = {}
        #: Graphs of all shapes share their memory: never are two replayed at once.
        self._pool: Any = None

    def __call__(self, *arguments: Tensor | None) -> tuple[Tensor, ...]:
        """Take the step; the first one of each shape and each momentum, which is noted, makes its program."""
        for index, optimizer in enumerate(self._optimizers):
            if optimizer.learning_rate != self._filled[index]:
                self._filled[index] = optimizer.learning_rate
                self._rates[index].fill_(optimizer.learning_rate)
        momenta = tuple(optimizer.momentum for optimizer in self._optimizers)
        key = (momenta, *(None if argument is None else (argument.shape, argument.dtype) for argument in arguments))
        if key not in self.made:
            self.made[key] = self._make(arguments)
        return self.made[key](*(argument for argument in arguments if argument is not None))

    def _make(self, arguments: Sequence[Tensor | None]) -> TensorStep:
        absent = [argument is None for argument in arguments]

        def step(*present: Tensor) -> tuple[Tensor, ...]:
            remaining = iter(present)
            before = [optimizer.learning_rate for optimizer in self._optimizers]
            for optimizer, rate in zip(self._optimizers, self._rates, strict=True):
                optimizer.learning_rate = rate
            try:
                return self._step(*(None if missing else next(remaining) for missing in absent))
            finally:
                for optimizer, value in zip(self._optimizers, before, strict=True):
                    optimizer.learning_rate = value

        examples = [argument for argument in arguments if argument is not None]
        program: TensorStep = step
        if self._compile:
            program = noted(program, examples, self._state())
            # The masks of dropout are those of the eager step: random numbers are PyTorch's, not the compiler's own.
            options: dict[str, Any] = {"fallback_random": True}
            if examples[0].device.type == "cpu":
                # It would put convolutions into channels last: up to a third slower there, and with other roundings than the eager step's.
                options["layout_optimization"] = False
            program = torch.compile(program, fullgraph=True, dynamic=False, options=options)
            program = torch.no_grad()(program)
        if self._cuda_graphs:
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            program = replayed(program, examples, self._state(), self._pool)
        return program


def noted(step: TensorStep, arguments: Sequence[Tensor], state: Sequence[Tensor]) -> TensorStep:
    """Return the tensor operations of ``step`` on ``arguments`` as a program; ``state``, which it changes in place, is left as it was.

    Raises:
        UserError: the step draws random numbers that the program would draw once and for all, or not as the step does.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    before = _foreign_generators()
    with _left_alone(state):
        program = make_fx(step)(*arguments)
    if _foreign_generators() != before:
        raise UserError(
            "exec.compile=true: the network draws from NumPy's generator, whose numbers a program holds fast. Use exec.compile=false."
        )
    for node in program.graph.nodes:
        if node.kwargs.get("generator") is not None:
            raise UserError(
                f"exec.compile=true: {node.target} draws from a generator of its own. Use exec.compile=false, or PyTorch's generator."
            )
    for node in list(program.graph.nodes):
        # No tensor of the program needs a gradient: the backward passes are part of it.
        if node.target in (torch.ops.aten.detach.default, torch.ops.aten.alias.default):
            node.replace_all_uses_with(node.args[0])
            program.graph.erase_node(node)
    program.recompile()
    return program


def _foreign_generators() -> bytes:
    """Return the position of NumPy's global generator, which PyTorch knows nothing of."""
    state = np.random.get_state(legacy=False)["state"]
    return bytes(state["key"]) + int(state["pos"]).to_bytes(4, "little")


def replayed(step: TensorStep, arguments: Sequence[Tensor], state: Sequence[Tensor], pool: Any) -> TensorStep:
    """Return ``step`` as a CUDA graph in the memory of ``pool``: its kernels are started by one call instead of one by one."""
    fixed = [argument.clone() for argument in arguments]
    with _left_alone(state):
        # What libraries and the compiler do at their first calls cannot be captured.
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                step(*fixed)
        torch.cuda.current_stream().wait_stream(stream)
    # What these steps took would stay reserved beside the graph's own memory.
    torch.cuda.empty_cache()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):  # notes the kernels, runs none
        results = step(*fixed)

    def replay(*now: Tensor) -> tuple[Tensor, ...]:
        torch._foreach_copy_(fixed, list(now))
        graph.replay()
        # The next replay overwrites them.
        return tuple(result.clone() for result in results)

    return replay


@contextlib.contextmanager
def _left_alone(state: Sequence[Tensor]) -> Iterator[None]:
    before = [tensor.clone() for tensor in state]
    try:
        with torch.random.fork_rng(devices={tensor.device for tensor in state if tensor.is_cuda}):
            yield
    finally:
        for tensor, value in zip(state, before, strict=True):
            tensor.copy_(value)
