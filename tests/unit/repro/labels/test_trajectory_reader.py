from pathlib import Path

import numpy as np
import pytest
from label_runs import label_run, one_sided
from run_folders import done_run
from sealed import seal

from analysis.reading.runs import read_labels
from repro.errors import UserError
from repro.files import read_json, write_json
from repro.labels.trajectory import open_trajectory

FIRST, LAST = one_sided(np.array([3, 4, 5]), 0.9), one_sided(np.array([5, 4, 3]), 0.6)


def test_blocks_and_rows(tmp_path: Path) -> None:
    label_run(tmp_path / "run", [40, 10, 20], [FIRST, LAST], when="before")
    labels = open_trajectory(tmp_path / "run" / "labels")
    assert (labels.kind, labels.epochs, labels.planned, labels.rows, labels.num_classes, labels.when) == ("instance", 2, 2, 3, 10, "before")
    assert np.allclose(labels.block(0), FIRST)
    assert np.allclose(labels.block(1), LAST)
    # Rows need not be in the order of their positions; what was not trained on has none.
    assert labels.rows_of(np.array([10, 11, 40, 99, 0])).tolist() == [1, -1, 0, -1, -1]


def test_a_half_written_epoch_does_not_count(tmp_path: Path) -> None:
    label_run(tmp_path / "run", [4, 1, 2], [FIRST, LAST], planned=5)
    path = tmp_path / "run" / "labels" / "instances.f32"
    path.write_bytes(path.read_bytes()[:-4])
    seal(tmp_path / "run")
    labels = open_trajectory(tmp_path / "run" / "labels")
    assert (labels.epochs, labels.planned) == (1, 5)


def test_which_runs_have_labels(tmp_path: Path) -> None:
    done_run(tmp_path / "none")
    label_run(tmp_path / "run", [4, 1, 2], [FIRST])
    assert [read_labels(tmp_path / name) is not None for name in ("none", "run", "missing")] == [False, True, False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, r"layout\.json has layout 2, this code reads 1"),
        ({"file": "gone.f32"}, r"gone\.f32 is not what the run wrote"),
        ({"shape": [1, 4, 10]}, r"indices\.i64: .*it names 3 images, layout\.json says 4"),
        ({"kind": "class", "num_instances": 4}, r"indices\.i64: .*it names 3 images, layout\.json says 4"),
        ({"shape": None}, "no readable label trajectory"),
        ({"shape": [1, 0, 10]}, "no readable label trajectory"),
    ],
)
def test_damaged_labels_are_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    label_run(tmp_path / "run", [4, 1, 2], [FIRST])
    path = tmp_path / "run" / "labels" / "layout.json"
    write_json(path, read_json(path) | change)
    seal(tmp_path / "run")
    with pytest.raises(UserError, match=message):
        open_trajectory(tmp_path / "run" / "labels")
