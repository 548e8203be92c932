"""One box for all tests of a file, and a folder of runs in it for each test."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from box import Box, missing
from lab import Lab


@pytest.fixture(scope="module")
def make_box() -> Iterator[Callable[..., Box]]:
    """Return a function that starts a box; they stop at the end of the file's tests."""
    boxes: list[Box] = []

    def start(*, accounting: bool = False, **settings: str) -> Box:
        if (reason := missing(accounting=accounting)) is not None:
            pytest.skip(reason)
        # The paths of sockets have a limit.
        box = Box(Path(tempfile.mkdtemp(prefix="box-", dir="/tmp")), accounting=accounting, settings=settings)
        boxes.append(box)
        box.start()
        return box

    yield start
    for box in boxes:
        box.stop()
        shutil.rmtree(box.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def box(make_box: Callable[..., Box]) -> Box:
    """Return the box of this file."""
    return make_box()


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Callable[..., Lab]]:
    """Return a function that makes a lab in the file's box, or in another one."""
    used: list[Box] = []
    # pytest's own folders are closed to others, and jobs of another user would not find their logs.
    tmp_path.chmod(0o755)

    def make(spec: str, box: Box | None = None, **cluster: str) -> Lab:
        there = box or request.getfixturevalue("box")
        used.append(there)
        monkeypatch.setenv("SLURM_CONF", str(there.config))
        monkeypatch.setenv("PATH", os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"]))
        return Lab(there, tmp_path, spec, **cluster)

    yield make
    for there in used:
        there.empty()
