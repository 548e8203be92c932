"""What the doctor says of a machine on which something is wrong."""

import json
from pathlib import Path

import pytest
import torch

from repro import doctor
from repro.doctor import SMALL, Finding

CPU = torch.device("cpu")


def test_the_gradient_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check_gradient(CPU, SMALL).good
    exact = doctor.coefficient_gradient
    monkeypatch.setattr(doctor, "coefficient_gradient", lambda *problem: (1.0 + 1e-8) * exact(*problem))
    found = doctor.check_gradient(CPU, SMALL)
    assert not found.good
    assert found.values["float64"] > 1e-9
    assert "train nothing here" in found.remedy


def test_steps_are_measured_beside_double_backward() -> None:
    found = doctor.check_speed(CPU, doctor.Sizes(width=2, batch=4, meta_batch=8, steps=1))
    assert {"float32, one_hot", "float32, instance_labels", "gradient"} == set(found.values)
    assert found.values["float32, instance_labels"]["TFLOP/s"] > 0


def test_the_first_step_is_compared() -> None:
    found = doctor.check_guard(CPU, doctor.Sizes(width=4, batch=8, meta_batch=8))
    assert found.good
    assert 1e-5 < found.values["bfloat16 on this CPU"]["guard/parameters"] < 2


@pytest.mark.slow
def test_a_resume_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check_resume(CPU, SMALL).good
    # The heartbeat differs.
    monkeypatch.setattr(doctor, "RESULTS", ("final.json", "status.json"))
    found = doctor.check_resume(CPU, SMALL)
    assert (found.good, found.text) == (False, "other bytes in status.json")


def test_a_run_that_was_not_killed_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = type("Ended", (), {"poll": lambda self: 0, "send_signal": lambda self, number: None, "wait": lambda self: 0})
    monkeypatch.setattr(doctor.subprocess, "Popen", lambda *command, **options: ended())
    found = doctor.check_resume(CPU, SMALL)
    assert (found.good, found.text) == (False, "the run was over before it could be killed")


def test_a_gpu_without_kernels_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = type("Gpu", (), {"total_memory": 16 * 2**30})
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_90", "compute_90"])
    found = doctor.check_device(torch.device("cuda"), SMALL)
    assert (found.good, found.text) == (False, "Tesla V100, 16 GiB, sm_70: PyTorch has no kernels for it")
    assert found.remedy == "install a PyTorch that is built for it; this one is for sm_75 sm_90 compute_90"


def test_it_stops_at_the_first_thing_that_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def check_breaks(device: torch.device, sizes: doctor.Sizes) -> Finding:
        raise RuntimeError("CUDA error: an illegal instruction\nmore")

    def check_after(device: torch.device, sizes: doctor.Sizes) -> Finding:
        pytest.fail("checked")

    monkeypatch.setattr(doctor, "CHECKS", (doctor.check_versions, check_breaks, check_after))
    assert doctor.main(["--device", "cpu", "--out", str(tmp_path / "out")]) == 1
    assert "BAD   breaks: RuntimeError: CUDA error: an illegal instruction\n      -> " in capsys.readouterr().out
    versions, broken = json.loads((tmp_path / "out" / "doctor.json").read_text())
    assert (versions["good"], broken["good"]) == (True, False)
    assert "| breaks | BAD | RuntimeError" in (tmp_path / "out" / "doctor.md").read_text()


def test_a_folder_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert doctor.main(["--device", "cpu", "--out", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err == f"error: --out={tmp_path / 'file'}: File exists\n"
