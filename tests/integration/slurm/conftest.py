"""One box for all tests of a file, and a folder of runs in it for each test."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from box import PATH, Box, missing
from lab import Lab


@pytest.fixture(scope="module")
def make_box() -> Iterator[Callable[[str], Box]]:
    """Return a function that starts the box of a name, once."""
    if (reason := missing()) is not None:
        pytest.skip(reason)
    boxes: dict[str, Box] = {}

    def start(name: str) -> Box:
        if name not in boxes:
            # The paths of sockets have a limit.
            boxes[name] = Box(Path(tempfile.mkdtemp(prefix="box-", dir="/tmp")), name)
            boxes[name].start()
        return boxes[name]

    yield start
    for box in boxes.values():
        box.stop()
        shutil.rmtree(box.folder)


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch, make_box: Callable[[str], Box]) -> Iterator[Callable[..., Lab]]:
    """Return a function that makes a lab in the box ``box``, in a folder with an odd path, open to others as none of pytest is."""
    box, folder = make_box("box"), Path(tempfile.mkdtemp(prefix="läufe & co ", dir="/tmp"))
    folder.chmod(0o755)
    monkeypatch.setenv("SLURM_CONF", str(box.config))
    monkeypatch.setenv("PATH", PATH)
    yield lambda spec, **cluster: Lab(box, folder, spec, **cluster)
    box.empty()
    shutil.rmtree(folder)
