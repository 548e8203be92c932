"""The golden tests on CUDA: on a GPU they pass; on a driver that computes nothing their own code at least runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.common.null_cuda import loaded

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("file", ["test_execution.py", "test_lookahead.py"])
def test_golden_tests(file: str, tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    # Without pytest's explanations, which would print tensors of numbers that mean nothing.
    options = ["-q", "-n", "0", "-p", "no:cacheprovider", "-m", "not slow", "--assert=plain", "--tb=line", f"--junitxml={report}"]
    command = [sys.executable, "-m", "pytest", *options, str(GOLDEN / file)]
    ended = subprocess.run(command, env={**os.environ, "REPRO_TEST_DEVICE": "cuda"}, capture_output=True, text=True, check=False)
    if not loaded():
        assert ended.returncode == 0, ended.stdout
        return
    failures = [str(failure.get("message")) for failure in ElementTree.parse(report).iter("failure")]
    assert failures, "a driver that computes nothing cannot give the golden numbers"
    # Numbers that mean nothing are also no transition matrix.
    assert [message for message in failures if not message.startswith("AssertionError") and "condition number" not in message] == []
    assert not list(ElementTree.parse(report).iter("error"))
