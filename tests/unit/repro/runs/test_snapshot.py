from __future__ import annotations

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import repro.snapshot
from repro.errors import UserError
from repro.files import read_json
from repro.snapshot import PACKAGES, take_snapshot


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small checkout with one file in each package."""
    root = tmp_path / "checkout"
    for package in PACKAGES:
        (root / package).mkdir(parents=True)
        (root / package / "module.py").write_text(f"name = {package!r}\n")
    monkeypatch.setattr(repro.snapshot, "_ROOT", root)
    return root


def test_what_is_edited_is_another_copy_and_the_first_stays(checkout: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    first = take_snapshot(runs)
    (checkout / "repro" / ".module.py.swp").write_text("an editor's")
    assert take_snapshot(runs) == first
    (checkout / "repro" / "module.py").write_text("name = 'edited'\n")
    second = take_snapshot(runs)
    assert (first / "repro" / "module.py").read_text() == "name = 'repro'\n"
    assert (second / "repro" / "module.py").read_text() == "name = 'edited'\n"
    assert sorted(path.name for path in (runs / "code").iterdir()) == sorted([first.name, second.name])


def test_code_that_is_edited_while_it_is_copied_is_not_kept(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = shutil.copy

    def edit(source: Path, target: Path) -> None:
        copy(source, target)
        target.write_text("name = 'half'\n")

    monkeypatch.setattr(shutil, "copy", edit)
    with pytest.raises(UserError, match="edited while it was copied"):
        take_snapshot(tmp_path)
    assert not list((tmp_path / "code").iterdir())


def test_compiled_files_in_a_copy_are_no_change_and_edits_are(checkout: Path, tmp_path: Path) -> None:
    folder = take_snapshot(tmp_path)
    (folder / "repro" / "__pycache__").mkdir()
    (folder / "repro" / "__pycache__" / "module.pyc").write_bytes(b"x")
    assert take_snapshot(tmp_path) == folder
    (folder / "repro" / "module.py").write_text("name = 'meddled'\n")
    with pytest.raises(UserError, match="were changed"):
        take_snapshot(tmp_path)


def test_many_at_once_make_one_copy(checkout: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: take_snapshot(tmp_path), range(8)))) == 1
    assert len(list((tmp_path / "code").iterdir())) == 1


def test_a_run_says_which_copy_it_ran(tmp_path: Path) -> None:
    folder = take_snapshot(tmp_path)
    code = "import json; from repro.runs.provenance import git_state; print(json.dumps(git_state()))"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env={"PYTHONPATH": str(folder)}, capture_output=True, text=True, check=True
    )
    said = read_json(folder / "snapshot.json")
    assert f'"snapshot": "{said["sha256"]}"' in result.stdout
    assert said["git"]["sha"] is None or str(said["git"]["sha"]) in result.stdout
    assert said["sha256"].startswith(folder.name)


def test_a_file_that_git_does_not_track_is_part_of_the_code_that_a_copy_names(checkout: Path, tmp_path: Path) -> None:
    before = read_json(take_snapshot(tmp_path) / "snapshot.json")
    (checkout / "sweeps" / "never_imported.py").write_text("x = 1\n")
    after = read_json(take_snapshot(tmp_path) / "snapshot.json")
    assert before["git"]["dirty_sha256"] != after["git"]["dirty_sha256"]


def test_a_cluster_file_is_no_part_of_the_code(checkout: Path, tmp_path: Path) -> None:
    folder = take_snapshot(tmp_path)
    (checkout / "slurm" / "clusters").mkdir()
    (checkout / "slurm" / "clusters" / "mine.yaml").write_text("kind: slurm\n")
    assert take_snapshot(tmp_path) == folder
    assert not (folder / "slurm" / "clusters").exists()
