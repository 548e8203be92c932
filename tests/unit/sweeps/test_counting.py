"""Counting a step without computing, counts that later plans read, and a step's time at the roofline, on networks counted by hand."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from repro.config import registry
from repro.config.schema import ModelConfig
from repro.errors import UserError
from sweeps.plan import count_cache, counting
from sweeps.plan.counting import _Counter, count_forward, count_step
from sweeps.plan.gpus import AUDIT, GPUS, Execution, Gpu, auto, known_gpu
from sweeps.plan.roofline import CONTEXT_BYTES, KERNEL_S, LAUNCH_S, MOST_RUNS, Counted, Operation, Seconds, Work, seconds

CIFAR = (3, 32, 32)
GRAPHS = Execution("float32", graphs=True)


@pytest.fixture
def linear(monkeypatch: pytest.MonkeyPatch) -> str:
    """A network of one matrix, from the pixels to the classes."""

    def build(config: ModelConfig, *, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(image_shape[1] * image_shape[2], num_classes, bias=False))

    monkeypatch.setitem(registry.choices("model"), "linear", registry.Choice("model", "linear", ModelConfig, build))
    return "linear"


def test_a_forward_pass_of_a_matrix_by_hand(linear: str) -> None:
    counted = count_forward(linear, "{}", (1, 2, 2), 3, images=5)
    x, w, y = 5 * 4, 4 * 3, 5 * 3
    assert counted.operations == (
        Operation(0, 6 * w, 8 * w, bfloat16=False, cast=True),
        Operation(0, 6 * x, 8 * x, bfloat16=False, cast=True),
        Operation(2 * 5 * 4 * 3, 2 * (x + w + y), 4 * (x + w + y), bfloat16=True),
        Operation(0, 6 * y, 8 * y, bfloat16=True, cast=True),
    )
    # Images, matrix, their copies, and the product; its own copy comes when theirs are gone.
    assert counted.peak_bytes == 6 * (x + w) + 2 * y
    assert counted.float32_peak_bytes == 4 * (x + w + y)


def test_a_step_of_a_matrix_by_hand(linear: str) -> None:
    sizes: dict[str, Any] = {"image_shape": (1, 2, 2), "num_classes": 3, "batch": 2}
    product = 2 * 2 * 4 * 3
    # Forward pass and gradient of the matrix; nothing needs the gradient of the images.
    assert count_step(linear, "{}", **sizes).flops == 2 * product
    # The same of five meta images; the product of the images and the meta gradient; the gradient with the new labels.
    assert count_step(linear, "{}", **sizes, meta_batch=5).flops == 2 * product + 2 * product * 5 // 2 + product + product


def test_arguments_and_results_are_bytes_and_views_and_empty_memory_are_nothing() -> None:
    with FakeTensorMode(), _Counter() as counter:
        a, b = torch.empty(4, 6), torch.empty(6, dtype=torch.bfloat16)
        a.view(6, 4).t()[0]
        assert counter.operations == []
        a += b
        torch._foreach_mul([a, a], 2.0)
        torch.zeros(3, dtype=torch.int64)
    assert counter.operations == [
        Operation(0, 2 * 24 * 4 + 6 * 2, 2 * 24 * 4 + 6 * 4),
        Operation(0, 4 * 24 * 4, 4 * 24 * 4),
        Operation(0, 24, 24),
    ]


def test_the_peak_is_that_of_tensors_alive_at_a_time() -> None:
    with FakeTensorMode(), _Counter() as counter:
        kept = torch.zeros(100)
        for _ in range(3):
            half = kept.bfloat16() * 2  # both are alive until the product is
            del half
        whole = torch.zeros(30)
        del whole
        kept.add_(1.0)
    assert counter.peaks == (400 + 200 + 200, 400 + 400)


@pytest.mark.parametrize(
    ("model", "settings", "shape", "classes", "macs"),
    [
        ("alexnet", "{}", CIFAR, 100, 14_980_096),
        ("cnn_9", "{}", (1, 28, 28), 10, 561_532_160),
        ("resnet18", "{}", CIFAR, 100, 555_468_800),
        ("resnet_cifar", '{"depth": 32}', CIFAR, 10, 68_862_592),
        ("vgg16", "{}", CIFAR, 10, 313_201_664),
        ("wrn_28_10", '{"dropout": 0.3}', CIFAR, 100, 5_243_386_368),
    ],
)
def test_multiply_accumulates_of_the_networks_are_those_of_the_published_ones(
    model: str, settings: str, shape: tuple[int, int, int], classes: int, macs: int
) -> None:
    assert count_forward(model, settings, shape, classes, images=3).flops == 3 * 2 * macs


def test_a_step_costs_the_passes_of_the_algorithm_but_the_gradient_of_the_images() -> None:
    forward = count_forward("resnet18", "{}", CIFAR, 100, images=8).flops
    first = 2 * 8 * 32 * 32 * 64 * 27
    step = {meta: count_step("resnet18", "{}", CIFAR, 100, batch=8, meta_batch=meta).flops for meta in (0, 16)}
    assert step == {0: 3 * forward - first, 16: 13 * forward - (1 + 2 + 1 + 1) * first}


def test_a_network_that_cannot_be_counted_says_why(linear: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="vgg16"):
        count_step("vgg16", "{}", (1, 8, 8), 10, batch=2)

    class Asks(nn.Linear):
        def forward(self, images: Tensor) -> Tensor:
            return images[:, 0, 0] if images.sum() > 0 else images[:, 0, 1]

    asks = registry.Choice("model", "asks", ModelConfig, lambda config, **sizes: Asks(1, 1))
    monkeypatch.setitem(registry.choices("model"), "asks", asks)
    with pytest.raises(RuntimeError):
        count_forward("asks", "{}", (1, 2, 2), 2, images=3)


#: 1 TFLOP/s in float32, 2 in TF32, 4 in bfloat16; 1 GB/s; 2 GB.
ROUND = Gpu("round", "Round", 1.0, 2.0, 4.0, 1.0, 2.0, "made")


def counted(*operations: Operation, peak: int = 0, float32_peak: int = 0) -> Counted:
    return Counted(operations, peak, float32_peak)


@pytest.mark.parametrize(
    ("operation", "execution", "expected"),
    [
        # The largest of three: arithmetic, bytes, what any kernel takes.
        (Operation(8 * 10**9, 10**6, 2 * 10**6), GRAPHS, Seconds(8e-3, 8e-3)),
        (Operation(10**9, 2 * 10**6, 4 * 10**6), GRAPHS, Seconds(4e-3, 4e-3)),
        (Operation(10**6, 500, 1000), GRAPHS, Seconds(KERNEL_S, 1e-6)),
        # The peak is that of the number format, and only what is in bfloat16 has its.
        (Operation(8 * 10**9, 0, 0, bfloat16=True), Execution("tf32", graphs=True), Seconds(4e-3, 4e-3)),
        (Operation(8 * 10**9, 0, 0, bfloat16=True), Execution("bfloat16", graphs=True), Seconds(2e-3, 2e-3)),
        (Operation(8 * 10**9, 0, 0), Execution("bfloat16", graphs=True), Seconds(8e-3, 8e-3)),
        (Operation(0, 2 * 10**6, 4 * 10**6, bfloat16=True), Execution("bfloat16", graphs=True), Seconds(2e-3, 2e-3)),
        # Casts are there in bfloat16 only.
        (Operation(0, 10**6, 10**6, cast=True), Execution("bfloat16", graphs=True), Seconds(1e-3, 1e-3)),
        (Operation(0, 10**6, 10**6, cast=True), GRAPHS, Seconds(0.0, 0.0)),
    ],
)
def test_an_operation_takes_the_largest_of_arithmetic_bytes_and_a_kernel(
    operation: Operation, execution: Execution, expected: Seconds
) -> None:
    assert seconds(counted(operation), ROUND, execution) == pytest.approx(expected)


def test_started_one_by_one_a_step_takes_at_least_its_launches() -> None:
    small, large = Operation(0, 0, 1000), Operation(10**10, 0, 0)
    cast = Operation(0, 0, 0, cast=True)
    assert seconds(counted(*[small] * 10, cast), ROUND, AUDIT) == pytest.approx((10 * LAUNCH_S, 10e-6))
    assert seconds(counted(*[small] * 10, cast), ROUND, GRAPHS) == pytest.approx((10 * KERNEL_S, 10e-6))
    assert seconds(counted(small, large), ROUND, AUDIT).whole == pytest.approx(10e-3 + KERNEL_S)


def test_work_is_the_sum_of_its_parts() -> None:
    step, evaluation = counted(Operation(36 * 10**8, 0, 0), peak=7, float32_peak=9), counted(Operation(0, 0, 500), peak=8)
    work = Work(((2e6, step), (1e6, evaluation)), label_bytes=5)
    assert work.hours(ROUND, GRAPHS) == pytest.approx(2.0 + KERNEL_S * 1e6 / 3600)
    assert work.busy(ROUND, GRAPHS) == pytest.approx((7200 + 0.5) / (7200 + 3.0))
    assert work.memory(GRAPHS) == 9 + 5 + CONTEXT_BYTES
    assert work.memory(Execution("bfloat16", graphs=True)) == 8 + 5 + CONTEXT_BYTES


@pytest.mark.parametrize(
    ("bytes_", "peak", "runs"), [(3000, 0, 1), (1400, 0, 2), (900, 0, 3), (1, 0, MOST_RUNS), (900, 50 * 10**9, 1), (900, 34 * 10**9, 2)]
)
def test_a_gpu_is_for_as_many_runs_as_fill_its_time_and_fit_into_its_memory(bytes_: int, peak: int, runs: int) -> None:
    large = Gpu("large", "Large", 1.0, 2.0, 4.0, 1.0, 80.0, "made")
    assert Work(((1.0, counted(Operation(0, 0, bytes_), float32_peak=peak)),)).runs_per_gpu(large, GRAPHS) == runs


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("Tesla V100-SXM2-32GB", "v100"),
        ("NVIDIA L40S", "l40s"),
        ("nvidia_a100", "a100"),
        ("NVIDIA GH200 480GB", None),
        ("NVIDIA L40", None),
        ("NVIDIA RTX A1000", None),
        ("any", None),
    ],
)
def test_a_gpu_is_known_by_the_name_of_its_driver(text: str, name: str | None) -> None:
    assert known_gpu(text) == (None if name is None else GPUS[name])


def test_auto_takes_bfloat16_where_there_are_tensor_cores_for_it_and_graphs_everywhere() -> None:
    assert {name: auto(gpu) for name, gpu in GPUS.items()} == {
        name: Execution("float32" if name == "v100" else "bfloat16", graphs=True) for name in GPUS
    }


MODEL: Any = ("small_cnn", '{"width": 4}', (3, 8, 8), 3)


@pytest.fixture(autouse=True)
def _nothing_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path))
    _forget()
    yield
    _forget()


def _forget() -> None:
    """As a new process."""
    for function in (count_cache.counted, count_cache._folder, count_cache._clear, counting.count_step, counting.count_forward):
        function.cache_clear()


def _no_counting(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("counted again")

    monkeypatch.setattr(counting, "_count", refuse)


@pytest.mark.parametrize("sizes", [{"batch": 2}, {"batch": 2, "meta_batch": 3}, {"images": 2}])
def test_a_later_process_reads_what_was_counted(sizes: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    first = count_cache.counted(*MODEL, **sizes)
    _forget()
    _no_counting(monkeypatch)
    again = count_cache.counted(*MODEL, **sizes)
    assert (again.operations, again.peak_bytes, again.float32_peak_bytes) == (first.operations, first.peak_bytes, first.float32_peak_bytes)


def test_other_arguments_are_counted(tmp_path: Path) -> None:
    different = {count_cache.counted(*MODEL, batch=2).flops, count_cache.counted(*MODEL, batch=4).flops}
    different |= {count_cache.counted("small_cnn", '{"width": 8}', (3, 8, 8), 3, batch=2).flops}
    assert len(different) == len(list(tmp_path.glob("counts/*/*.json"))) == 3


def test_other_code_counts_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count_cache.counted(*MODEL, images=2)
    _forget()
    monkeypatch.setattr(count_cache, "version", lambda package: "0.0")
    count_cache.counted(*MODEL, images=2)
    assert len(list(tmp_path.glob("counts/*"))) == 2


def test_what_cannot_be_read_is_counted_again(tmp_path: Path) -> None:
    first = count_cache.counted(*MODEL, images=2)
    (file,) = tmp_path.glob("counts/*/*.json")
    whole = file.read_bytes()
    for damage in (b"", b"[]", b"{}", whole[: len(whole) // 2], b"\xff"):
        file.write_bytes(damage)
        _forget()
        assert count_cache.counted(*MODEL, images=2).operations == first.operations
        assert file.read_bytes() == whole


def test_without_a_place_for_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path / "file"))
    _forget()
    assert count_cache.counted(*MODEL, images=2).flops > 0


def test_a_network_from_elsewhere_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = registry.get("model", "small_cnn")

    def build(*given: Any, **named: Any) -> Any:
        return known.build(*given, **named)

    monkeypatch.setitem(registry.choices("model"), "small_cnn", registry.Choice("model", "small_cnn", known.config, build))
    assert count_cache.counted(*MODEL, images=2).flops > 0
    assert list(tmp_path.iterdir()) == []


def test_what_old_code_has_left_goes(tmp_path: Path) -> None:
    old, young = tmp_path / "counts" / "old", tmp_path / "counts" / "young"
    for folder in (old, young):
        folder.mkdir(parents=True)
    os.utime(old, (0, time.time() - 40 * 24 * 3600))
    count_cache.counted(*MODEL, images=2)
    assert young.is_dir()
    assert not old.exists()
