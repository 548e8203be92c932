"""Every file that is read again is compared with what the run wrote."""

from pathlib import Path

import pytest
from sealed import seal

from repro.runs.manifest import CorruptedError, check, read_bytes, read_json, verify

CONTENT = b'{"test/accuracy": 0.5}'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "labels").mkdir()
    (tmp_path / "final.json").write_bytes(CONTENT)
    (tmp_path / "labels" / "instances.f16").write_bytes(b"abcdef")
    seal(tmp_path)
    return tmp_path


def test_what_is_whole_is_read(folder: Path) -> None:
    assert read_json(folder, "final.json") == {"test/accuracy": 0.5}
    assert read_bytes(folder, "labels/instances.f16") == b"abcdef"
    assert verify(folder) == []


@pytest.mark.parametrize("content", [b"", b"abcdeg", b"abcd", b"abcdefg", None])
def test_what_has_changed_is_named(folder: Path, content: bytes | None) -> None:
    path = folder / "labels" / "instances.f16"
    path.unlink() if content is None else path.write_bytes(content)
    problem = "No such file or directory" if content is None else "its content has changed"
    for read in (check, read_bytes):
        with pytest.raises(CorruptedError, match=f"{path} is not what the run wrote .{problem}"):
            read(folder, "labels/instances.f16")
    assert verify(folder) == [f"labels/instances.f16: {problem}"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"files": 3}', "[" * 100_000, None])
def test_a_manifest_that_cannot_be_read_is_named(folder: Path, text: str | None) -> None:
    path = folder / "manifest.json"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(CorruptedError, match=r"manifest\.json is not what the run wrote \(it cannot be read"):
        read_bytes(folder, "final.json")
    assert "manifest.json" in verify(folder)[0]


def test_a_file_that_it_does_not_list_is_not_read(folder: Path) -> None:
    (folder / "cost.json").write_text("{}")
    with pytest.raises(CorruptedError, match=r"cost\.json"):
        read_json(folder, "cost.json")
