"""``exec=debug``: two epochs of a run on the images of one batch, every metric shown, and no file kept."""

from __future__ import annotations

import dataclasses
import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

from repro.config.schema import Config
from repro.data.prepare import LabelledImages, RunData, prepare
from repro.randomness import make_deterministic
from repro.runs.inputs import open_inputs
from repro.training.build import build
from repro.training.loop import Training
from repro.training.run import choose_device

logger = logging.getLogger(__name__)

EPOCHS = 2


def debug(config: Config) -> None:
    """Train the run of ``config`` for two epochs on its first images and log every metric.

    There is no run folder; what a method writes goes to a temporary one. PyTorch's anomaly detection names the operation whose gradient
    is not finite.

    Raises:
        UserError: as of a run.
        RuntimeError: a gradient is not finite, or the training does not work in another way.
    """
    warnings.simplefilter("always")
    execution = dataclasses.replace(config.exec, precision="float32", compile=False, cuda_graphs=False)
    config = dataclasses.replace(config, exec=execution)
    device = choose_device(execution.device)
    make_deterministic(threads=execution.threads, allow_tf32=execution.allow_tf32)
    data = first_images(config, prepare(config, device))
    with tempfile.TemporaryDirectory(prefix="repro-debug-") as folder, torch.autograd.set_detect_anomaly(True):
        training = build(config, data, device, Path(folder), open_inputs(config))
        if training.recorder:
            training.recorder.begin(data.train_indices, completed_epochs=0)
        # Only the loop is told: schedule and method keep the recipe of the run.
        training.config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, epochs=min(EPOCHS, config.optim.epochs)))
        training.run(_Shown())
    logger.info("debug: no error; no file was kept. Without exec=debug the run is trained.")


def first_images(config: Config, data: RunData) -> RunData:
    """Return ``data`` with as many images of each of its sets as the larger of the two batches has."""
    count = max(config.optim.batch_size, config.meta.batch_size)
    small: dict[str, Any] = {
        name: LabelledImages(images.images[:count], images.labels[:count])
        for name, images in vars(data).items()
        if isinstance(images, LabelledImages)
    }
    small |= {"observed": small["train"].labels, "true": data.true[:count], "train_indices": data.train_indices[:count]}
    return dataclasses.replace(data, **small)


class _Shown:
    """Logs each row, all but its values of single classes."""

    def evaluated(self, row: dict[str, Any]) -> None:
        logger.info("debug: epoch %d", row["epoch"])
        for name, value in sorted(row.items()):
            if not name.startswith("class_"):
                logger.info("debug:   %-36s %.6g", name, value)

    def between_steps(self, training: Training) -> None:
        """Keep nothing."""
