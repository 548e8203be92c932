"""``python -m repro.doctor``: checks in minutes that this machine trains rightly, and how fast, in the order of what breaks most often.

It stops at the first thing that is wrong, with the remedy, and writes what it found as ``doctor.json`` and ``doctor.md``.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from repro.command import exit_code_of
from repro.config.compose import compose
from repro.config.schema import Config
from repro.data.prepare import prepare
from repro.engine.compiled import missing_compiler
from repro.engine.execution import runs_on
from repro.engine.lookahead import coefficient_gradient
from repro.errors import UserError
from repro.files import write_json, write_text
from repro.measure import CLASSES, double_backward, in_turns, made_images
from repro.randomness import make_deterministic
from repro.runs.provenance import device_name, facts, versions
from repro.training import guard
from repro.training.build import build
from repro.training.run import choose_device

#: Largest relative distance of the engine's gradient from automatic differentiation through the look-ahead step.
SAME_GRADIENT = {torch.float64: 1e-9, torch.float32: 1e-2}

#: The golden tests that compare numbers with automatic differentiation and with golden trajectories.
GOLDEN = ("test_lookahead.py", "test_traces.py")


@dataclass(frozen=True)
class Finding:
    """What one check found: whether it is as it must be, in words and in numbers, and what to do where it is not."""

    check: str
    good: bool
    text: str
    remedy: str = ""
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sizes:
    """What is measured: the width of ResNet18, images of a batch and of a meta batch, steps."""

    width: int = 64
    batch: int = 128
    meta_batch: int = 256
    steps: int = 20


#: Seconds instead of minutes on a CPU.
SMALL = Sizes(width=8, batch=16, meta_batch=32, steps=3)


def check_versions(device: torch.device, sizes: Sizes) -> Finding:
    """Name what numbers and speed depend on."""
    found = versions() | {key: value for key, value in facts(device, {}).items() if key in ("gpu", "cuda", "cudnn", "driver")}
    return Finding("versions", True, ", ".join(f"{name} {version}" for name, version in found.items()), values=found)


def check_device(device: torch.device, sizes: Sizes) -> Finding:
    """Multiply two matrices on the device and compare the product with the CPU's; PyTorch must have kernels for the GPU."""
    text = device_name(device)
    if device.type == "cuda":
        capability, built = torch.cuda.get_device_capability(device), torch.cuda.get_arch_list()
        text += f", {torch.cuda.get_device_properties(device).total_memory / 2**30:.0f} GiB, sm_{capability[0]}{capability[1]}"
        if not runs_on(capability, built):
            remedy = f"install a PyTorch that is built for it; this one is for {' '.join(built)}"
            return Finding("device", False, f"{text}: PyTorch has no kernels for it", remedy)
    first, second = torch.randn(2, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    same = torch.allclose((first.to(device) @ second.to(device)).cpu(), first @ second)
    return Finding("device", same, f"{text}: a product of matrices is {'right' if same else 'wrong'}", "another driver or another PyTorch")


def check_compiler(device: torch.device, sizes: Sizes) -> Finding:
    """Look for the compiler that ``exec.compile`` needs; without one it is the only thing that does not work."""
    missing = missing_compiler(device.type)
    said = "there is one" if missing is None else f"{missing} Until then exec.compile=true and exec=fast are refused."
    return Finding("compiler", True, said)


def check_gradient(device: torch.device, sizes: Sizes) -> Finding:
    """Compare the engine's gradient with automatic differentiation through the look-ahead step."""
    values, good = {}, True
    for dtype, bound in SAME_GRADIENT.items():
        model, problem = gradient_problem(device, SMALL, dtype)
        found, exact = (taken(model, *problem, 0.1) for taken in (coefficient_gradient, double_backward))
        name = str(dtype).removeprefix("torch.")
        values[name] = float((found - exact).norm() / exact.norm())
        good = good and values[name] <= bound
    text = ", ".join(f"{name} {value:.1e}" for name, value in values.items())
    remedy = "train nothing here: report this page"
    return Finding("gradient", good, f"relative distance from automatic differentiation: {text}", remedy, values)


def check_golden(device: torch.device, sizes: Sizes) -> Finding:
    """Run the golden tests, where they are: in a checkout, with pytest."""
    folder = Path(__file__).resolve().parents[1] / "tests" / "golden"
    if not folder.is_dir() or importlib.util.find_spec("pytest") is None:
        return Finding("golden tests", True, "not run: they are in a checkout, and need pytest (pip install -e '.[dev]')")
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *(str(folder / name) for name in GOLDEN)]
    ended = subprocess.run(command, env={**os.environ, "REPRO_TEST_DEVICE": device.type}, capture_output=True, text=True, check=False)
    said = (ended.stdout.strip() or ended.stderr.strip()).splitlines()
    remedy = f"train nothing here; see what fails: REPRO_TEST_DEVICE={device.type} python -m pytest tests/golden"
    return Finding("golden tests", ended.returncode == 0, said[-1] if said else "pytest says nothing", remedy)


