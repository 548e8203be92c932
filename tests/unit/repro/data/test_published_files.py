from __future__ import annotations

import contextlib
import gzip
import hashlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from repro.data import __main__ as command
from repro.data.published_files import PublishedFiles
from repro.data.sources import cifar100
from repro.errors import EXIT_USER_ERROR, UserError

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
        assert command.main(["download", "cifar100", "--folder", str(folder)]) == 0
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
    assert command.main(["download", "digits"]) == 0
    assert "nothing to download" in capsys.readouterr().out
    assert command.main(["download", "cifar"]) == EXIT_USER_ERROR
    assert "Did you mean 'cifar10'?" in capsys.readouterr().err
