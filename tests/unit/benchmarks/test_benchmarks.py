"""The benchmarks: they compare like with like, their memory is counted right, and what they print has the promised form."""

import json
import math
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import step
from benchmarks.common import page
from benchmarks.common.memory import MIB, allocated_peak, peak_mib
from benchmarks.common.problem import Problem, make_learner, make_problem, step_flops
from benchmarks.peers import PEERS, CompiledDoubleBackwardStep, installed
from benchmarks.step import Variant
from repro.engine.lookahead import coefficient_gradient
from repro.engine.step import MetaBatch, TrainingStep
from repro.errors import UserError
from repro.measure import Sample, in_turns

ROOT = Path(__file__).resolve().parents[3]
CPU = torch.device("cpu")
SMALL = ["--model", "digits_cnn", "--device", "cpu", "--batch", "8", "--meta-batch", "16", "--repeats", "2"]


@pytest.fixture(autouse=True)
def process_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command sets PyTorch up for its process, which here is that of the tests."""
    monkeypatch.setattr(step, "make_deterministic", lambda **_: None)
    monkeypatch.setattr(step, "keep_freed_memory", lambda: False)


def small_problem() -> Problem:
    return make_problem("digits_cnn", device=CPU, batch=8, meta_batch=16)


def peer(name: str, model: Any, optimizer: Any, method: Any, *, reuse: bool) -> Any:
    if name == "compiled":
        return CompiledDoubleBackwardStep(model, optimizer, method)
    if not installed(name):
        pytest.skip(f"{name} is not installed; pip install -e '.[bench]' brings it")
    return PEERS[name](model, optimizer, method, reuse=reuse)


@pytest.mark.parametrize(("name", "reuse"), [*((name, reuse) for name in PEERS for reuse in (False, True)), ("compiled", False)])
def test_peers_train_as_the_step_does(name: str, reuse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient, and parameters, BatchNorm's running statistics and labels after three steps, in float64."""
    monkeypatch.setattr(torch, "compile", lambda function: function)  # what is compiled, uncompiled: a minute less
    problem = small_problem()
    inputs, meta = problem.inputs.double(), MetaBatch(problem.meta.inputs.double(), problem.meta.targets)
    states = []
    for ours in (True, False):
        learner = make_learner(problem, "instance_labels")
        learner.model.double()
        learner.method.load_state_dict({key: value.double() for key, value in learner.method.state_dict().items()})
        parts = (learner.model, learner.optimizer, learner.method)
        take: Any = TrainingStep(*parts, problem.config.optim, problem.config.meta) if ours else peer(name, *parts, reuse=reuse)
        coefficients = torch.rand(8, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        arguments = (inputs, coefficients, meta.inputs, meta.targets, 0.3)
        start = {key: value.clone() for key, value in learner.model.state_dict().items()}
        gradient = coefficient_gradient(learner.model, *arguments) if ours else take.coefficient_gradient(*arguments)
        learner.model.load_state_dict(start)  # a peer moves the running statistics
        for _ in range(3):
            result = take(inputs, problem.rows, problem.labels[problem.rows], epoch=0, meta=meta)
        trained = {**learner.model.state_dict(), **learner.method.state_dict()}
        states.append({**trained, "gradient": gradient, "loss": result.loss, "correct": result.correct})
    torch.testing.assert_close(states[1], states[0], rtol=1e-9, atol=1e-12)


def test_a_wrong_gradient_stops_the_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(PEERS["double_backward"]):  # a class found by name
        def gradient(self, *arguments: object) -> torch.Tensor:
            return 1.0001 * super().gradient(*arguments)

    monkeypatch.setitem(PEERS, "double_backward", Wrong)
    with pytest.raises(UserError, match="double_backward: its gradient differs"):
        step.check_gradients()


def test_json_has_the_promised_form(capsys: pytest.CaptureFixture[str]) -> None:
    step.main([*SMALL, "--modes", "eager,cuda_graphs", "--clock", "cpu", "--json"])
    printed = capsys.readouterr()
    assert "plain:cuda_graphs:- left out: exec.cuda_graphs=true: CUDA graphs need a CUDA device" in printed.err
    rows = json.loads(printed.out)
    assert [row["what"] for row in rows] == ["plain", "lookahead", *(name for name in PEERS if installed(name))]
    plain = rows[0]["seconds"]
    for row in rows:
        assert set(row) == {"what", "seconds", "ratio", "peak_mib", "mode"}
        assert row["mode"] == "eager"
        assert row["ratio"] == row["seconds"] / plain
        assert row["peak_mib"] > 0.1
    assert min(row["ratio"] for row in rows[1:]) > 1.0


def test_the_table_has_every_variant(capsys: pytest.CaptureFixture[str]) -> None:
    step.main([*SMALL, "--modes", "eager,bfloat16+channels_last", "--what", "plain,double_backward"])
    rows = [[cell.strip() for cell in line.split("|")[1:4]] for line in capsys.readouterr().out.splitlines()[3:]]
    peers = [["double_backward", "eager", last_pass] for last_pass in ("fresh", "reused")]
    assert rows == [["plain", "eager", "-"], *peers, ["plain", "bfloat16+channels_last", "-"]]


def measured(what: str, seconds: float, *, mode: str = "eager", difference: float = 0.0) -> step.Measured:
    return step.Measured(Variant(what, mode), Sample((seconds,)), Sample((1.0,)), peak_mib=1.0, difference=difference, flops=1.0)


def test_the_fastest_exact_row_is_reported_beside_the_plain_step_of_its_mode() -> None:
    """Also where that one is not the fastest plain step, and so is not printed."""
    rows = [
        measured("plain", 1.0),
        measured("plain", 0.5, mode="compile"),
        measured("lookahead", 5.0),
        measured("lookahead", 4.0),
        measured("lookahead", 2.5, mode="compile", difference=0.017),
        measured("lookahead", 0.5, difference=math.nan),
    ]
    assert step.fastest(rows) == [rows[1], rows[3]]
    printed = step.as_json(step.fastest(rows), rows)
    assert [(row["what"], row["mode"], row["ratio"]) for row in printed] == [("plain", "compile", 1.0), ("lookahead", "eager", 4.0)]
    assert [row["ratio"] for row in step.as_json(rows[3:5], rows[1:])] == [None, 5.0]


def test_an_approximate_step_is_seen_in_its_first_step() -> None:
    problem = small_problem()
    exact = step.first_step(*step.build(problem, Variant("lookahead", "eager")))
    learner, call = step.build(problem, Variant("lookahead", "eager"))
    whole = learner.method.update
    learner.method.update = lambda batch, gradient: whole(batch, 1.02 * gradient)
    assert step.distance(step.first_step(learner, call), exact) > step.EXACT


def test_peak_memory_counts_what_is_alive_at_once() -> None:
    def call() -> None:
        first = torch.empty(MIB // 4)
        del first
        second, third = torch.empty(MIB // 4), torch.empty(MIB // 2)
        del second, third

    assert allocated_peak(call) == 3 * MIB


def test_peak_memory_has_what_lies_there_between_steps() -> None:
    problem = small_problem()
    learner = make_learner(problem, "instance_labels")
    tensors = [*learner.model.parameters(), *learner.model.buffers(), *learner.method.state_dict().values()]
    tensors += [problem.inputs, problem.rows, problem.labels, problem.meta.inputs, problem.meta.targets]
    resident = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert peak_mib(lambda: torch.empty(MIB // 4), problem, learner) == pytest.approx(1.0 + resident / MIB)
    learner.optimizer.velocities.append(torch.empty(MIB // 2))
    assert peak_mib(lambda: torch.empty(MIB // 4), problem, learner) == pytest.approx(3.0 + resident / MIB)


def test_samples_have_medians_and_quartiles() -> None:
    sample = Sample((4.0, 1.0, 2.0, 3.0, 10.0))
    assert sample.median == 3.0
    assert sample.quartiles == (2.0, 4.0)
    assert Sample((4.0, 9.0)).over(Sample((2.0, 3.0))).values == (2.0, 3.0)


def test_calls_take_turns() -> None:
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in ("a", "b")}
    assert set(in_turns(calls, repeats=2, device=CPU)) == {"a", "b"}
    assert order == ["a", "b", "a", "b"]


def test_a_step_that_learns_needs_thirteen_passes_but_the_gradient_of_the_images() -> None:
    problem = make_problem("alexnet", device=CPU, batch=2, meta_batch=4)
    forward, first = 2 * 2 * 14_980_096, step_flops(problem, learns=False)
    images = 3 * forward - first
    assert 0 < images < forward / 3
    assert step_flops(problem, learns=True) == 13 * forward - 5 * images


@pytest.mark.parametrize(("mode", "tolerance"), [("channels_last", 1e-4), ("bfloat16", 0.3)])
def test_modes_take_the_same_step(mode: str, tolerance: float) -> None:
    movements = [step.first_step(*step.build(small_problem(), Variant("lookahead", way))) for way in ("eager", mode)]
    distance = step.distance(movements[1], movements[0])
    assert distance < tolerance
    assert distance > 0.0 or mode == "channels_last"


def test_tf32_is_allowed_only_where_it_is_asked_for() -> None:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    try:
        for mode, allowed in (("tf32+channels_last", True), ("compile", False)):
            step.set_tf32(mode)
            assert matmul.allow_tf32 == cudnn.allow_tf32 == allowed
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def test_pages_say_when_where_and_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/benchmarks/step.py", "--model", "digits_cnn"])
    shown = page.Table(["way", "seconds"], [["plain", "1.5"], ["lookahead", "12"]], title="digits_cnn")
    path = page.Page("step", "Time of a step", [shown], ["How it was measured."]).write(CPU, tmp_path, datetime(2026, 1, 2, tzinfo=UTC))
    text = path.read_text()
    assert path.name == "2026-01-02-step-cpu.md"
    assert text.startswith("# Time of a step\n\n- Date: 2026-01-02\n- Hardware: ")
    assert "\n    python benchmarks/step.py --model digits_cnn\n" in text
    assert f"torch {metadata.version('torch')}" in text
    rows = ["| way       | seconds |", "| --------- | ------: |", "| plain     |     1.5 |", "| lookahead |      12 |"]
    assert text.endswith("\n".join(["## digits_cnn", "", *rows, "", "How it was measured.", ""]))
    assert "/somewhere" not in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--batch", "0"], "argument --batch: '0' must be a whole number from 1"),
        (["--modes", "eager,float64+compile"], "argument --modes: float64: allowed are eager, compile,"),
    ],
)
def test_wrong_arguments_are_explained(arguments: list[str], words: str) -> None:
    result = subprocess.run([sys.executable, "benchmarks/step.py", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert words in result.stderr
