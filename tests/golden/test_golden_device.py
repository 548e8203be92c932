"""Asking for the golden tests on a GPU that is not there is an error, not a pass."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_device_that_is_not_there_is_an_error() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/golden/test_traces.py"],
        cwd=ROOT,
        env={**os.environ, "REPRO_TEST_DEVICE": "cuda"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert found.returncode == 4
    assert "REPRO_TEST_DEVICE=cuda, but PyTorch finds no CUDA GPU here." in found.stderr + found.stdout
