"""A training from its settings and data, and its results from its rows: what a run computes, without its folder and its tracker.

What is reached from here by imports, and the files of the run's choices, is the code that its numbers come from (:mod:`repro.runs.code`).
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from repro.config import registry
from repro.config.schema import Config
from repro.data.prepare import RunData
from repro.engine.execution import prepare_model
from repro.engine.method import Context, Method
from repro.engine.optimizer import make_optimizer
from repro.engine.step import steps_per_epoch
from repro.labels.recorder import Layout, Recorder
from repro.metric_names import is_headline
from repro.randomness import Stream, seeded
from repro.runs.inputs import Inputs
from repro.training.loop import Training

logger = logging.getLogger(__name__)


def build(config: Config, data: RunData, device: torch.device, folder: Path, inputs: Inputs | None = None) -> Training:
    """Make the model, its optimiser, the method and the recorder of a run, all at their start."""

    def make_network(*stream: str) -> nn.Module:
        with seeded(Stream(config.seed, *stream)):
            choice = registry.get("model", config.model.name)
            made: nn.Module = choice.build(config.model, num_classes=data.num_classes, image_shape=data.image_shape)
            return prepare_model(made, config.exec, device)

    model = make_network("init")
    if np.allclose(data.noise_transition, data.noise_transition[0]):
        logger.warning("noise=%s: labels are drawn whatever the true class is, so there is nothing to learn from.", config.noise.name)
    number, size = len(data.observed), config.optim.batch_size
    if size > number:
        logger.warning("optim.batch_size=%d: there are %d training images, so each step is on all of them.", size, number)
    context = Context(
        num_classes=data.num_classes,
        observed=data.observed,
        device=device,
        seed=config.seed,
        epochs=config.optim.epochs,
        steps_per_epoch=steps_per_epoch(config.optim, number),
        inputs=inputs or Inputs(),
        data=data,
        transition=torch.from_numpy(data.noise_transition).to(torch.get_default_dtype()).to(device),
        optim=config.optim,
        make_network=lambda name: make_network("init", name),
    )
    method: Method = registry.get("method", config.method.name).build(config.method, context)
    recorder = None
    if method.trajectory is not None and config.trajectory.record:
        rows = len(data.observed) if method.trajectory == "instance" else context.steps_per_epoch
        layout = Layout(method.trajectory, config.optim.epochs, rows, data.num_classes, config.trajectory.dtype)
        recorder = Recorder(folder / "labels", layout, method, when=config.trajectory.when)
    return Training(config, data, model, make_optimizer(model, config.optim), method, recorder)


def summarize(rows: list[dict[str, Any]], *, diverged: bool) -> dict[str, dict[str, float]]:
    """Return the results of a run from the rows of its epochs: what ``final.json`` holds.

    For each headline metric: its value after the ``last`` epoch, at the epoch of the best validation accuracy (``best_val``) and at
    the epoch of the best test accuracy (``best_test``, which looks at the test set and is for comparison with papers that do so).
    Of equal epochs the first counts; the untrained epoch 0 never does. A diverged run has NaN for its last epoch.
    """
    trained = [row for row in rows if row["epoch"] > 0]
    picked = {"last": trained[-1]}
    for rule, metric in (("best_val", "val/accuracy"), ("best_test", "test/accuracy")):
        scored = [row for row in trained if math.isfinite(float(row.get(metric, math.nan)))]
        if scored:
            picked[rule] = max(scored, key=lambda row: (float(row[metric]), -row["epoch"]))
    names = sorted(name for name in trained[-1] if is_headline(name))
    results = {name: {rule: float(row.get(name, math.nan)) for rule, row in picked.items()} for name in names}
    if diverged:
        for values in results.values():
            values["last"] = math.nan
    return results | {"epoch": {rule: float(row["epoch"]) for rule, row in picked.items()}}
