import base64
import io
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_runs import NOISY, digits, label_run, noisy, one_sided, true_hashes
from PIL import Image
from run_folders import change

from analysis.reading.images import annotated_classes, dataset_of, png, readable_names
from analysis.reading.runs import Record, read_labels, read_record
from repro.config import registry
from repro.config.fields import setting
from repro.config.schema import DatasetConfig
from repro.data.types import ImageSet, RawDataset
from repro.errors import UserError


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPRO_DATA", str(tmp_path))


def record_of(folder: Path, indices: list[int], **more: Any) -> Record:
    label_run(folder, indices, [one_sided(digits().train.labels[indices], 0.9)], **more)
    return read_record(folder)


def pixels(content: str) -> Any:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


def test_digits_images_classes_and_names(tmp_path: Path) -> None:
    read, raw = dataset_of(record_of(tmp_path / "run", [3, 1])), digits()
    assert np.array_equal(pixels(png(read, 7)), raw.train.images[7, 0])
    assert np.array_equal(read.train.labels, raw.train.labels)
    # A bare number as the name of a bar would read as a value.
    assert readable_names(read)[4] == "class 4"


def test_a_setting_that_the_identity_leaves_out_has_its_neutral_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass
    class Config(DatasetConfig):
        # Added later, and its default changed since.
        num_classes: int = setting(2, help="x", neutral=4)

    def build(config: Config, folder: Path) -> RawDataset:
        return replace(digits(), class_names=digits().class_names[: config.num_classes])

    monkeypatch.setitem(registry.choices("dataset"), "later", registry.Choice("dataset", "later", build, Config))
    assert dataset_of(record_of(tmp_path / "run", [3], **{"dataset.name": "later"})).num_classes == 4


def test_colours_survive_as_png() -> None:
    images = np.random.RandomState(0).randint(0, 256, (2, 3, 5, 4)).astype(np.uint8)
    raw = replace(digits(), train=ImageSet(images, np.zeros(2, np.int64)))
    assert np.array_equal(pixels(png(raw, 1)), images[1].transpose(1, 2, 0))


def test_images_of_a_part_are_found_by_their_published_positions(tmp_path: Path) -> None:
    raw = digits()
    few = dataset_of(record_of(tmp_path / "run", [3], **{"dataset.train_size": 100}))
    assert len(few.positions) == 100
    for position in few.positions.tolist():
        assert png(few, position) == png(raw, position)
    np.testing.assert_array_equal(few.train.labels[few.rows_of(few.positions)], raw.train.labels[few.positions])


def test_labels_that_count_images_otherwise_are_refused(tmp_path: Path) -> None:
    record_of(tmp_path / "run", [3])
    change(tmp_path / "run", "labels/layout.json", {"schema": 1})
    with pytest.raises(UserError, match="counted images otherwise"):
        read_labels(tmp_path / "run")


def test_another_dataset_than_the_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run: its dataset has sha256 000000000000"):
        dataset_of(record_of(tmp_path / "run", [3], hashes={"dataset": "0" * 64}))


def test_annotated_classes_are_made_again_and_checked(tmp_path: Path) -> None:
    indices = list(range(0, 400, 3))
    observed = noisy(indices, seed=2)
    record = record_of(tmp_path / "run", indices, hashes=true_hashes(observed), **(NOISY | {"noise.seed": 2}), seed=5)
    assert np.array_equal(annotated_classes(record, dataset_of(record), np.array(indices)), observed)
    record = record_of(tmp_path / "other", indices, hashes=true_hashes(observed), **NOISY, seed=3)
    with pytest.raises(UserError, match="its noise has sha256"):
        annotated_classes(record, dataset_of(record), np.array(indices))


def test_neither_torch_nor_the_network_is_needed(tmp_path: Path) -> None:
    record_of(tmp_path / "run", [0, 1, 2], hashes=true_hashes(noisy([0, 1, 2], 0)), **NOISY)
    code = f"""
import socket, sys
def refuse(*arguments, **options): raise AssertionError("the network")
socket.socket.connect = refuse
from pathlib import Path
import analysis.figures.draw, analysis.report.page
from analysis.reading.runs import read_labels, read_record
from analysis.reading.images import annotated_classes, dataset_of
folder = Path({str(tmp_path / "run")!r})
record = read_record(folder)
labels = read_labels(folder)
annotated_classes(record, dataset_of(record), labels.indices)
print(sorted(set(sys.modules) & {{"torch", "torchvision", "hydra", "wandb"}}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr
