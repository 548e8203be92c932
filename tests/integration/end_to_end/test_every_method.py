"""Every registered method trains two epochs on real digits; a run that stops between two steps resumes in the same bits; ``exec=debug``."""

import io
import math
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from repro.config import registry
from repro.config.compose import compose
from repro.config.schema import Config
from repro.data.prepare import prepare
from repro.engine.method import Batch, Method
from repro.errors import UserError
from repro.runs.inputs import open_inputs
from repro.training.debug import debug
from repro.training.loop import Training
from repro.training.run import build, execute

CPU = torch.device("cpu")

#: Settings at which a method has more to keep than at its defaults.
MORE = {
    "class_labels": ["method.momentum=0.5"],
    "instance_labels": ["method.momentum=0.5", "method.learning_rate=200", "method.curriculum=one_minus_entropy"],
    "data_parameters": ["method.parameters=both"],
    "mentornet_dd": ["method.burn_in=0", "method.mentor_passes=1"],
    "meta_weight_net": ["method.variant=stable_code"],
    "co_teaching": ["optim.momentum=0.9", "method.gradual_epochs=1"],
}


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


def config_of(name: str, runs: Path, *more: str) -> Config:
    choice = registry.get("method", name)
    reads = choice.build.reads_inputs(choice.config())
    labels, teacher = (next(runs.glob(f"{method}-*")).name for method in ("instance_labels", "one_hot"))
    inputs = [*([f"inputs.labels=[{labels}]"] if "labels" in reads else []), *([f"inputs.teacher={teacher}"] if "teacher" in reads else [])]
    return settings_of(runs, f"method={name}", *inputs, *(more or MORE.get(name, [])))


def start(config: Config) -> Training:
    return build(config, prepare(config, CPU), CPU, Path(), open_inputs(config))


#: Co-teaching's own optimiser, whose learning rate and beta_1 change after the first epoch.
ADAM = [
    *("optim.algorithm=adam", "optim.learning_rate=0.003", "optim.momentum=0.9", "optim.schedule=linear", "optim.decay_from=1"),
    *("optim.late_momentum=0.1", "method.gradual_epochs=1"),
]


@pytest.mark.parametrize(("name", "more"), [*((name, []) for name in registry.choices("method")), ("co_teaching", ADAM)])
def test_two_epochs_and_a_bitwise_resume(name: str, more: list[str], runs: Path) -> None:
    torch.set_num_threads(1)
    config = config_of(name, runs, *more)
    config.trajectory.record = False
    whole, rows = start(config), Watcher()
    whole.run(rows)
    assert [row["epoch"] for row in rows.rows] == [0, 1, 2]
    assert all(math.isfinite(value) for row in rows.rows for value in row.values())
    assert not whole.diverged
    assert rows.rows[-1]["test/accuracy"] > 0.4  # of four classes, a third of whose labels are wrong

    stopped = start(config)
    with pytest.raises(Halt):
        stopped.run(Watcher(steps=whole.num_batches + 3))
    written = io.BytesIO()
    torch.save(stopped.state(), written)
    written.seek(0)
    resumed, later = start(config), Watcher()
    resumed.load_state(torch.load(written, weights_only=True))
    assert (resumed.epoch, resumed.batch) == (1, 3)
    resumed.run(later)
    assert later.rows == rows.rows[2:]
    for part, wanted in (("model", whole.state()["model"]), ("method", whole.state()["method"])):
        found = resumed.state()[part]
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[key], value) for key, value in wanted.items()), part


@pytest.mark.parametrize("name", registry.choices("method"))
def test_debug_tries_every_method_and_keeps_no_file(name: str, runs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    epochs = 2 if name == "replay" else 5  # replay wants as many as its inputs have
    config = config_of(name, runs, *MORE.get(name, []), f"optim.epochs={epochs}", "exec=debug")
    before, rows = sorted(runs.rglob("*")), []
    monkeypatch.setattr("repro.training.debug._Loud.evaluated", lambda _, row: rows.append(row))
    with warnings.catch_warnings():
        debug(config)
    assert [(row["epoch"], row["step"]) for row in rows] == [(0, 0), (1, 1), (2, 2)]
    assert sorted(runs.rglob("*")) == before
    assert not list(tmp_path.glob("repro-debug-*"))


def test_debug_names_the_operation_whose_gradient_is_not_finite(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def loss(self: Method, log_probabilities: Tensor, batch: Batch) -> Tensor:
        return (log_probabilities * 0.0).sum().sqrt()

    monkeypatch.setattr(registry.get("method", "focal").build, "loss", loss)
    with pytest.warns(UserWarning, match="forward call that caused the error"), pytest.raises(RuntimeError, match="MulBackward0.*nan"):
        debug(config_of("focal", runs, "exec=debug"))


def test_no_plan_takes_a_debug_run_for_its_own(runs: Path) -> None:
    before = sorted(runs.rglob("*"))
    with pytest.raises(UserError, match="exec.debug=true keeps no results"):
        execute(config_of("one_hot", runs, "exec=debug"))
    assert sorted(runs.rglob("*")) == before
