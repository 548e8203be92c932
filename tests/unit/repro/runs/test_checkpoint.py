"""A checkpoint that is not what the run wrote is named, and the one before it is used."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from repro.runs import checkpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("run", "other"):
        (tmp_path / name).mkdir()
        for epoch in (1, 2):
            checkpoint.save(tmp_path / name, {"epoch": epoch, "weights": torch.ones(3)})
    return tmp_path / "run"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "flipped bit": flip,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
    "of another run": lambda path: path.write_bytes((path.parents[1] / "other" / path.name).read_bytes()),
    "of older code": lambda path: torch.save({"schema": 3}, path),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_previous_one_is_used_and_then_none(folder: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    assert checkpoint.load(folder)["epoch"] == 2
    for name, epoch in zip(checkpoint.NAMES, (1, None), strict=True):
        DAMAGES[damage](folder / name)
        state = checkpoint.load(folder)
        assert (state and state["epoch"]) == epoch
        assert f"{folder / name} is not used" in caplog.text
    assert "no checkpoint is left that could be used" in caplog.text
    checkpoint.remove(folder)
    assert checkpoint.load(folder) is None
    assert not list(folder.iterdir())
