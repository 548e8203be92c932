"""The benchmarks: they compare like with like, their memory is counted right, and what they print has the promised form."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from markdown_blocks import ROOT
from torch import Tensor

from benchmarks import step
from benchmarks.peers import PEERS, installed
from benchmarks.step import Sizes, build, distance, movement, peak_mib
from repro.engine.step import MetaBatch, StepResult
from repro.training.loop import Training

CPU = torch.device("cpu")
SMALL = Sizes(("model=digits_cnn", "model.width=4"), batch=8, meta_batch=16, steps=2)


@pytest.fixture(autouse=True)
def process_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command sets PyTorch up for its process, which here is that of the tests."""
    for module in ("benchmarks.step", "repro.doctor"):
        monkeypatch.setattr(f"{module}.make_deterministic", lambda **_: None)


def trained(what: str) -> tuple[Training, list[Tensor]]:
    """Take three steps of a training in float64; return it, and its state with what the last epoch's steps measured."""
    training = build(what, "eager", SMALL, None, CPU)
    take = training._step.take

    def in_float64(inputs: Tensor, rows: Tensor, observed: Tensor, meta: MetaBatch, given: Any) -> StepResult:
        return take(inputs.double(), rows, observed, MetaBatch(meta.inputs.double(), meta.targets), given)

    training._step.take = in_float64
    plan = training.begin_epoch()
    for training.batch in range(3):
        training.take_step(plan)
    return training, [*training._step.state(), *training._totals.values()]


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.usefixtures("double")
def test_peers_train_as_the_step_does(name: str) -> None:
    """Parameters, BatchNorm's running statistics, labels, loss and accuracy after three steps."""
    if not installed(name):
        pytest.skip(f"{name} is not installed; pip install -e '.[bench]' brings it")
    peer, theirs = trained(name)
    _, ours = trained("lookahead")
    assert type(peer._step) is PEERS[name]
    torch.testing.assert_close(theirs, ours, rtol=1e-9, atol=1e-12)


def test_an_approximate_step_is_seen_in_its_movement() -> None:
    exact, approximate = (build("lookahead", "eager", SMALL, None, CPU) for _ in range(2))
    whole = approximate.method.update
    approximate.method.update = lambda batch, gradient: whole(batch, 1.02 * gradient)
    assert distance(movement(approximate), movement(exact)) > 0.01


def test_what_is_measured_and_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks/step.py", "--model", "digits_cnn"])
    kept: list[dict[str, Any]] = []
    measure = step.measure
    monkeypatch.setattr(step, "measure", lambda *arguments, **options: kept.extend(measure(*arguments, **options)) or kept)
    small = ["--model", "digits_cnn", "--device", "cpu", "--batch", "8", "--meta-batch", "16", "--repeats", "2"]
    step.main([*small, "--modes", "eager", "cuda_graphs", "--clock", "cpu"])
    printed = capsys.readouterr()
    assert "plain, cuda_graphs: left out: exec.cuda_graphs=true: CUDA graphs need a CUDA device" in printed.err
    names = ["plain", "lookahead", *(name for name in PEERS if installed(name))]
    assert [row["what"] for row in kept] == names
    assert all(f"| {name} | eager |" in printed.out for name in names)
    assert kept[0]["ratio"] == 1.0 < kept[1]["ratio"]
    assert kept[0]["peak_mib"] < kept[1]["peak_mib"]
    assert all(row["difference"] < 1e-4 for row in kept)


def test_peak_memory_counts_what_is_alive_at_once() -> None:
    def call() -> None:
        first = torch.empty(2**18)
        del first
        second, third = torch.empty(2**18), torch.empty(2**19)
        del second, third

    assert peak_mib(call, CPU) == pytest.approx(3.0, abs=0.1)


def test_wrong_arguments_are_explained() -> None:
    command = [sys.executable, "benchmarks/step.py", "--modes", "eager", "float64+compile"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (
        2,
        "error: --modes: float64 is none of eager, compile, cuda_graphs, channels_last, bfloat16, tf32\n",
    )
