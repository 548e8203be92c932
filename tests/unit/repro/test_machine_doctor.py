"""What the doctor says of a machine on which something is wrong."""

import contextlib
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


@pytest.mark.parametrize(("last", "message"), [("", None), ("echo $0 $? >> $run/final.json", "final.json"), ("exit 3", "a run failed")])
def test_what_a_resume_shows(last: str, message: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a program in the place of a run that hangs until it is killed, and may do something else when it resumes."""
    program = tmp_path / "program"
    lines = ["#!/bin/sh", "for last; do :; done", "run=${last#*=}/run", "mkdir -p $run", "case $run in */killed/*)"]
    lines += [f"if [ -e $run/checkpoint.pt ]; then {last or ':'}; else touch $run/checkpoint.pt; exec sleep 100; fi;; esac"]
    program.write_text("\n".join([*lines, "echo >> $run/final.json", ""]))
    program.chmod(0o755)
    monkeypatch.setattr(doctor.sys, "executable", str(program))
    monkeypatch.setattr(doctor, "RESULTS", ("final.json",))
    with pytest.raises(UserError, match=message) if message else contextlib.nullcontext():
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
