"""The files of datasets: read as published, and downloaded."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from torchvision import datasets

from repro.data.__main__ import main
from repro.data.noises import human
from repro.data.published_files import PublishedFiles
from repro.data.sources import cifar100
from repro.errors import EXIT_USER_ERROR, UserError

FILES = PublishedFiles(
    dataset="cifar100",
    torchvision_class="CIFAR100",
    md5={"folder/one": hashlib.md5(b"first").hexdigest(), "folder/two": hashlib.md5(b"second").hexdigest()},
)


def put(folder: Path, **content: bytes) -> None:
    (folder / "folder").mkdir(parents=True, exist_ok=True)
    for name, value in content.items():
        (folder / "folder" / name).write_bytes(value)


@pytest.mark.parametrize(("content", "problem"), [({}, "No such file"), ({"two": b"secon"}, "its content differs")])
def test_a_file_that_is_not_the_published_one_is_named_with_the_way_to_get_it(
    tmp_path: Path, content: dict[str, bytes], problem: str
) -> None:
    put(tmp_path, one=b"first", **content)
    with pytest.raises(UserError, match=problem) as caught:
        FILES.read(tmp_path)
    assert str(tmp_path / "folder/two") in str(caught.value)
    assert f"python -m repro.data download cifar100 --folder {tmp_path}" in str(caught.value)
    put(tmp_path, two=b"second")
    assert FILES.read(tmp_path) == {"folder/one": b"first", "folder/two": b"second"}


class FakeSource:
    """Stands in for a torchvision dataset; ``answer`` is what a download puts in place of the second file."""

    url, calls, answer = "the address", 0, b"second"

    def __init__(self, root: str, *, download: bool) -> None:
        assert download
        # What was wrong is gone, since some classes look at names only.
        assert not (Path(root) / "folder" / "two").exists()
        FakeSource.calls += 1
        if self.answer == b"":
            raise OSError("no network")
        put(Path(root), one=b"first", two=self.answer)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(datasets, "CIFAR100", FakeSource)
    monkeypatch.setattr(cifar100, "FILES", FILES)
    monkeypatch.setattr(FakeSource, "calls", 0)
    return FakeSource


def test_download_gets_what_is_missing_or_corrupted_once(fake: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path, one=b"first", two=b"a part")
    for _ in range(2):
        assert main(["download", "digits", "cifar100", "--to", str(tmp_path)]) == 0
        assert len(FILES.read(tmp_path)) == 2
    assert fake.calls == 1
    lines = ["digits: is part of an installed package; there is nothing to download."]
    lines += [f"cifar100: complete and as published, below {tmp_path}"]
    lines += [f"cifar100: noise=human needs a file that is not downloaded. {human.FILES['cifar100'].get}"]
    assert capsys.readouterr().out.splitlines() == 2 * lines


@pytest.mark.parametrize(("answer", "words"), [(b"a login page", "its content differs"), (b"", r"the address failed \(no network\)")])
def test_a_failed_download_is_explained(
    fake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fake, "answer", answer)
    with pytest.raises(UserError, match=words):
        FILES.download(tmp_path)
    assert main(["download", "cifar"]) == EXIT_USER_ERROR
    assert "Did you mean 'cifar10'?" in capsys.readouterr().err
