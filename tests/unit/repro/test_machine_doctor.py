"""What the doctor says of a machine on which something is wrong."""

import subprocess
from pathlib import Path

import pytest
import torch

from repro import doctor
from repro.errors import UserError

CPU = torch.device("cpu")
TINY = doctor.Sizes(("model=resnet18", "model.width=2"), batch=4, meta_batch=8, steps=1)


def test_the_gradient_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "SMALL", TINY)
    assert "torch.float64" in doctor.check_gradient(CPU, TINY)
    exact = doctor.coefficient_gradient
    monkeypatch.setattr(doctor, "coefficient_gradient", lambda *problem: (1.0 + 1e-8) * exact(*problem))
    with pytest.raises(UserError, match="differs from automatic differentiation by torch.float64 1.0e-08"):
        doctor.check_gradient(CPU, TINY)


def test_steps_are_measured() -> None:
    text = doctor.check_speed(CPU, TINY)
    assert "4 and 8 images" in text
    assert all(f"{name}, {method} " in text for name in ("float32", "auto", "fast") for method in ("one_hot", "instance_labels"))


def test_the_first_step_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    text = doctor.check_execution(CPU, TINY)
    assert "exec=auto 0.0e+00, exec=fast " in text
    assert "exec=fast 0.0e+00" not in text
    monkeypatch.setattr(doctor, "executions", lambda device: {"float32": [], "auto": ["optim.learning_rate=1"], "fast": []})
    with pytest.raises(UserError, match=r"Use exec=audit\."):
        doctor.check_execution(CPU, TINY)


@pytest.mark.slow
def test_a_resume_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "has the bytes of an undisturbed one" in doctor.check_resume(CPU, TINY)
    # The heartbeat differs.
    monkeypatch.setattr(doctor, "RESULTS", ("final.json", "status.json"))
    with pytest.raises(UserError, match="the bytes of status.json are others"):
        doctor.check_resume(CPU, TINY)


@pytest.mark.parametrize(
    ("resumed", "message"), [((2, b"{1}"), "a run failed: no memory"), ((0, b"{1}"), None), ((0, b"{2}"), "final.json")]
)
def test_what_a_resume_shows(resumed: tuple[int, bytes], message: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """With runs that write what they are told to."""

    class Killed:
        def __init__(self, command: list[str], **options: object) -> None:
            folder = Path(command[-1].partition("=")[2], "run")
            folder.mkdir(parents=True)
            (folder / "checkpoint.pt").touch()

        def poll(self) -> None:
            return None

        def kill(self) -> None:
            pass

        def wait(self) -> int:
            return -9

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        folder = Path(command[-1].partition("=")[2], "run")
        folder.mkdir(parents=True, exist_ok=True)
        code, content = resumed if "killed" in command[-1] else (0, b"{1}")
        (folder / "final.json").write_bytes(content)
        return subprocess.CompletedProcess(command, code, "", "no memory")

    monkeypatch.setattr(doctor, "RESULTS", ("final.json",))
    monkeypatch.setattr(doctor.subprocess, "Popen", Killed)
    monkeypatch.setattr(doctor.subprocess, "run", run)
    if message is None:
        assert "undisturbed" in doctor.check_resume(CPU, TINY)
    else:
        with pytest.raises(UserError, match=message):
            doctor.check_resume(CPU, TINY)


def test_it_stops_at_the_first_thing_that_is_wrong(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def check_well(device: torch.device, sizes: doctor.Sizes) -> str:
        return "as it should"

    def check_breaks(device: torch.device, sizes: doctor.Sizes) -> str:
        raise RuntimeError("CUDA error: an illegal instruction\nmore")

    monkeypatch.setattr(doctor, "CHECKS", (check_well, check_breaks, pytest.fail))
    assert doctor.main(["--device", "cpu"]) == 1
    machine, *lines = capsys.readouterr().out.splitlines()
    assert f"torch {torch.__version__.partition('+')[0]}" in machine
    assert lines == ["ok   well: as it should", "BAD  breaks: CUDA error: an illegal instruction"]
    monkeypatch.setattr(doctor, "CHECKS", (check_well,))
    assert doctor.main(["--device", "cpu"]) == 0
