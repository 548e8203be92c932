from __future__ import annotations

from pathlib import Path

import pytest

import slurm.snapshot
from repro.files import read_json
from slurm.snapshot import take_snapshot


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "checkout"
    for package in ("repro", "slurm/clusters"):
        (root / package).mkdir(parents=True)
    (root / "repro" / "module.py").write_text("x = 1\n")
    monkeypatch.setattr(slurm.snapshot, "_ROOT", root)
    return root


def test_what_is_edited_is_another_copy_and_the_first_stays(checkout: Path, tmp_path: Path) -> None:
    first = take_snapshot(tmp_path)
    assert read_json(first / "snapshot.json")["sha256"].startswith(first.name)
    # Neither is part of the code of a run.
    (checkout / "slurm" / "clusters" / "mine.yaml").write_text("partition: gpu\n")
    (checkout / "repro" / "__pycache__").mkdir()
    (checkout / "repro" / "__pycache__" / "module.pyc").write_bytes(b"x")
    assert take_snapshot(tmp_path) == first
    (checkout / "repro" / "module.py").write_text("x = 2\n")
    second = take_snapshot(tmp_path)
    assert [(folder / "repro" / "module.py").read_text() for folder in (first, second)] == ["x = 1\n", "x = 2\n"]
    assert sorted(path.name for path in (tmp_path / "code").iterdir()) == sorted([first.name, second.name])
