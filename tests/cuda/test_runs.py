"""Whole runs, the golden tests, the doctor's checks and memory on CUDA; on a driver that computes nothing their own code at least runs."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from null_cuda import loaded
from real_runs import stopped

from benchmarks.step import measure
from repro import doctor
from repro.config.compose import compose
from repro.errors import UserError
from repro.files import read_json
from repro.training.run import execute

GOLDEN = Path(__file__).parents[1] / "golden"
CUDA = torch.device("cuda")
SMALL = doctor.Sizes(("model=resnet18", "model.width=4"), batch=8, meta_batch=16, steps=2)


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


def test_the_doctor() -> None:
    with contextlib.suppress(UserError) if loaded() else contextlib.nullcontext():
        assert doctor.check_execution(CUDA, SMALL)


def test_the_memory_of_a_graph_is_counted() -> None:
    sizes = doctor.Sizes(("model=digits_cnn",), batch=64, meta_batch=128, steps=1)
    eager, graph = (row["peak_mib"] for row in measure(["lookahead"], ["eager", "cuda_graphs"], sizes, threads=1, device=CUDA))
    assert graph >= 0.9 * eager


@pytest.mark.parametrize("execution", [["exec=audit"], ["exec=auto"], ["exec=fast", "exec.compile=false"]])
def test_a_run_that_is_stopped_ends_in_the_same_bytes(tmp_path: Path, execution: list[str]) -> None:
    settings = ["method=instance_labels", "dataset=digits", "seed=0", "optim.epochs=2", "tracker=none", "exec.device=cuda"]
    whole, resumed = (compose([*settings, *execution, f"paths.runs={tmp_path / name}"]) for name in ("whole", "resumed"))
    stopped(resumed, epoch=1, batch=2)
    folder, other = execute(whole), execute(resumed)
    for file in ("final.json", "model.safetensors", "labels/instances.f16"):
        assert (folder / file).read_bytes() == (other / file).read_bytes() or loaded()
    execution_kept = read_json(folder / "provenance.json")["execution"]
    assert execution_kept["cuda_graphs"] == (execution != ["exec=audit"])


def test_the_random_state_of_other_gpus_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is resumed where fewer GPUs are visible goes on."""
    training = doctor.random_training("method=instance_labels", device=CUDA, sizes=SMALL)
    state = training.state()
    assert len(state["random"]) == 2
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", lambda states: pytest.fail("the states of all GPUs"))
    training.load_state(state)
