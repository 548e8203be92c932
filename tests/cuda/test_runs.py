"""Whole runs, the golden tests, the doctor's checks and memory on CUDA; on a driver that computes nothing their own code at least runs."""

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from benchmarks.common.null_cuda import loaded
from benchmarks.common.problem import make_problem
from benchmarks.step import Variant, measure
from repro import doctor
from repro.config.compose import compose
from repro.data.prepare import prepare
from repro.files import read_json
from repro.runs.inputs import open_inputs
from repro.training import guard
from repro.training.build import build
from repro.training.loop import Training
from repro.training.run import execute

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


SIZES = doctor.Sizes(width=4, batch=8, meta_batch=16, steps=2)


@pytest.mark.parametrize("check", doctor.CHECKS, ids=lambda check: str(check.__name__))
def test_checks(check: doctor.Check) -> None:
    if check is doctor.check_golden and loaded():
        pytest.skip("the golden tests have a test of their own here")
    found = check(torch.device("cuda"), SIZES)
    assert found.text
    assert found.good or loaded(), found


def test_the_memory_of_a_graph_is_counted() -> None:
    problem = make_problem("digits_cnn", device=torch.device("cuda"), batch=64, meta_batch=128)
    wanted = [Variant("lookahead", "eager"), Variant("lookahead", "cuda_graphs")]
    eager, graph = (row.peak_mib for row in measure(problem, wanted, repeats=1))
    assert graph >= 0.9 * eager


SETTINGS = ["method=instance_labels", "dataset=digits", "seed=0", "optim.epochs=2", "tracker=none", "exec.device=cuda"]


def training(tmp_path: Path) -> Training:
    config = compose([*SETTINGS, f"paths.runs={tmp_path}"])
    device = torch.device("cuda")
    return build(config, prepare(config, device), device, tmp_path, open_inputs(config))


@pytest.mark.parametrize("execution", [[], ["exec=audit", "exec.cuda_graphs=true"], ["exec.precision=bfloat16", "exec.cuda_graphs=true"]])
def test_a_run_ends(tmp_path: Path, execution: list[str]) -> None:
    folder = execute(compose([*SETTINGS, *execution, f"paths.runs={tmp_path}"]))
    assert (folder / "final.json").exists()
    assert (folder / "labels" / "instances.f16").exists()


@pytest.mark.parametrize("close", [True, False])
def test_auto_compares_and_goes_on_as_it_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, close: bool) -> None:
    """The first steps of the candidates are really taken, as graphs; what they are taken for is given here."""
    apart = 0.0 if close else 1.0
    monkeypatch.setattr(guard, "distance", lambda moved, reference: dict.fromkeys(guard.BOUNDS, apart))
    config = compose([*SETTINGS, "exec=auto", f"paths.runs={tmp_path}"])
    folder = execute(config)
    execution = read_json(folder / "provenance.json")["execution"]
    fast = close and torch.cuda.get_device_capability() >= (8, 0)
    assert (execution["precision"], execution["cuda_graphs"]) == (("bfloat16", True) if fast else ("float32", False))
    first = (folder / "metrics.jsonl").read_text().partition("\n")[0]
    assert ("guard/labels" in first) == close
    (kept,) = (tmp_path / "guard").iterdir()
    assert len(read_json(kept)["distances"]) == (1 if close else len(guard.CANDIDATES) - 1)


def test_the_random_state_of_other_gpus_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is resumed where fewer GPUs are visible goes on."""
    run = training(tmp_path)
    state = run.state()
    assert len(state["random"]) == 2
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", lambda states: pytest.fail("the states of all GPUs"))
    run.load_state(state)
