"""What a run costs, attempt by attempt."""

from __future__ import annotations

from pathlib import Path

import pytest

from repro.files import read_json
from repro.runs.folder import GPU_SHARE, RunFolder


def attempt(folder: Path, *, wall_s: float, on_gpu: bool) -> None:
    with RunFolder(folder).hold(heartbeat_s=1000, epochs=1) as held:
        held.add_cost(wall_s=wall_s, on_gpu=on_gpu, peak_gib=1.0)


def test_runs_that_share_a_gpu_pay_for_it_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(GPU_SHARE, "3")
    attempt(tmp_path, wall_s=3600.0, on_gpu=True)
    monkeypatch.delenv(GPU_SHARE)
    attempt(tmp_path, wall_s=7200.0, on_gpu=True)
    monkeypatch.setenv(GPU_SHARE, "2")
    attempt(tmp_path, wall_s=3600.0, on_gpu=False)
    assert read_json(tmp_path / "cost.json") == {"wall_s": 14400.0, "gpu_hours": 1 / 3 + 2.0, "peak_gib": 1.0, "attempts": 3}


@pytest.mark.parametrize("given", ["0", "", "-2", "two", "1.5", "²"])
def test_what_is_no_number_of_runs_is_said(
    tmp_path: Path, given: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(GPU_SHARE, given)
    attempt(tmp_path, wall_s=3600.0, on_gpu=True)
    assert read_json(tmp_path / "cost.json")["gpu_hours"] == 1.0
    assert f"REPRO_GPU_SHARE={given} is no number of runs" in caplog.text
