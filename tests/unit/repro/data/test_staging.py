"""Copies of a dataset's files on a disk of the node. Real digits stand for a dataset with files."""

from __future__ import annotations

import hashlib
import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import repro.data.sources.digits
import repro.data.staging
import repro.training.run
from repro.config.compose import compose
from repro.config.schema import Config
from repro.data.__main__ import main
from repro.data.published_files import PublishedFiles
from repro.data.staging import staged
from repro.files import write_bytes
from repro.training.run import execute

CONTENTS = {"one": b"1" * 1000, "below/two": b"2" * 2000}


@pytest.fixture(autouse=True)
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in CONTENTS.items()}
    monkeypatch.setattr(repro.data.sources.digits, "FILES", PublishedFiles("digits", "None", md5), raising=False)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A run on files that lie in ``shared``, and a node whose disk is ``local``."""
    for name, content in CONTENTS.items():
        (tmp_path / "shared" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "shared" / name).write_bytes(content)
    paths = [f"paths.{name}={tmp_path / folder}" for name, folder in (("runs", "runs"), ("data", "shared"), ("scratch", "local"))]
    return compose(["method=one_hot", "dataset=digits", "seed=0", "optim.epochs=1", "model.width=4", "tracker=none", *paths])


def copies(tmp_path: Path) -> dict[str, bytes]:
    local = tmp_path / "local"
    return {path.relative_to(local).as_posix(): path.read_bytes() for path in local.rglob("[!.]*") if path.is_file()}


def test_a_run_reads_copies_on_the_nodes_disk(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    prepare = repro.training.run.prepare

    def note(config: Config, *more: Any) -> Any:
        read.append(config.paths.data)
        return prepare(config, *more)

    monkeypatch.setattr(repro.training.run, "prepare", note)
    folder = execute(config)
    assert read == [str(tmp_path / "local")]
    assert copies(tmp_path) == CONTENTS
    # The copy is of this node; the run is to be found again from any other.
    assert f"data: {tmp_path / 'shared'}\n" in (folder / "config.yaml").read_text()


def test_the_variable_names_the_disk_too(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ["method=one_hot", "dataset=digits", "seed=0", f"paths.data={tmp_path / 'shared'}"]
    assert compose(settings).paths.scratch is None
    monkeypatch.setenv("REPRO_SCRATCH", str(tmp_path / "local"))
    assert staged(compose(settings)).paths.data == str(tmp_path / "local")


def test_good_copies_stay_and_others_are_made_again(config: Config, tmp_path: Path) -> None:
    staged(config)
    kept, damaged = (tmp_path / "local" / name for name in CONTENTS)
    before = kept.stat().st_ino
    damaged.write_bytes(b"3" * 2000)
    staged(config)
    assert copies(tmp_path) == CONTENTS
    assert kept.stat().st_ino == before


def test_whole_copies_do_without_the_originals(config: Config, tmp_path: Path) -> None:
    staged(config)
    (tmp_path / "shared" / "one").unlink()
    assert staged(config).paths.data == str(tmp_path / "local")


@pytest.mark.parametrize("why", ["missing", "damaged", "no disk", "held"])
def test_where_copies_cannot_be_made_the_files_are_read_where_they_are(
    config: Config, tmp_path: Path, why: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if why == "missing":
        (tmp_path / "shared" / "one").unlink()
    elif why == "damaged":
        (tmp_path / "shared" / "one").write_bytes(b"x")
    elif why == "no disk":
        (tmp_path / "local").write_text("a file")
    else:
        monkeypatch.setattr(repro.data.staging, "WAIT_S", 0.0)
        (tmp_path / "local").mkdir()
        holder = repro.data.staging.hold(tmp_path / "local" / ".digits.lock")
        holder.__enter__()
    with caplog.at_level(logging.WARNING):
        assert staged(config) == config
    assert f"paths.scratch={tmp_path / 'local'} is not used, the dataset is read from {tmp_path / 'shared'}: " in caplog.text
    assert not any(path.name == "one" for path in (tmp_path / "local").rglob("*"))
    if why == "held":
        holder.__exit__(None, None, None)


def test_of_many_at_once_one_copies(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []

    def note(path: Path, content: bytes) -> None:
        written.append(path.name)
        write_bytes(path, content)

    monkeypatch.setattr(repro.data.staging, "write_bytes", note)
    with ThreadPoolExecutor(8) as pool:
        assert {found.paths.data for found in pool.map(staged, [config] * 8)} == {str(tmp_path / "local")}
    assert sorted(written) == ["one", "two"]


KILLED = """
import os, signal, sys, tempfile
from pathlib import Path
from repro.files import write_atomically
def half(file):
    file.write(b"half"); file.flush(); os.kill(os.getpid(), signal.SIGKILL)
write_atomically(Path(sys.argv[1]), half)
"""


def test_what_a_killed_copy_left_goes(config: Config, tmp_path: Path) -> None:
    (tmp_path / "local").mkdir()
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "local" / "one")], check=False)
    (left,) = (tmp_path / "local").iterdir()
    assert left.read_bytes() == b"half"
    staged(config)
    assert not left.exists()
    assert copies(tmp_path) == CONTENTS


def test_several_datasets_are_downloaded_by_one_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], config: Config) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PublishedFiles, "download", lambda files, folder: print(f"{files.dataset} to {folder}"))
        assert main(["download", "digits", "cifar100", "--to", str(tmp_path)]) == 0
    assert f"digits to {tmp_path}\n" in capsys.readouterr().out
    assert main(["download", "digits", "cifar1000", "--to", str(tmp_path)]) == 2
    assert "cifar100" in capsys.readouterr().err
