"""The files of datasets: read as published, downloaded, and copied to a node's disk. Real digits stand for a dataset with files."""

import contextlib
import gzip
import hashlib
import logging
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import repro.data.staging
from repro.data.staging import staged

import repro.data.sources.digits
import repro.training.run
from repro.config.compose import compose
from repro.config.schema import Config
from repro.data.__main__ import main
from repro.data.published_files import PublishedFiles
from repro.data.sources import cifar100
from repro.errors import EXIT_USER_ERROR, UserError
from repro.files import write_bytes
from repro.training.run import execute

FILES = PublishedFiles(
    dataset="cifar100",
    torchvision_class="CIFAR100",
    md5={"folder/one": hashlib.md5(b"first").hexdigest(), "folder/two": hashlib.md5(b"second").hexdigest()},
)


def put(folder: Path, **content: bytes) -> None:
    (folder / "folder").mkdir(exist_ok=True)
    for name, value in content.items():
        (folder / "folder" / name).write_bytes(value)


def test_published_files_are_read_and_others_named_with_the_way_to_get_them(tmp_path: Path) -> None:
    command = re.escape(f"python -m repro.data download cifar100 --folder {tmp_path}")
    put(tmp_path, one=b"first")
    missing = rf"not there:\n  {tmp_path}/folder/two  \(md5 {FILES.md5['folder/two']}\)\n.*{command}"
    with pytest.raises(UserError, match=missing):
        FILES.read(tmp_path)
    put(tmp_path, two=b"secon")
    wrong = hashlib.md5(b"secon").hexdigest()
    with pytest.raises(UserError, match=rf"folder/two is damaged .*md5 is {wrong}, expected {FILES.md5['folder/two']}.*{command}"):
        FILES.read(tmp_path)
    put(tmp_path, two=b"second")
    assert FILES.read(tmp_path) == {"folder/one": b"first", "folder/two": b"second"}


def test_gzipped_files_are_read_too(tmp_path: Path) -> None:
    put(tmp_path, one=b"first")
    (tmp_path / "folder" / "two.gz").write_bytes(gzip.compress(b"second"))
    assert FILES.read(tmp_path) == {"folder/one": b"first", "folder/two": b"second"}
    (tmp_path / "folder" / "two.gz").write_bytes(gzip.compress(b"secon"))
    with pytest.raises(UserError, match=r"folder/two\.gz is damaged"):
        FILES.read(tmp_path)
    for cut in (gzip.compress(b"second")[:-9], b"no gzip"):
        (tmp_path / "folder" / "two.gz").write_bytes(cut)
        with pytest.raises(UserError, match=r"folder/two\.gz cannot be read"):
            FILES.read(tmp_path)


class FakeSource:
    """Stands in for a torchvision dataset; ``answer`` is what a download does."""

    url = "the address"
    calls = 0
    answer: Any = None

    def __init__(self, root: str, *, download: bool) -> None:
        assert download
        FakeSource.calls += 1
        print("a progress bar", file=sys.stderr)
        FakeSource.answer(Path(root))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeSource]:
    from torchvision import datasets

    monkeypatch.setattr(datasets, "CIFAR100", FakeSource)
    monkeypatch.setattr(cifar100, "FILES", FILES)
    monkeypatch.setattr(FakeSource, "calls", 0)
    monkeypatch.setattr(FakeSource, "answer", staticmethod(lambda folder: put(folder, one=b"first", two=b"second")))
    return FakeSource


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, one=b"first", two=b"second")

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    # Taking the right away does not stop root, who runs the tests in a container.
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(UserError, match=r"folder/one cannot be read \(Permission denied\)"):
        FILES.read(tmp_path)


def test_download_gets_what_is_missing_once(fake: type[FakeSource], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "new"
    for _ in range(2):
        assert main(["download", "cifar100", "--folder", str(folder)]) == 0
        assert len(FILES.read(folder)) == 2
    assert fake.calls == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [f"cifar100: complete and as published, below {folder}"] * 2
    assert captured.err == "", "a progress bar in a log file"


@pytest.mark.parametrize("came", [b"second", b"a login page"])
def test_download_replaces_a_damaged_file_and_checks_what_came(
    fake: type[FakeSource], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, came: bytes
) -> None:
    put(tmp_path, one=b"first", two=b"damaged")

    def only_what_is_missing(folder: Path) -> None:
        assert [path.name for path in (folder / "folder").iterdir()] == ["one"]
        put(folder, two=came)

    monkeypatch.setattr(fake, "answer", staticmethod(only_what_is_missing))
    with contextlib.nullcontext() if came == b"second" else pytest.raises(UserError, match="two is damaged"):
        FILES.download(tmp_path)
    assert (tmp_path / "folder" / "two").read_bytes() == came


@pytest.mark.parametrize("error", [OSError("no network"), RuntimeError("no network"), EOFError("no network")])
def test_a_failed_download_is_explained(fake: type[FakeSource], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(folder: Path) -> None:
        raise error

    monkeypatch.setattr(fake, "answer", staticmethod(fail))
    with pytest.raises(UserError, match=r"cifar100: the download from the address failed \(no network\)") as caught:
        FILES.download(tmp_path)
    assert f"{tmp_path}/folder/two  (md5 {FILES.md5['folder/two']})" in str(caught.value)


def test_the_command_says_what_there_is_to_download(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["download", "digits"]) == 0
    assert "nothing to download" in capsys.readouterr().out
    assert main(["download", "cifar"]) == EXIT_USER_ERROR
    assert "Did you mean 'cifar10'?" in capsys.readouterr().err


CONTENTS = {"one": b"1" * 1000, "below/two": b"2" * 2000}


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in CONTENTS.items()}
    monkeypatch.setattr(repro.data.sources.digits, "FILES", PublishedFiles("digits", "None", md5), raising=False)


@pytest.fixture
def config(tmp_path: Path, published: None) -> Config:
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
