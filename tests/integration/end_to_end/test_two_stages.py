"""Both stages on real digits: five fold runs, then final runs on their averaged labels, with kills in between."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from metric_rows import read_metrics

from repro.config.compose import compose
from repro.files import read_json
from repro.labels.trajectory import open_trajectory
from repro.training.run import execute
from tests.integration.end_to_end.test_resume import folder_of, kill_until_done

EPOCHS = 4
COMMON = ["dataset=digits", "seed=3", f"optim.epochs={EPOCHS}", "tracker=none", "exec.threads=1", "exec.checkpoint_interval_s=0.05"]
RESULTS = ("final.json", "model.safetensors")
FOLDS = 5


def settings(runs: Path, *more: str) -> list[str]:
    return [*COMMON, f"paths.runs={runs}", *more]


@pytest.fixture(scope="module")
def stage_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with five fold runs of each kind of learned label."""
    runs = tmp_path_factory.mktemp("stage_one")
    for method in ("method=instance_labels method.learning_rate=500.0", "method=class_labels method.learning_rate=3.0"):
        for fold in range(FOLDS):
            execute(compose(settings(runs, *method.split(), "split=fold", f"split.fold={fold}")))
    return runs


def fold_ids(runs: Path, kind: str) -> list[str]:
    """Return the ids of the fold runs, fold by fold."""
    folders = sorted(runs.glob(f"{kind}_labels-*"), key=lambda folder: read_json(folder / "identity.json")["fields"]["split.fold"])
    assert len(folders) == FOLDS
    return [folder.name for folder in folders]


def labels_of(runs: Path, kind: str) -> str:
    return f"inputs.labels=[{','.join(fold_ids(runs, kind))}]"


@pytest.mark.parametrize("kind", ["instance", "class"])
def test_final_runs_train_on_what_the_folds_recorded(stage_one: Path, kind: str) -> None:
    """The rows' label metrics are those of the targets trained on; compared with the trajectories as they lie on the disk."""
    folder = execute(compose(settings(stage_one, "method=replay", "split=full", labels_of(stage_one, kind))))
    rows = read_metrics(folder)
    trajectories = [open_trajectory(stage_one / name / "labels") for name in fold_ids(stage_one, kind)]
    num_train = 1437
    held_out = np.ones((FOLDS, num_train), bool)
    for fold, trajectory in enumerate(trajectories):
        held_out[fold, trajectory.indices] = False
    assert (held_out.sum(axis=0) == 1).all(), "every training image is held out by exactly one fold"
    from sklearn.datasets import load_digits

    assert len(load_digits().target) == num_train + 360
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
    provenance = read_json(folder / "provenance.json")
    assert sorted(provenance["inputs"]) == sorted(fold_ids(stage_one, kind))


def test_dynamic_and_static_labels_are_different_runs_with_different_results(stage_one: Path) -> None:
    labels = labels_of(stage_one, "instance")
    dynamic, static = (execute(compose(settings(stage_one, f"method={name}", "split=full", labels))) for name in ("replay", "fixed_labels"))
    assert dynamic.name != static.name
    targets = [[row["label/entropy"] for row in read_metrics(folder)] for folder in (dynamic, static)]
    assert len(set(targets[0])) > 2
    assert len(set(targets[1])) == 1
    assert targets[0][-1] == pytest.approx(targets[1][-1], abs=1e-6)


@pytest.mark.parametrize(
    "method",
    ["replay method.align=fraction method.mean=logit", "fixed_labels method.temperature=2.0"],
)
def test_killed_final_run_ends_in_the_same_bytes(stage_one: Path, tmp_path: Path, method: str) -> None:
    own = [*f"method={method}".split(), "split=full", labels_of(stage_one, "instance"), "optim.epochs=4"]
    whole = execute(compose(settings(stage_one, *own)))
    for name in fold_ids(stage_one, "instance"):
        shutil.copytree(stage_one / name, tmp_path / name)
    killed = settings(tmp_path, *own)
    kill_until_done(killed, kills=3, chance=random.Random(1), longest_s=0.6)
    for name in RESULTS:
        assert (whole / name).read_bytes() == (folder_of(killed) / name).read_bytes(), name


def test_float32_trajectories_are_stored_and_read(stage_one: Path, tmp_path: Path) -> None:
    own = ["method=instance_labels", "method.learning_rate=500.0", "split=fold", "split.fold=0"]
    exact = execute(compose(settings(tmp_path, *own, "trajectory.dtype=float32")))
    rounded = stage_one / fold_ids(stage_one, "instance")[0]
    first, second = (open_trajectory(folder / "labels") for folder in (exact, rounded))
    assert (exact / "labels" / "instances.f32").exists()
    np.testing.assert_array_equal(first.block(2).astype(np.float16), second.block(2).astype(np.float16))
    assert not np.array_equal(first.block(2), second.block(2))
    assert torch.allclose(torch.from_numpy(first.block(2)).sum(1), torch.ones(first.rows), atol=1e-5)
