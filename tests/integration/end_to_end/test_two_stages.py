"""Label trajectories of real runs on digits: recorded, read back as docs/run-folder.md says, and trained on by final runs."""

from pathlib import Path

import numpy as np
import pytest
from real_runs import read_metrics

from repro.config.compose import compose
from repro.files import read_json
from repro.labels.trajectory import open_trajectory
from repro.training.run import execute

EPOCHS, FOLDS = 3, 3
COMMON = ["dataset=digits", "seed=3", f"optim.epochs={EPOCHS}", "tracker=none", "exec.threads=1"]
FOLD = ["split=fold", f"split.num_folds={FOLDS}"]


@pytest.fixture(scope="module")
def stage_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three fold runs of each kind of learned label."""
    runs = tmp_path_factory.mktemp("stage_one")
    for method in ("method=instance_labels method.learning_rate=500.0", "method=class_labels method.learning_rate=3.0"):
        for fold in range(FOLDS):
            execute(compose([*COMMON, f"paths.runs={runs}", *method.split(), *FOLD, f"split.fold={fold}"]))
    return runs


def folds(runs: Path, kind: str) -> list[Path]:
    """Return the folders of the fold runs, fold by fold."""
    found = sorted(runs.glob(f"{kind}_labels-*"), key=lambda folder: read_json(folder / "identity.json")["fields"]["split.fold"])
    assert len(found) == FOLDS
    return found


def test_class_labels_after_the_last_step_are_the_final_ones(stage_one: Path) -> None:
    folder = folds(stage_one, "class")[0]
    trajectory = open_trajectory(folder / "labels")
    assert (trajectory.kind, trajectory.epochs, trajectory.rows, trajectory.num_classes) == ("class", EPOCHS, 15, 10)
    row = read_metrics(folder)[-1]
    final = [row[f"class_target_probability/{k:03d}"] for k in range(10)]
    np.testing.assert_allclose(1.0 - trajectory.block(EPOCHS - 1)[-1], final, atol=1e-6)


@pytest.mark.parametrize("kind", ["instance", "class"])
def test_final_runs_train_on_what_the_folds_recorded(stage_one: Path, kind: str) -> None:
    """The rows' label metrics are those of the targets trained on; compared with the trajectories as they lie on the disk."""
    names = [folder.name for folder in folds(stage_one, kind)]
    read = ["method=replay", "split=full", f"inputs.labels=[{','.join(names)}]"]
    folder = execute(compose([*COMMON, f"paths.runs={stage_one}", *read]))
    rows = read_metrics(folder)
    trajectories = [open_trajectory(stage_one / name / "labels") for name in names]
    num_train = 1437
    held_out = np.ones((FOLDS, num_train), bool)
    for fold, trajectory in enumerate(trajectories):
        held_out[fold, trajectory.indices] = False
    assert (held_out.sum(axis=0) == 1).all(), "every training image is held out by exactly one fold"
    if kind == "class":
        last = 1.0 - np.mean([t.block(EPOCHS - 1)[-1] for t in trajectories], axis=0)
        found = [rows[-1][f"class_target_probability/{k:03d}"] for k in range(10)]
        np.testing.assert_allclose(found, last, atol=2e-3)  # between the last two steps of a fold
        return
    entropies = []
    for epoch in (1, EPOCHS):
        total = np.zeros((num_train, 10))
        for trajectory in trajectories:
            total[trajectory.indices] += trajectory.block(epoch - 1)
        mean = total / total.sum(axis=1, keepdims=True)
        entropies.append(float(-(mean * np.log(np.maximum(mean, 1e-30))).sum(axis=1).mean()))
        assert rows[epoch]["label/entropy"] == pytest.approx(entropies[-1], abs=1e-5)
    assert entropies[0] != entropies[1]
    assert sorted(read_json(folder / "provenance.json")["inputs"]) == sorted(names)
