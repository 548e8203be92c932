"""Boxes for the tests of a file, and a folder of runs in it for each test."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from box import Box, missing
from lab import Lab

from slurm.jobs.queue import this_cluster


@pytest.fixture(scope="module")
def make_box() -> Iterator[Callable[..., Box]]:
    """Return a function that starts a box, one for all tests of a file with the same settings."""
    boxes: dict[str, Box] = {}

    def start(*, accounting: bool = False, **settings: str) -> Box:
        key = f"{accounting} {settings}"
        if key not in boxes:
            if (reason := missing(accounting=accounting)) is not None:
                pytest.skip(reason)
            # The paths of sockets have a limit.
            boxes[key] = Box(Path(tempfile.mkdtemp(prefix="box-", dir="/tmp")), accounting=accounting, settings=settings)
            boxes[key].start()
        return boxes[key]

    yield start
    for box in boxes.values():
        box.stop()
        shutil.rmtree(box.folder, ignore_errors=True)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_box: Callable[..., Box]) -> Iterator[Callable[..., Lab]]:
    """Return a function that makes a lab in a box, by default in one without settings."""
    used: list[Box] = []
    # pytest's own folders are closed to others, and jobs of another user would not find their logs.
    tmp_path.chmod(0o755)

    def make(spec: str, box: Box | None = None, **cluster: str) -> Lab:
        there = box or make_box()
        used.append(there)
        monkeypatch.setenv("SLURM_CONF", str(there.config))
        this_cluster.cache_clear()
        monkeypatch.setenv("PATH", os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"]))
        return Lab(there, tmp_path, spec, **cluster)

    yield make
    # The next test may have another SLURM, or none.
    this_cluster.cache_clear()
    for there in used:
        there.empty()
