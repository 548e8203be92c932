"""What changes the hash of the code that makes numbers, and what becomes of runs that another version has made."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import filelock
import pytest

from repro.config import registry
from repro.errors import UserError
from repro.files import read_json, write_json
from repro.runs import code
from repro.runs.code import ARCHIVE, code_hash, differs, settle

PLAIN = 'RATE = 0.1\n\n\ndef step(x):\n    """Take a step."""\n    return x * RATE\n'


def hash_of(text: str, folder: Path, name: str = "engine/step.py") -> str:
    """Return the hash of a suite that has this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(code, "_ROOT", folder)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
        code._hash.cache_clear()
        try:
            return code._hash(frozenset())
        finally:
            code._hash.cache_clear()


@pytest.mark.parametrize(
    "text",
    [
        "# A comment.\n" + PLAIN,
        PLAIN.replace('    """Take a step."""\n', ""),
        '"""A module."""\n' + PLAIN.replace("Take a step.", "Take another step."),
        PLAIN.replace("x * RATE", "(\n        x\n        * RATE  # scaled\n    )").replace("0.1", "1e-1"),
    ],
)
def test_what_cannot_change_a_number_leaves_the_hash(tmp_path: Path, text: str) -> None:
    assert hash_of(text, tmp_path / "here") == hash_of(PLAIN, tmp_path / "elsewhere")


@pytest.mark.parametrize(
    "text",
    [
        PLAIN.replace("0.1", "0.2"),
        PLAIN.replace("x * RATE", "x + RATE"),
        PLAIN.replace('    """Take a step."""\n', '    x = """Take a step."""\n'),
        PLAIN.replace("def step(x)", "def step(x=1)"),
    ],
)
def test_what_can_change_a_number_changes_the_hash(tmp_path: Path, text: str) -> None:
    assert hash_of(text, tmp_path) != hash_of(PLAIN, tmp_path)


#: What versions of Python write into their trees in different ways.
SYNTAX = r"""
@decorated(lambda x, /, *y, z=1, **rest: (x, *y))
class Shape(Base, key="value"):
    sides: list[int] = [*range(3), -1, 1e-3, 2j, b"\x00", ...]

    async def area(self, width: float = 1.0, *, unit="cm") -> str:
        match self.sides:
            case [0, *_] | {"a": 1} if (n := len(self.sides)) > 2:
                return f"{width!r:>{n}.2f}{unit=}" "a" f"{{}}{'b'}" + f""
        try:
            async with self as one, two:
                yield
        except* (ValueError, OSError) as error:
            raise SystemExit from error
"""


def test_every_python_computes_the_same_hash(tmp_path: Path) -> None:
    assert hash_of(SYNTAX, tmp_path) == "sha256:9f048ee3b5a48c3b9c396e5dc40ce464b491103c9fae68b7afad880e04f8da30"


def test_equal_constants_of_different_kinds_differ(tmp_path: Path) -> None:
    constants = ("1", "1.0", "True", "'1'", "b'1'", "None", "-1", "...")
    assert len({hash_of(f"x = {value}", tmp_path) for value in constants}) == len(constants)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("randomness.py", True),
        ("methods/fixed/mine.py", True),
        ("tracker/mirror.py", False),
        ("runs/folder.py", False),
        ("doctor.py", False),
    ],
)
def test_which_files_count(tmp_path: Path, name: str, counts: bool) -> None:
    assert (hash_of("x = 1", tmp_path, name) != hash_of("x = 2", tmp_path, name)) == counts


def test_a_file_that_is_not_python_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"step\.py:2: this is not valid Python"):
        hash_of("x = 1\nx = \n", tmp_path)


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The hash with a method in a file of the user's."""
    (tmp_path / "my_method.py").write_text(
        "from repro.config import registry\nfrom repro.methods.fixed.one_hot import OneHot, OneHotConfig\n\n"
        "@registry.method('mine', config=OneHotConfig)\nclass Mine(OneHot):\n    factor = 1.0\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module("my_method")
    yield code_hash()
    del registry._choices["method"]["mine"]
    sys.modules.pop("my_method")


def test_a_file_that_the_user_registers_counts_wherever_it_lies(outside: str, tmp_path: Path) -> None:
    path = tmp_path / "my_method.py"
    moved = tmp_path / "elsewhere" / path.name
    moved.parent.mkdir()
    moved.write_text(path.read_text() + "# a comment\n")
    assert code._hash(frozenset([moved])) == outside != code._hash(frozenset())
    code._hash.cache_clear()
    path.write_text(path.read_text().replace("1.0", "2.0"))
    assert code_hash() != outside


def test_what_is_imported_and_not_registered_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = code_hash()
    (tmp_path / "a_package").mkdir()
    (tmp_path / "a_package" / "__init__.py").write_text("this = 1")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module("a_package")
    code._hash.cache_clear()
    assert code_hash() == before
    del sys.modules["a_package"]


def made(folder: Path, stored: str | None, state: str = "preempted") -> Path:
    folder.mkdir(parents=True)
    write_json(folder / "provenance.json", {"git": {"sha": "0123abc"}} | ({} if stored is None else {"code": stored}))
    write_json(folder / "status.json", {"state": state})
    (folder / "checkpoint.pt").touch()
    return folder


def test_a_different_version_is_refused_accepted_or_retrained(tmp_path: Path) -> None:
    for number in (1, 2):
        folder = made(tmp_path / "run", "sha256:other")
        assert differs(folder)
        with pytest.raises(UserError, match=r"different version of the code \(commit 0123abc\).*=retrain.*archive.*=accept"):
            settle(folder, "refuse")
        settle(folder, "accept")
        assert folder.is_dir()
        with filelock.FileLock(folder / ".lock"), pytest.raises(UserError, match="another process is training this run"):
            settle(folder, "retrain")
        settle(folder, "retrain")
        assert not folder.exists()
        assert read_json(tmp_path / ARCHIVE / f"run.{number}" / "provenance.json")["code"] == "sha256:other"


@pytest.mark.parametrize("stored", [code_hash(), "0" * 64, None])
def test_the_same_version_and_what_is_not_known_are_taken_as_they_are(tmp_path: Path, stored: str | None) -> None:
    folder = made(tmp_path / "run", stored)
    assert not differs(folder)
    settle(folder, "retrain")
    assert folder.is_dir()


def test_a_folder_with_nothing_that_could_be_used_differs_in_nothing(tmp_path: Path) -> None:
    folder = made(tmp_path / "run", "sha256:other", state="failed")
    (folder / "checkpoint.pt").unlink()
    assert not differs(folder)
