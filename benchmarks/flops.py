"""Counted work of a step, and what the device can do at most: a matrix product."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.problem import Problem

#: Rows and columns of the factors of the matrix product that is the ceiling.
_PROBE_SIZE = {"cpu": 2048, "cuda": 8192}


def forward_flops(model: nn.Module, problem: Problem) -> int:
    """Return the FLOPs of the convolutions and linear layers in one image's forward pass: two for each multiply-accumulate."""
    was_training = model.training
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(problem.inputs[:1])
    model.train(was_training)
    return int(counter.get_total_flops())


def units_per_image(problem: Problem, *, learns: bool) -> float:
    """Return the forward passes that a training image costs at least, as :mod:`sweeps.cost` counts them: 3; with 2 meta images each, 13.

    What a program computes more than once does not count, so it lowers the fraction.
    """
    return 3.0 + (3.0 * len(problem.meta.targets) / len(problem.rows) + 4.0 if learns else 0.0)


def matrix_product(device: torch.device, precision: str) -> tuple[Callable[[], object], float]:
    """Return a call of one square matrix product, and its FLOPs."""
    size = _PROBE_SIZE[device.type]
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    left, right = torch.randn(size, size, device=device).to(dtype), torch.randn(size, size, device=device).to(dtype)
    return lambda: left @ right, 2.0 * size**3