def check_resume(device: torch.device, sizes: Sizes) -> Finding:
    """Kill a run of two epochs, go on with it, and compare its bytes with those of an undisturbed one."""
    settings = ["method=instance_labels", "dataset=digits", "seed=0", "optim.epochs=2", "tracker=none", f"exec.device={device.type}"]
    command = [sys.executable, "-m", "repro", *settings, "exec=audit", "exec.checkpoint_interval_s=0"]
    remedy = "the same bits again need the same device, driver and libraries throughout; the messages of the runs say more"
    with tempfile.TemporaryDirectory() as name:
        results = []
        for folder in (Path(name) / "killed", Path(name) / "undisturbed"):
            call = [*command, f"paths.runs={folder}"]
            if folder.name == "killed":
                process = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                while process.poll() is None and not list(folder.glob("*/checkpoint.pt")):
                    time.sleep(0.01)
                process.send_signal(signal.SIGKILL)
                if process.wait() == 0:
                    return Finding("resume", False, "the run was over before it could be killed", "try again; nothing is known to be wrong")
            ended = subprocess.run(call, capture_output=True, text=True, check=False)
            if ended.returncode != 0:
                return Finding("resume", False, f"the run failed: {ended.stderr.strip().splitlines()[-1:]}", remedy)
            results.append({file: path.read_bytes() for file in RESULTS for path in folder.glob(f"*/{file}")})
    different = [file for file in RESULTS if results[0].get(file) != results[1].get(file) or file not in results[0]]
    text = f"other bytes in {', '.join(different)}" if different else "a killed run that went on has the bytes of an undisturbed one"
    return Finding("resume", not different, text, remedy)


#: What a resume must not change.
RESULTS = ("final.json", "model.safetensors", "labels/instances.f16")


def check_guard(device: torch.device, sizes: Sizes) -> Finding:
    """Take the first step in every way of execution that is fast on the device, and say which of them ``exec=auto`` would take."""
    config, make = training_problem(device, sizes, "instance_labels")
    ways = ways_on(device) or {"bfloat16 on this CPU": {"precision": "bfloat16"}}
    exact = guard.first_step(replace(config, exec=replace(config.exec, precision="float32")), make)
    values, good = {}, True
    for name, way in ways.items():
        moved = guard.first_step(replace(config, exec=replace(config.exec, **way)), make)
        values[name] = guard.distance(moved, exact)
        # Float32 in another order must be close; what rounds more is only taken where it is.
        good = good and (not name.startswith("float32") or guard.close(values[name]))
    apart = {name: f"labels {found['guard/labels']:.1e}, parameters {found['guard/parameters']:.1e}" for name, found in values.items()}
    text = "; ".join(f"{name}: {said}" for name, said in apart.items())
    chosen = next((name for name in ways if guard.close(values[name])), "float32") if device.type == "cuda" else "float32"
    return Finding("first step", good, f"relative distance from float32: {text}. exec=auto takes {chosen}.", "use exec=audit", values)


