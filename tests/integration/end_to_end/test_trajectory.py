"""The recorded label trajectories, read back as docs/run-folder.md says."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from metric_rows import read_metrics

from repro.config.compose import compose
from repro.data.prepare import prepare
from repro.errors import UserError
from repro.labels.trajectory import open_trajectory
from repro.training.run import build, execute
from tests.integration.end_to_end.test_every_method import Watcher

EPOCHS = 3


def record(tmp_path: Path, *more: str) -> Path:
    common = ["dataset=digits", "seed=0", f"optim.epochs={EPOCHS}", "tracker=none", "exec.threads=1", f"paths.runs={tmp_path}"]
    return execute(compose([*common, *more]))


def test_instance_labels_at_their_last_visit_are_the_final_labels(tmp_path: Path) -> None:
    """No label moves after its visit, so row i of the last epoch's block is the label that instance i ends with."""
    config = compose(["method=instance_labels", "method.learning_rate=500", "dataset=digits", "seed=0", f"optim.epochs={EPOCHS}"])
    device = torch.device("cpu")
    data = prepare(config, device)
    training = build(config, data, device, tmp_path)
    assert training.recorder is not None
    training.recorder.begin(data.train_indices, completed_epochs=0)
    for _ in range(EPOCHS):
        training._train_epoch(Watcher())
    trajectory = open_trajectory(tmp_path / "labels", unfinished=True)
    assert trajectory.kind == "instance"
    assert (trajectory.epochs, trajectory.rows, trajectory.num_classes) == (EPOCHS, 1337, 10)
    np.testing.assert_array_equal(trajectory.indices, data.train_indices)
    final = training.method.targets(torch.arange(1337)).to(torch.float16).numpy()
    np.testing.assert_array_equal(trajectory.block(EPOCHS - 1), final.astype(np.float32))
    assert not np.array_equal(trajectory.block(0), trajectory.block(EPOCHS - 1))


def test_class_labels_after_the_last_step_are_the_final_ones(tmp_path: Path) -> None:
    folder = record(tmp_path, "method=class_labels")
    trajectory = open_trajectory(folder / "labels")
    assert trajectory.kind == "class"
    assert (trajectory.epochs, trajectory.rows, trajectory.num_classes) == (EPOCHS, 21, 10)
    row = read_metrics(folder)[-1]
    final = [row[f"class_target_probability/{k:03d}"] for k in range(10)]
    np.testing.assert_allclose(1.0 - trajectory.block(EPOCHS - 1)[-1], final, atol=1e-6)


def test_of_an_unfinished_run_only_whole_epochs_are_read(tmp_path: Path) -> None:
    labels = record(tmp_path, "method=instance_labels") / "labels"
    file = labels / "instances.f16"
    os.truncate(file, file.stat().st_size - 1)
    assert open_trajectory(labels, unfinished=True).epochs == EPOCHS - 1
    with pytest.raises(UserError, match=r"instances\.f16 is not what the run wrote"):
        open_trajectory(labels)
    (labels / "layout.json").unlink()
    with pytest.raises(UserError, match="no readable label trajectory"):
        open_trajectory(labels, unfinished=True)
