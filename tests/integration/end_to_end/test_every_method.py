"""Every registered method trains two epochs on real digits; a run that stops between two steps resumes in the same bits; ``exec=debug``."""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from repro.config import registry
from repro.config.compose import compose
from repro.config.schema import Config
from repro.data.prepare import prepare
from repro.runs.inputs import open_inputs
from repro.training.build import build
from repro.training.loop import Training
from repro.training.run import execute

#: Settings at which a method has more to keep than at its defaults.
MORE = {
    "class_labels": ["method.momentum=0.5"],
    "instance_labels": ["method.momentum=0.5", "method.curriculum=one_minus_entropy", "trajectory.gradient=true"],
    "data_parameters": ["method.parameters=both"],
    "mentornet_dd": ["method.burn_in=0", "method.mentor_passes=1"],
    "meta_weight_net": ["method.variant=stable_code"],
    "co_teaching": ["optim.momentum=0.9", "method.gradual_epochs=1"],
    # Its own optimiser, whose learning rate and beta_1 change after the first epoch.
    "co_teaching, Adam": [
        *("optim.algorithm=adam", "optim.learning_rate=0.003", "optim.momentum=0.9", "optim.schedule=linear"),
        *("optim.decay_from=1", "optim.late_momentum=0.1", "method.gradual_epochs=1"),
    ],
}


#: Methods with labels or weights of images, or a choice of them.
LEARNS_OF_IMAGES = ("instance_labels", "data_parameters", "l2rw", "meta_weight_net", "co_teaching")


class Halt(Exception):  # noqa: N818  # no error: how these tests stop a run
    """The moment at which a run is stopped."""


class Watcher:
    """Collects rows, and stops the run after ``steps`` steps."""

    def __init__(self, steps: float = math.inf) -> None:
        self.rows: list[dict[str, Any]] = []
        self._left = steps

    def evaluated(self, row: dict[str, Any]) -> None:
        self.rows.append({name: value for name, value in row.items() if name != "time/epoch_s"})

    def between_steps(self, training: Training) -> None:
        self._left -= 1
        if self._left <= 0:
            raise Halt


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs folder with a teacher and a run that learned labels."""
    folder = tmp_path_factory.mktemp("runs")
    for method in ("one_hot", "instance_labels"):
        execute(settings_of(folder, f"method={method}"))
    return folder


def settings_of(runs: Path, *more: str) -> Config:
    common = ["dataset=digits", "dataset.num_classes=4", "seed=0", "noise=uniform", "noise.rate=0.4", "split.meta_size=40"]
    return compose([*common, "meta.batch_size=40", "optim.epochs=2", "tracker=none", "exec.threads=1", f"paths.runs={runs}", *more])


def start(name: str, runs: Path) -> Training:
    method = name.split(",")[0]
    choice = registry.get("method", method)
    reads = choice.build.reads_inputs(choice.config())
    labels, teacher = (next(runs.glob(f"{source}-*")).name for source in ("instance_labels", "one_hot"))
    inputs = [*([f"inputs.labels=[{labels}]"] if "labels" in reads else []), *([f"inputs.teacher={teacher}"] if "teacher" in reads else [])]
    config = settings_of(runs, f"method={method}", *inputs, *MORE.get(name, []))
    config.trajectory.record = False
    return build(config, prepare(config, torch.device("cpu")), torch.device("cpu"), Path(), open_inputs(config))


@pytest.mark.parametrize("name", [*registry.choices("method"), "co_teaching, Adam"])
def test_two_epochs_and_a_bitwise_resume(name: str, runs: Path) -> None:
    torch.set_num_threads(1)
    whole, rows = start(name, runs), Watcher()
    whole.run(rows)
    assert [row["epoch"] for row in rows.rows] == [0, 1, 2]
    assert all(math.isfinite(value) for row in rows.rows for value in row.values())
    assert rows.rows[-1]["test/accuracy"] > 0.4  # of four classes, a third of whose labels are wrong
    assert ("peer_test/accuracy" in rows.rows[-1], "weight/mean" in rows.rows[-1]) == ("co_" in name, whole.method.weighs)

    if name in LEARNS_OF_IMAGES:
        wrong = (whole.data.observed != whole.data.true).numpy()
        trust = np.load(io.BytesIO(whole.predictions.content(rows.rows)))["trust"]
        assert trust[wrong].mean() < trust[~wrong].mean()

    stopped = start(name, runs)
    with pytest.raises(Halt):
        stopped.run(Watcher(steps=whole.num_batches + 3))
    written = io.BytesIO()
    torch.save(stopped.state(), written)
    written.seek(0)
    resumed, later = start(name, runs), Watcher()
    resumed.load_state(torch.load(written, weights_only=True))
    assert (resumed.epoch, resumed.batch) == (1, 3)
    resumed.run(later)
    assert later.rows == rows.rows[2:]
    for part in ("model", "method", "predictions"):
        torch.testing.assert_close(resumed.state()[part], whole.state()[part], rtol=0, atol=0, equal_nan=True)
