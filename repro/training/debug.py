"""``exec=debug``: one batch in each of two epochs of a run, checked and shown in full, of which no file is kept.

There is no run folder, so nothing can be taken for a result: all that a method may write goes to a temporary folder, which is removed.
"""

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
from repro.data.staging import staged
from repro.engine.step import steps_per_epoch
from repro.randomness import make_deterministic
from repro.runs.inputs import open_inputs
from repro.training.build import build
from repro.training.loop import Training
from repro.training.run import choose_device

logger = logging.getLogger(__name__)

EPOCHS = 2


def debug(config: Config) -> None:
    """Take the first step of two epochs of the run of ``config``, each followed by an evaluation, and log everything that is measured.

    Of each set one batch is used. PyTorch's anomaly detection names the operation whose gradient is not finite.

    Raises:
        UserError: as of a run.
        RuntimeError: a gradient is not finite, or the training does not work in another way.
    """
    warnings.simplefilter("always")
    if config.exec.precision == "auto":
        config = dataclasses.replace(config, exec=dataclasses.replace(config.exec, precision="float32"))
    device = choose_device(config.exec.device)
    make_deterministic(threads=config.exec.threads, allow_tf32=config.exec.allow_tf32)
    inputs = open_inputs(config)
    data = prepare(staged(config), device)
    small = one_batch(config, data)
    with tempfile.TemporaryDirectory(prefix="repro-debug-") as temporary, torch.autograd.set_detect_anomaly(True):
        folder = Path(temporary)
        training = build(config, small, device, folder, inputs)
        steps = steps_per_epoch(config.optim, len(data.observed))
        logger.info("debug: on %s, %d epochs of one batch; the run has %d of %d.", device, EPOCHS, config.optim.epochs, steps)
        sets = {name: images for name, images in vars(data).items() if isinstance(images, LabelledImages)}
        logger.info("debug: images: %s.", ", ".join(f"{name} {len(images)}" for name, images in sets.items()))
        logger.info("debug: parameters of the network: %d.", sum(parameter.numel() for parameter in training.model.parameters()))
        if training.recorder:
            training.recorder.begin(small.train_indices, completed_epochs=0)
        # Only the loop is told: schedule and method keep the recipe of the run.
        training.config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, epochs=min(EPOCHS, config.optim.epochs)))
        training.run(_Loud())
    logger.info("debug: no error; no file was kept. Without exec=debug the run is trained.")


def one_batch(config: Config, data: RunData) -> RunData:
    """Return ``data`` with the first batch of each of its sets."""

    def first(images: Any, count: int) -> Any:
        return images if images is None else LabelledImages(images.images[:count], images.labels[:count])

    count = config.optim.batch_size
    train, meta = first(data.train, count), first(data.meta, max(count, config.meta.batch_size))
    return dataclasses.replace(
        data,
        train=train,
        observed=train.labels,
        true=data.true[:count],
        meta=meta,
        validation=meta if data.validation is data.meta else first(data.validation, count),
        test=first(data.test, count),
        train_indices=data.train_indices[:count],
    )


class _Loud:
    """Logs each row, all but its values of single classes."""

    def evaluated(self, row: dict[str, Any]) -> None:
        logger.info("debug: epoch %d", row["epoch"])
        for name, value in sorted(item for item in row.items() if not item[0].startswith("class_")):
            logger.info("debug:   %-36s %.6g", name, value)

    def between_steps(self, training: Training) -> None:
        """Go on."""
