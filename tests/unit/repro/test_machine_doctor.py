"""What the doctor says of a machine on which something is wrong."""

import pytest
import torch

from repro import doctor
from repro.errors import UserError

CPU = torch.device("cpu")
TINY = doctor.Sizes(("model=resnet18", "model.width=2"), batch=4, meta_batch=8, steps=1)


def test_the_first_step_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    text = doctor.check_execution(CPU, TINY)
    assert "exec=auto 0.0e+00, exec=fast " in text
    assert "exec=fast 0.0e+00" not in text
    monkeypatch.setattr(doctor, "executions", lambda device: {"float32": [], "auto": ["optim.learning_rate=1"], "fast": []})
    with pytest.raises(UserError, match=r"Use exec=audit\."):
        doctor.check_execution(CPU, TINY)


def test_what_it_prints(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "check_execution", lambda device, sizes: "as it should")
    assert doctor.main(["--device", "cpu"]) == 0

    def breaks(device: torch.device, sizes: doctor.Sizes) -> str:
        raise RuntimeError("CUDA error: an illegal instruction\nmore")

    monkeypatch.setattr(doctor, "check_execution", breaks)
    assert doctor.main(["--device", "cpu"]) == 1
    machine, *lines = capsys.readouterr().out.splitlines()
    assert f"torch {torch.__version__.partition('+')[0]}" in machine
    assert lines == ["ok   as it should", machine, "BAD  CUDA error: an illegal instruction"]
