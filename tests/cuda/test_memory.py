"""What a CUDA graph holds counts as memory of its step."""

from __future__ import annotations

import torch

from benchmarks.common.problem import make_problem
from benchmarks.step import Variant, measure


def test_the_memory_of_a_graph_is_counted() -> None:
    problem = make_problem("digits_cnn", device=torch.device("cuda"), batch=64, meta_batch=128)
    wanted = [Variant("lookahead", "eager"), Variant("lookahead", "cuda_graphs")]
    eager, graph = (row.peak_mib for row in measure(problem, wanted, repeats=1))
    assert graph >= 0.9 * eager
