"""The benchmarks: they compare like with like, their memory is counted right, and what they print has the promised form."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import pytest
import torch
import yaml

from benchmarks import loader, page, step, throughput, tracker, variants
from benchmarks.clock import Sample, in_turns
from benchmarks.execution import EXECUTIONS, Execution, our_step, set_tf32
from benchmarks.flops import forward_flops, units_per_image
from benchmarks.memory import MIB, allocated_peak, peak_mib, peak_resident_mib
from benchmarks.peers import PEERS, CompiledDoubleBackwardStep, installed
from benchmarks.problem import Problem, make_learner, make_problem
from repro.compose import compose
from repro.errors import UserError
from repro.lookahead import coefficient_gradient
from repro.step import TrainingStep

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
SMALL = ["--model", "digits_cnn", "--device", "cpu", "--batch", "8", "--meta-batch", "16", "--repeats", "2"]


@pytest.fixture(autouse=True)
def process_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands set PyTorch up for their process, which here is that of the tests."""
    for module in (step, loader, throughput):
        monkeypatch.setattr(module, "make_deterministic", lambda **_: None)
    for module in (step, throughput):
        monkeypatch.setattr(module, "keep_freed_memory", lambda: False)


def small_problem(**changes: int) -> Problem:
    return make_problem("digits_cnn", device=CPU, **{"batch": 8, "meta_batch": 16, **changes})


@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize("name", list(PEERS))
def test_peers_compute_the_engines_gradient(name: str, reuse: bool) -> None:
    if not installed(name):
        pytest.skip(f"{name} is not installed; pip install -e '.[bench]' brings it")
    problem = small_problem()
    learner = make_learner(problem)
    model, inputs, meta_inputs = learner.model.double(), problem.inputs.double(), problem.meta.inputs.double()
    coefficients = torch.rand(8, 10, dtype=torch.float64)
    exact = coefficient_gradient(model, inputs, coefficients, meta_inputs, problem.meta.targets, 0.3)
    peer = PEERS[name](model, learner.optimizer, learner.method, reuse=reuse)
    own = peer.coefficient_gradient(inputs, coefficients, meta_inputs, problem.meta.targets, 0.3)
    assert ((own - exact).norm() / exact.norm()).item() <= 1e-9


def test_the_compiled_peers_function_is_the_same_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function: function)  # what is compiled, uncompiled: a minute less
    problem = small_problem()
    learner = make_learner(problem)
    model, inputs, meta_inputs = learner.model.double(), problem.inputs.double(), problem.meta.inputs.double()
    coefficients = torch.rand(8, 10, dtype=torch.float64)
    exact = coefficient_gradient(model, inputs, coefficients, meta_inputs, problem.meta.targets, 0.3)
    peer = CompiledDoubleBackwardStep(model, learner.optimizer, learner.method)
    own = peer.coefficient_gradient(inputs, coefficients, meta_inputs, problem.meta.targets, 0.3)
    assert ((own - exact).norm() / exact.norm()).item() <= 1e-9


@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize("name", list(PEERS))
def test_peers_train_as_the_step_does(name: str, reuse: bool) -> None:
    """Parameters, BatchNorm's running statistics and labels, after three steps in float64."""
    if not installed(name):
        pytest.skip(f"{name} is not installed; pip install -e '.[bench]' brings it")
    problem = small_problem()
    states = []
    for kind in ("ours", name):
        learner = make_learner(problem)
        learner.model.double()
        learner.method.load_state_dict({key: value.double() for key, value in learner.method.state_dict().items()})
        take = (
            TrainingStep(learner.model, learner.optimizer, learner.method, problem.config.optim, problem.config.meta)
            if kind == "ours"
            else PEERS[name](learner.model, learner.optimizer, learner.method, reuse=reuse)
        )
        meta = type(problem.meta)(inputs=problem.meta.inputs.double(), targets=problem.meta.targets)
        for _ in range(3):
            result = take(problem.inputs.double(), problem.rows, problem.observed, epoch=0, meta=meta)
        states.append({**learner.model.state_dict(), **learner.method.state_dict(), "loss": result.loss, "correct": result.correct})
    torch.testing.assert_close(states[1], states[0], rtol=1e-9, atol=1e-12)


