"""The real CIFAR-100 through the real files, at the paper's sizes. Minutes on a CPU, so marked slow."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from repro.allocator import keep_freed_memory
from repro.compose import compose
from repro.data.prepare import prepare
from repro.determinism import make_deterministic
from repro.errors import Interrupted
from repro.loop import Training
from repro.run import build

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


class StopAfter:
    """Stops a training after a number of steps, and evaluates nothing before."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def evaluated(self, row: dict[str, Any]) -> None:
        raise AssertionError("an epoch ended")

    def between_steps(self, training: Training) -> None:
        if training.batch == self.steps:
            raise Interrupted(0)


def train_20_steps(data: str, folder: str, results: Any) -> None:
    config = compose(["method=instance_labels", "dataset=cifar100", "split=fold", "split.fold=0", "seed=0", f"paths.data={data}"])
    make_deterministic(threads=None, allow_tf32=False)
    keep_freed_memory()
    device = torch.device("cpu")
    training = build(config, prepare(config, device), device, Path(folder))
    before = training.method.state_dict()["logits"].clone()
    start = time.monotonic()
    with contextlib.suppress(Interrupted):
        training._train_epoch(StopAfter(20))
    loss = float(training._loss) / (20 * config.optim.batch_size)
    moved = int((training.method.state_dict()["logits"] != before).any(1).sum())
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    results.put({"loss": loss, "moved": moved, "seconds": time.monotonic() - start, "peak_gib": peak_kib / 2**20})


def test_20_steps_of_resnet18_with_instance_labels(tmp_path: Path) -> None:
    data = os.environ.get("REPRO_TEST_CIFAR100")
    if data is None:
        pytest.skip("REPRO_TEST_CIFAR100 does not name the folder that holds cifar-100-python")
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=train_20_steps, args=(data, str(tmp_path), results))
    process.start()
    process.join()
    assert process.exitcode == 0
    result = results.get()
    print(result)
    assert 3.0 < result["loss"] < 8.0
    assert result["moved"] == 20 * 128
    assert result["peak_gib"] < 4.0