def check_speed(device: torch.device, sizes: Sizes) -> Finding:
    """Measure steps of ResNet18, beside the GPU's own products and beside double backward."""
    from torch.utils.flop_counter import FlopCounterMode

    values: dict[str, Any] = {}
    for name, way in (ways_on(device) or {"float32": {"precision": "float32"}}).items():
        fraction = _products(device, way, sizes)
        for method in ("one_hot", "instance_labels"):
            config, make = training_problem(device, sizes, method)
            config = replace(config, exec=replace(config.exec, **way))
            make_deterministic(threads=None, allow_tf32=config.exec.allow_tf32)
            training = make(config)
            plan = training.begin_epoch()
            with FlopCounterMode(display=False) as counter:  # of a step that is no graph yet
                make(replace(config, exec=replace(config.exec, cuda_graphs=False))).take_step(plan)
            seconds = _median(partial(training.take_step, plan), device, sizes.steps)
            rate = counter.get_total_flops() / seconds
            values[f"{name}, {method}"] = {"ms": 1e3 * seconds, "TFLOP/s": rate / 1e12, "of its products": rate / fraction}
    make_deterministic(threads=None, allow_tf32=False)
    model, problem = gradient_problem(device, sizes, torch.float32)
    lines = [f"{name} {found['ms']:.1f} ms ({found['of its products']:.0%} of its products)" for name, found in values.items()]
    takers = (partial(taken, model, *problem, 0.1) for taken in (coefficient_gradient, double_backward))
    ours, theirs = (1e3 * _median(take, device, max(3, sizes.steps // 4)) for take in takers)
    values["gradient"] = {"ms": ours, "double backward ms": theirs}
    lines.append(f"gradient {ours:.1f} ms, by double backward {theirs:.1f} ms")
    return Finding("speed", True, "; ".join(lines), values=values)


def ways_on(device: torch.device) -> dict[str, dict[str, Any]]:
    """Return the ways of execution that ``exec=auto`` may take on a GPU, by name; none on a CPU."""
    return {name: guard.CANDIDATES[name] for name in guard.candidates_on(device)} if device.type == "cuda" else {}


Check = Callable[[torch.device, Sizes], Finding]

#: In the order of what breaks most often.
CHECKS: tuple[Check, ...] = (
    *(check_versions, check_device, check_compiler, check_gradient),
    *(check_resume, check_guard, check_speed, check_golden),
)


def training_problem(device: torch.device, sizes: Sizes, method: str) -> tuple[Config, guard.Make]:
    """Return the settings of a run of ResNet18 on made images, and what makes its training."""
    held_out = -(-max(sizes.meta_batch, CLASSES) // CLASSES) * CLASSES
    settings = ["dataset=cifar100", "model=resnet18", f"model.width={sizes.width}", f"method={method}", "exec=audit", "seed=0"]
    settings += [f"optim.batch_size={sizes.batch}", f"meta.batch_size={sizes.meta_batch}", f"split.meta_size={held_out}"]
    config = compose([*settings, "tracker=none", "trajectory.record=false"])
    data = prepare(config, device, made_images(held_out + -(-8 * sizes.batch // CLASSES) * CLASSES))
    return config, lambda asked: build(asked, data, device, Path())


def gradient_problem(device: torch.device, sizes: Sizes, dtype: torch.dtype) -> tuple[nn.Module, tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Return ResNet18 and the inputs, coefficients, meta inputs and meta targets of a look-ahead step."""
    config, make = training_problem(device, sizes, "one_hot")
    model = make(config).model.to(dtype)
    numbers = torch.Generator().manual_seed(0)
    inputs, meta = (torch.randn(count, 3, 32, 32, generator=numbers, dtype=torch.float64) for count in (sizes.batch, sizes.meta_batch))
    coefficients = torch.rand(sizes.batch, CLASSES, generator=numbers, dtype=torch.float64) / sizes.batch
    targets = torch.randint(0, CLASSES, (sizes.meta_batch,), generator=numbers)
    return model, (inputs.to(device, dtype), coefficients.to(device, dtype), meta.to(device, dtype), targets.to(device))


def _median(call: Callable[[], Any], device: torch.device, count: int) -> float:
    for _ in range(3):  # things are made ready
        call()
    return in_turns({"": call}, repeats=count, device=device)[""].median


def _products(device: torch.device, way: dict[str, Any], sizes: Sizes) -> float:
    size = 4096 if device.type == "cuda" else 512
    make_deterministic(threads=None, allow_tf32=bool(way.get("allow_tf32")))
    dtype = torch.bfloat16 if way["precision"] == "bfloat16" else torch.float32
    first, second = torch.ones(2, size, size, device=device, dtype=dtype)
    return 2.0 * size**3 / _median(lambda: first @ second, device, sizes.steps)


def examine(device: torch.device, sizes: Sizes) -> Iterator[Finding]:
    """Yield what each check finds, up to the first that is not as it must be."""
    for check in CHECKS:
        try:
            finding = check(device, sizes)
        except (RuntimeError, OSError) as error:
            said = f"{type(error).__name__}: {error}".partition("\n")[0]
            finding = Finding(check.__name__.removeprefix("check_"), False, said, "see the message; exec.device=cpu trains without")
        yield finding
        if not finding.good:
            return


def page(findings: Sequence[Finding]) -> str:
    """Return the findings as Markdown."""
    lines = ["# What `python -m repro.doctor` found", "", "| check | | |", "|---|---|---|"]
    for one in findings:
        lines.append(f"| {one.check} | {'good' if one.good else 'BAD'} | {one.text}{'' if one.good else f' **{one.remedy}**'} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 1 where something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m repro.doctor", description=__doc__)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--out", default="doctor", metavar="FOLDER", help="where the two pages go (default: %(default)s)")
    options = parser.parse_args(arguments)

    def command() -> int:
        device = choose_device(options.device)
        out = Path(options.out)
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--out={out}: {error.strerror or error}") from error
        findings = []
        for finding in examine(device, SMALL if device.type == "cpu" else Sizes()):
            findings.append(finding)
            print(f"{'good' if finding.good else 'BAD '}  {finding.check}: {finding.text}", flush=True)
            if not finding.good:
                print(f"      -> {finding.remedy}", flush=True)
            write_json(out / "doctor.json", [asdict(one) for one in findings])
            write_text(out / "doctor.md", page(findings))
        print(f"written: {out / 'doctor.md'} and {out / 'doctor.json'}")
        return 0 if findings[-1].good else 1

    return exit_code_of(command)


if __name__ == "__main__":
    sys.exit(main())