def test_a_wrong_gradient_stops_the_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(PEERS["double_backward"]):  # type: ignore[misc]  # a class found by name
        def gradient(self, *arguments: object) -> torch.Tensor:
            return 1.0001 * super().gradient(*arguments)

    monkeypatch.setitem(variants.PEERS, "double_backward", Wrong)
    with pytest.raises(UserError, match="double_backward: its gradient differs"):
        variants.check_gradients()


def test_json_has_the_promised_form(capsys: pytest.CaptureFixture[str]) -> None:
    step.main([*SMALL, "--modes", "eager", "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert [row["what"] for row in rows] == ["plain", "lookahead", *(name for name in PEERS if installed(name))]
    plain = rows[0]["seconds"]
    for row in rows:
        assert set(row) == {"what", "seconds", "ratio", "peak_mib", "mode"}
        assert row["mode"] == "eager"
        assert row["ratio"] == row["seconds"] / plain
        assert row["peak_mib"] > 0.1
    assert min(row["ratio"] for row in rows[1:]) > 1.0


def test_json_of_all_rows_has_both_last_passes(capsys: pytest.CaptureFixture[str]) -> None:
    step.main([*SMALL, "--modes", "eager", "--what", "plain,double_backward", "--json", "--all-rows"])
    assert [row["what"] for row in json.loads(capsys.readouterr().out)] == ["plain", "double_backward", "double_backward"]


def measured(what: str, seconds: float, *, mode: str = "eager", difference: float = 0.0) -> step.Measured:
    return step.Measured(step.Variant(what, mode), Sample((seconds,)), Sample((1.0,)), peak_mib=1.0, difference=difference)


def test_a_compiled_row_says_how_much_faster_than_eager_it_is() -> None:
    rows = [measured("plain", 2.0), measured("plain", 1.0, mode="compile")]
    assert not any("eager / compiled" in column for column in step.table("x", rows).columns)
    rows[1] = dataclasses.replace(rows[1], gain=rows[0].seconds.over(rows[1].seconds))
    shown = step.table("x", rows)
    place = list(shown.columns).index("eager / compiled")
    assert [line[place] for line in shown.rows] == ["—", "2.00"]


def test_the_fastest_exact_row_is_reported() -> None:
    rows = [
        measured("lookahead", 2.0),
        measured("lookahead", 1.5, mode="compile"),
        measured("lookahead", 1.0, difference=0.017),
        measured("lookahead", 0.5, difference=math.nan),
    ]
    assert step.fastest(rows) == [rows[1]]


def test_the_ratio_is_to_the_plain_step_in_the_same_mode() -> None:
    """Also where that one is not the fastest plain step, and so is not printed."""
    rows = [
        measured("plain", 1.0),
        measured("plain", 0.5, mode="compile"),
        measured("lookahead", 4.0),
        measured("lookahead", 2.5, mode="compile", difference=0.017),
    ]
    printed = step.as_json(step.fastest(rows), rows)
    assert [(row["what"], row["mode"], row["ratio"]) for row in printed] == [("plain", "compile", 1.0), ("lookahead", "eager", 4.0)]
    assert [row["ratio"] for row in step.as_json(rows[2:], rows[1:])] == [None, 5.0]


def test_an_approximate_step_is_seen_in_its_first_step() -> None:
    problem = small_problem()
    exact = step._first_step(problem, *variants.build(problem, variants.Variant("lookahead", "eager")))
    learner, call = variants.build(problem, variants.Variant("lookahead", "eager"))
    whole = learner.method.update
    learner.method.update = lambda batch, gradient: whole(batch, 1.02 * gradient)  # type: ignore[method-assign]
    assert step._distance(step._first_step(problem, learner, call), exact) > step.EXACT


def test_peak_memory_counts_what_is_alive_at_once() -> None:
    def call() -> None:
        first = torch.empty(MIB // 4)
        del first
        second, third = torch.empty(MIB // 4), torch.empty(MIB // 2)
        del second, third

    assert allocated_peak(call) == 3 * MIB


def test_peak_memory_has_what_lies_there_between_steps() -> None:
    problem = small_problem()
    learner = make_learner(problem)
    tensors = [*learner.model.parameters(), *learner.model.buffers(), *learner.method.state_dict().values()]
    tensors += [problem.inputs, problem.rows, problem.labels, problem.meta.inputs, problem.meta.targets]
    resident = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert peak_mib(lambda: torch.empty(MIB // 4), problem, learner) == pytest.approx(1.0 + resident / MIB)
    learner.optimizer.velocities.append(torch.empty(MIB // 2))
    assert peak_mib(lambda: torch.empty(MIB // 4), problem, learner) == pytest.approx(3.0 + resident / MIB)


def test_a_fresh_process_reports_its_own_peak() -> None:
    """Not that of the process that started it, which Linux hands on as ru_maxrss."""
    big = torch.ones(300 * MIB // 4)
    own = peak_resident_mib()
    command = [sys.executable, "-c", "from benchmarks.memory import peak_resident_mib; print(peak_resident_mib())"]
    alone = float(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout)
    del big
    assert 100 < alone < own - 200


def test_samples_have_medians_and_quartiles() -> None:
    sample = Sample((4.0, 1.0, 2.0, 3.0, 10.0))
    assert sample.median == 3.0
    assert sample.quartiles == (2.0, 4.0)
    assert Sample((2.0,)).quartiles == (2.0, 2.0)
    assert Sample((4.0, 9.0)).over(Sample((2.0, 3.0))).values == (2.0, 3.0)


def test_calls_take_turns() -> None:
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in ("a", "b")}
    assert set(in_turns(calls, repeats=2, device=CPU)) == {"a", "b"}
    assert order == ["a", "b", "a", "b"]


def test_counted_flops_are_those_of_the_cost_estimate() -> None:
    tables = yaml.safe_load((ROOT / "sweeps" / "macs.yaml").read_text())["macs"]
    for model, dataset in (("vgg16", "cifar100"), ("alexnet", "cifar100")):
        problem = make_problem(model, device=CPU, batch=2, meta_batch=4)
        images = [entry["images"] for entry in tables if entry["model"] == model]
        assert forward_flops(make_learner(problem).model, problem) == 2 * images[0][dataset]


def test_a_step_that_learns_needs_thirteen_passes() -> None:
    assert units_per_image(small_problem(), learns=False) == 3.0
    assert units_per_image(small_problem(), learns=True) == 13.0


@pytest.mark.parametrize("execution", [Execution(channels_last=True), Execution("bfloat16")], ids=lambda execution: execution.name)
def test_executions_take_the_same_step(execution: Execution) -> None:
    problem = small_problem()
    moved = []
    for way in (Execution(), execution):
        learner = make_learner(problem)
        before = learner.method.state_dict()["logits"].clone()
        our_step(problem, learner, way)(problem.inputs, problem.rows, problem.meta)
        moved.append(learner.method.state_dict()["logits"] - before)
    tolerance = 0.3 if execution.precision == "bfloat16" else 1e-4
    distance = (moved[1] - moved[0]).norm() / moved[0].norm()
    assert 0.0 < distance < tolerance or (distance == 0.0 and execution.channels_last)


def test_tf32_is_allowed_only_where_it_is_asked_for() -> None:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        set_tf32(Execution("tf32"))
        assert torch.backends.cuda.matmul.allow_tf32
        assert torch.backends.cudnn.allow_tf32
        set_tf32(Execution())
        assert not torch.backends.cuda.matmul.allow_tf32
        assert not torch.backends.cudnn.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def test_executions_have_names_of_their_own() -> None:
    for ways in EXECUTIONS.values():
        assert len({way.name for way in ways}) == len(ways)


def test_throughput_prints_every_way_and_the_ceiling(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.flops._PROBE_SIZE", {"cpu": 128})
    throughput.main([*SMALL, "--executions", "float32,bfloat16", "--at-least-s", "0.01", "--no-usual"])
    out = capsys.readouterr().out
    for line in ("| plain     | float32", "| lookahead | bfloat16", "| float32        |", "| bfloat16       |"):
        assert line in out


def test_throughput_in_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.flops._PROBE_SIZE", {"cpu": 128})
    throughput.main([*SMALL, "--executions", "float32", "--at-least-s", "0.01", "--no-usual", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert [(row["what"], row["execution"], row["runs"]) for row in found["rows"]] == [("plain", "float32", 1), ("lookahead", "float32", 1)]
    for row in found["rows"]:
        assert row["of_ceiling"] == row["flops"] / found["ceilings_flops"]["float32"]
        assert row["images_per_s"] > 1.0


def test_throughput_names_the_ways_there_are() -> None:
    with pytest.raises(UserError, match="float64: none of them exists on cpu. Allowed: float32"):
        throughput.main([*SMALL, "--executions", "float64"])


@pytest.mark.parametrize("model", ["alexnet", "digits_cnn"])
def test_the_usual_way_steps_on_batches_of_a_loader(model: str) -> None:
    problem = make_problem(model, device=CPU, batch=4, meta_batch=8)
    row = throughput.measure_usual(problem, workers=0, repeats=1, at_least_s=0.0, ceiling=1.0)
    assert row.what == "usual way"
    assert row.images.median > 0.0


def test_loaders_make_batches_of_one_kind() -> None:
    images = loader.Images.made((3, 32, 32), classes=100, count=40)
    ours = next(loader.device_batches(images, 16, CPU))
    theirs = next(loader.loader_batches(images, 16, CPU, workers=0))
    for inputs, labels, rows in (ours, theirs):
        assert inputs.shape == (16, 3, 32, 32)
        assert inputs.dtype == torch.float32
        assert torch.equal(labels, images.labels[rows])
        assert inputs.min() >= -2.0
        assert inputs.max() <= 2.0
        assert abs(float(inputs.std()) - 1.2) < 0.2


def test_loader_prints_a_row_for_each_way(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REPRO_DATA", str(tmp_path))
    loader.main(["--device", "cpu", "--images", "64", "--batch", "16", "--batches", "2", "--repeats", "2", "--workers", "0"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["device-resident", "DataLoader, 0 workers"]


def test_tables_are_aligned_markdown() -> None:
    shown = str(page.Table(["way", "seconds"], [["plain", "1.5"], ["lookahead", "12"]]))
    assert shown.splitlines() == [
        "| way       | seconds |",
        "| --------- | ------: |",
        "| plain     |     1.5 |",
        "| lookahead |      12 |",
    ]


def test_pages_say_when_where_and_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/benchmarks/step.py", "--model", "digits_cnn"])
    found = page.Page("step", "Time of a step", [page.Table(["way"], [["plain"]], title="digits_cnn")], ["How it was measured."])
    path = found.write(CPU, tmp_path, datetime(2026, 1, 2, tzinfo=UTC))
    text = path.read_text()
    assert path.name == "2026-01-02-step-cpu.md"
    assert text.startswith("# Time of a step\n\n- Date: 2026-01-02\n- Hardware: ")
    assert "\n    python benchmarks/step.py --model digits_cnn\n" in text
    assert f"torch {metadata.version('torch')}" in text
    assert text.endswith("## digits_cnn\n\n| way   |\n| ----- |\n| plain |\n\nHow it was measured.\n")
    assert "/somewhere" not in text


@pytest.mark.parametrize("command", ["step", "loader", "throughput"])
def test_wrong_arguments_are_explained(command: str) -> None:
    result = subprocess.run(
        [sys.executable, f"benchmarks/{command}.py", "--batch", "0"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert "argument --batch: 0: must be a whole number of at least 1" in result.stderr


def test_the_cost_of_the_mirror_is_that_of_runs_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker, "RUNS", {"digits_cnn": (["optim.batch_size=64", "meta.batch_size=100"], 2)})
    monkeypatch.setattr(tracker, "TRACKERS", ("none", "none "))
    monkeypatch.setattr(tracker, "compose", lambda words: compose([word.strip() for word in words]))
    found = tracker.measure(["digits_cnn"], repeats=2)
    assert [len(seconds.step) for seconds in found.values()] == [2, 2]
    for seconds in found.values():
        # 21 steps in each of two epochs, and what comes before and after them.
        assert all(0.0 < 42 * step < run for step, run in zip(seconds.step, seconds.run, strict=True))


def test_the_cost_of_the_mirror_is_the_difference_to_none() -> None:
    found = {("x", "none"): tracker.Seconds([0.010, 0.020], [1.0, 3.0]), ("x", "offline"): tracker.Seconds([0.011, 0.024], [4.0, 6.0])}
    shown = tracker.table(found)
    assert [list(line) for line in shown.rows] == [
        ["x", "none", "15.00", "12.50 - 17.50", "1.000", "2.00", "+0.00"],
        ["x", "offline", "17.50", "14.25 - 20.75", "1.150", "5.00", "+3.00"],
    ]
