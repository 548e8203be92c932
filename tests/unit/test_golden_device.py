"""Asking for the golden tests on a GPU that is not there is an error, not a pass."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("tpu", "REPRO_TEST_DEVICE=tpu: must be cpu or cuda."),
        pytest.param(
            "cuda",
            "REPRO_TEST_DEVICE=cuda, but PyTorch finds no CUDA GPU here.",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here"),
        ),
    ],
)
def test_a_device_that_is_not_there_is_an_error(device: str, message: str) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/golden"],
        cwd=ROOT,
        env={**os.environ, "REPRO_TEST_DEVICE": device},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert found.returncode == 4
    assert message in found.stderr + found.stdout
