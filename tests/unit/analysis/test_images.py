import hashlib
import pickle
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_runs import NOISY, digits, label_run, noisy, one_sided, true_hashes

from analysis.build import build
from analysis.reading.images import TrainingSet, TrainingSets, annotated_classes, name_of
from analysis.reading.runs import Run, read_run
from repro.config import registry
from repro.config.fields import setting
from repro.config.schema import DatasetConfig
from repro.data.parts import part_of
from repro.data.published_files import PublishedFiles
from repro.data.sources import cifar100
from repro.data.types import RawDataset
from repro.errors import UserError


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPRO_DATA", str(tmp_path))


def training_set(folder: Path, **more: Any) -> TrainingSet:
    found = TrainingSets().of(run_of(folder, [3, 1], **more))
    return found


def run_of(folder: Path, indices: list[int], **more: Any) -> Run:
    label_run(folder, indices, [one_sided(digits().train.labels[indices], 0.9)], **more)
    return read_run(folder)


def test_digits_images_classes_and_names(tmp_path: Path) -> None:
    found, raw = training_set(tmp_path / "run"), digits()
    assert np.array_equal(found.image(7), raw.train.images[7, 0])
    assert np.array_equal(found.labels, raw.train.labels)
    # A bare number as the name of a bar would read as a value.
    assert name_of(found.class_names, 4) == "class 4"
    assert set(training_set(tmp_path / "part", **{"dataset.num_classes": 3}).labels.tolist()) == {0, 1, 2}


def test_a_setting_that_the_identity_leaves_out_has_its_neutral_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass
    class Config(DatasetConfig):
        # Added later, and its default changed since.
        num_classes: int = setting(2, help="x", neutral=4)

    def build(config: Config, folder: Path) -> RawDataset:
        return part_of(digits(), num_classes=config.num_classes)

    monkeypatch.setitem(registry.choices("dataset"), "later", registry.Choice("dataset", "later", Config, build))
    assert len(training_set(tmp_path / "run", **{"dataset.name": "later"}).class_names) == 4


def write_cifar100(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = np.arange(2 * 3072).astype(np.uint8).reshape(2, 3072)
    part = pickle.dumps({"data": data, "fine_labels": [1, 0], "coarse_labels": [0, 0]})
    names = pickle.dumps({"fine_label_names": ["sea_lion", "ray"]})
    content = {"cifar-100-python/train": part, "cifar-100-python/test": part, "cifar-100-python/meta": names}
    for name, value in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(value)
    md5 = {name: hashlib.md5(value).hexdigest() for name, value in content.items()}
    monkeypatch.setattr(cifar100, "FILES", PublishedFiles("cifar100", "CIFAR100", md5))


def cifar100_run(folder: Path, **hashes: str) -> Run:
    return run_of(folder, [0], hashes=hashes, **{"dataset.name": "cifar100", "dataset.num_classes": None, "dataset.train_size": None})


def test_cifar100_in_colour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar100(tmp_path, monkeypatch)
    sets = TrainingSets()
    run = cifar100_run(tmp_path / "run")
    found = sets.of(run)
    # Row 3, column 5, green.
    assert found.image(1)[3, 5, 1] == (3072 + 1024 + 3 * 32 + 5) % 256
    assert found.image(1).shape == (32, 32, 3)
    assert sets.class_name(run, 0) == "sea lion"
    assert sets.absent == set()


def test_an_absent_dataset_is_no_error_and_a_damaged_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = cifar100_run(tmp_path / "run")
    sets = TrainingSets()
    assert sets.of(run) is None
    assert sets.class_name(run, 3) == "class 3"
    assert sets.absent == {"cifar100"}
    write_cifar100(tmp_path, monkeypatch)
    (tmp_path / "cifar-100-python" / "train").write_bytes(b"half")
    with pytest.raises(UserError, match=r"train is damaged"):
        TrainingSets().of(run)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"hashes": {"dataset": "0" * 64}}, r"provenance\.json: the run trained on other images of digits"),
        ({"dataset.version": 2}, r"identity\.json: dataset digits of version 2"),
        ({"dataset.colour": True}, r"dataset\.colour is no setting of this code"),
    ],
)
def test_another_dataset_than_the_run_s_is_refused(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        training_set(tmp_path / "run", **more)


def test_annotated_classes_are_made_again_and_checked(tmp_path: Path) -> None:
    indices = list(range(0, 400, 3))
    observed = noisy(indices, seed=2)
    assert 30 < (observed != digits().train.labels[indices]).sum() < 75
    run = run_of(tmp_path / "run", indices, hashes=true_hashes(observed), **NOISY, seed=2)
    found = TrainingSets().of(run)
    assert np.array_equal(annotated_classes(run, found, np.array(indices)), observed)
    by_own_seed = run_of(tmp_path / "own", indices, hashes=true_hashes(observed), **(NOISY | {"noise.seed": 2}), seed=5)
    assert np.array_equal(annotated_classes(by_own_seed, found, np.array(indices)), observed)
    other = run_of(tmp_path / "other", indices, hashes=true_hashes(observed), **NOISY, seed=3)
    with pytest.raises(UserError, match="are not those it trained on"):
        annotated_classes(other, found, np.array(indices))
    with pytest.raises(UserError, match=r"names image 1437, digits has 1437"):
        annotated_classes(run, found, np.array([1437]))


def test_neither_torch_nor_the_network_is_needed(tmp_path: Path) -> None:
    indices = [0, 1, 2]
    run_of(tmp_path / "run", indices, hashes=true_hashes(noisy(indices, 0)), **NOISY)
    code = f"""
import socket, sys
def refuse(*arguments, **options): raise AssertionError("the network")
socket.socket.connect = refuse
from pathlib import Path
import analysis.figures.figure
from analysis.reading.runs import read_run
from analysis.reading.images import TrainingSets, annotated_classes
run = read_run(Path({str(tmp_path / "run")!r}))
annotated_classes(run, TrainingSets().of(run), run.labels().indices)
print(sorted(set(sys.modules) & {{"torch", "torchvision", "hydra", "wandb"}}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


def test_committed_pages_look_at_no_dataset_with_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They have the same bytes wherever they are made."""
    asked: list[bool] = []

    def note(self: TrainingSets, *, published: bool = True) -> None:
        asked.append(published)
        raise UserError("enough")

    monkeypatch.setattr(TrainingSets, "__init__", note)
    with pytest.raises(UserError, match="enough"):
        build(Path(__file__).parents[3] / "paper_tables")
    assert asked == [False]
