from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import pytest

from repro.data import __main__ as command
from repro.data import download
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


def test_published_files_are_read(tmp_path: Path) -> None:
    put(tmp_path, one=b"first", two=b"second")
    assert FILES.read(tmp_path) == {"folder/one": b"first", "folder/two": b"second"}


def test_a_missing_file_is_named_with_its_md5_and_the_way_to_get_it(tmp_path: Path) -> None:
    put(tmp_path, one=b"first")
    with pytest.raises(UserError) as caught:
        FILES.read(tmp_path)
    message = str(caught.value)
    assert f"{tmp_path}/folder/two  (md5 {FILES.md5['folder/two']})" in message
    assert "folder/one" not in message
    assert f"python -m repro.data download cifar100 --folder {tmp_path}" in message


def test_a_damaged_file_is_named_with_both_md5_and_the_way_out(tmp_path: Path) -> None:
    put(tmp_path, one=b"first", two=b"secon")
    with pytest.raises(UserError) as caught:
        FILES.read(tmp_path)
    message = str(caught.value)
    assert f"{tmp_path}/folder/two is damaged" in message
    assert f"its md5 is {hashlib.md5(b'secon').hexdigest()}, expected {FILES.md5['folder/two']}" in message
    assert f"python -m repro.data download cifar100 --folder {tmp_path}" in message


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
    download("cifar100", folder)
    assert len(FILES.read(folder)) == 2
    download("cifar100", folder)
    assert fake.calls == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [f"cifar100: complete and as published, below {folder}"] * 2
    assert captured.err == "", "a progress bar in a log file"


def test_download_replaces_a_damaged_file(fake: type[FakeSource], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, one=b"first", two=b"damaged")

    def only_what_is_missing(folder: Path) -> None:
        assert not (folder / "folder" / "two").exists()
        assert (folder / "folder" / "one").exists()
        put(folder, two=b"second")

    monkeypatch.setattr(fake, "answer", staticmethod(only_what_is_missing))
    download("cifar100", tmp_path)
    assert len(FILES.read(tmp_path)) == 2


@pytest.mark.parametrize("error", [OSError("no network"), RuntimeError("no network"), EOFError("no network")])
def test_a_failed_download_is_explained(fake: type[FakeSource], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(folder: Path) -> None:
        raise error

    monkeypatch.setattr(fake, "answer", staticmethod(fail))
    with pytest.raises(UserError, match=r"cifar100: the download from the address failed \(no network\)") as caught:
        download("cifar100", tmp_path)
    assert f"{tmp_path}/folder/two  (md5 {FILES.md5['folder/two']})" in str(caught.value)


def test_a_download_of_something_else_is_not_taken_for_the_dataset(
    fake: type[FakeSource], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake, "answer", staticmethod(lambda folder: put(folder, one=b"first", two=b"a login page")))
    with pytest.raises(UserError, match="two is damaged"):
        download("cifar100", tmp_path)


def test_the_command(fake: type[FakeSource], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["download", "cifar100", "--folder", str(tmp_path)]) == 0
    assert command.main(["download", "digits"]) == 0
    assert "nothing to download" in capsys.readouterr().out
    assert command.main(["download", "cifar"]) == EXIT_USER_ERROR
    assert "Did you mean 'cifar10'?" in capsys.readouterr().err
