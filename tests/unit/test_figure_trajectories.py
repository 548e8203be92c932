from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from label_runs import label_run, one_sided
from run_folders import done_run

from analysis.trajectories import open_instance_labels
from repro.errors import UserError
from repro.files import read_json, write_json
from repro.manifest import seal

FIRST, LAST = one_sided(np.array([3, 4, 5]), 0.9), one_sided(np.array([5, 4, 3]), 0.6)


def test_blocks_and_rows(tmp_path: Path) -> None:
    label_run(tmp_path / "run", [40, 10, 20], [FIRST, LAST], when="before")
    labels = open_instance_labels(tmp_path / "run")
    assert labels is not None
    assert (labels.epochs, labels.planned, labels.num_classes, labels.when) == (2, 2, 10, "before")
    assert np.allclose(labels.at(0), FIRST)
    assert np.allclose(labels.at(1), LAST)
    # Rows need not be in the order of their positions; what was not trained on has none.
    assert labels.rows_of(np.array([10, 11, 40, 99, 0])).tolist() == [1, -1, 0, -1, -1]


def test_a_half_written_epoch_does_not_count(tmp_path: Path) -> None:
    label_run(tmp_path / "run", [4, 1, 2], [FIRST, LAST], planned=5)
    path = tmp_path / "run" / "labels" / "instances.f32"
    path.write_bytes(path.read_bytes()[:-4])
    seal(tmp_path / "run")
    labels = open_instance_labels(tmp_path / "run")
    assert labels is not None
    assert (labels.epochs, labels.planned) == (1, 5)


def test_runs_without_instance_labels(tmp_path: Path) -> None:
    done_run(tmp_path / "none")
    assert open_instance_labels(tmp_path / "none") is None
    label_run(tmp_path / "classes", [4, 1, 2], [FIRST])
    path = tmp_path / "classes" / "labels" / "layout.json"
    write_json(path, read_json(path) | {"kind": "class"})
    seal(tmp_path / "classes")
    assert open_instance_labels(tmp_path / "classes") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, r"layout\.json has layout 2, this code reads 1"),
        ({"file": "gone.f32"}, r"manifest\.json .*does not list labels/gone\.f32"),
        ({"shape": [1, 4, 10]}, r"indices\.i64: .*it names 3 images, layout\.json says 4"),
        ({"shape": None}, r"layout\.json: the recorded labels cannot be read"),
    ],
)
def test_damaged_labels_are_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    label_run(tmp_path / "run", [4, 1, 2], [FIRST])
    path = tmp_path / "run" / "labels" / "layout.json"
    write_json(path, read_json(path) | change)
    seal(tmp_path / "run")
    with pytest.raises(UserError, match=message):
        open_instance_labels(tmp_path / "run")
