"""One run, from its settings to a finished run folder; or back into an unfinished one."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import yaml
from torch import nn

from repro import checkpoint, registry
from repro.allocator import keep_freed_memory
from repro.config import Config, ExecConfig
from repro.data.prepare import RunData, prepare
from repro.determinism import Stream, make_deterministic, seeded
from repro.errors import Interrupted, UserError
from repro.execution import prepare_model
from repro.files import read_json, write_bytes, write_json, write_text
from repro.identity import check_same, identity_document, run_id
from repro.inputs import Inputs, open_inputs
from repro.labels import Layout, Recorder
from repro.loop import Training
from repro.methods.base import Context, Method
from repro.metrics import is_headline
from repro.monitor import Monitor
from repro.optimizer import make_optimizer
from repro.provenance import provenance
from repro.rundir import RunFolder, Stopwatch, read_state
from repro.step import steps_per_epoch
from repro.tracker import track

logger = logging.getLogger(__name__)

#: Signals that ask a run to save its state and stop: SLURM's preemption, its warning before a time limit, and Ctrl-C.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)


def execute(config: Config) -> Path:
    """Train the run of ``config``, or what is left of it, and return its folder.

    A finished run is left alone. An unfinished one goes on from its last checkpoint and ends in the same bits as if it had never
    stopped.

    Raises:
        UserError: a mistake of the user, a full or read-only disk, a folder of another run, a dataset that is missing or corrupt.
        Interrupted: a signal asked the run to stop; its state is saved.
    """
    name = run_id(config)
    folder = Path(config.paths.runs) / name
    _check_folder(folder, config)
    if read_state(folder) == "done":
        logger.info("%s is done already.", name)
        return folder
    inputs = open_inputs(config)
    try:
        with RunFolder(folder).hold(heartbeat_s=config.exec.heartbeat_s, epochs=config.optim.epochs) as held:
            # Another process may have finished it while this one waited for the lock.
            _check_folder(folder, config)
            _train_held(config, name, held, inputs)
    except OSError as error:
        where = error.filename or folder
        raise UserError(
            f"{where}: {error.strerror or error}. What was saved before is intact; make room (or the folder writable) and start the same "
            "command again to go on."
        ) from error
    return folder


def _check_folder(folder: Path, config: Config) -> None:
    if (folder / "identity.json").exists():
        check_same(folder, config)
    elif folder.is_dir() and any(not _left_by_a_start(path.name) for path in folder.iterdir()):
        raise UserError(
            f"{folder} exists but has no identity.json, so it is no run folder of ours. Move it away, or set paths.runs elsewhere."
        )


def _left_by_a_start(name: str) -> bool:
    """Say whether a run that was killed as it began may have left a file of that name; half-written ones are among them."""
    return name in (".lock", "lease.json", "status.json") or (name.startswith(".") and name.endswith(".tmp"))


def _train_held(config: Config, name: str, held: RunFolder, inputs: Inputs) -> None:
    watch = Stopwatch()
    device = choose_device(config.exec.device)
    try:
        with _stop_requests() as requests:
            training = _train(config, name, held, device, inputs, requests)
    except Interrupted as stop:
        held.add_cost(wall_s=watch.seconds(), on_gpu=device.type == "cuda", peak_gib=_peak_gib(device))
        held.end("preempted", error=f"stopped by signal {stop.signal_number}; the same command goes on")
        raise
    except KeyboardInterrupt:
        held.end("preempted", error="stopped at once by a second Ctrl-C; the same command goes on from the last checkpoint")
        raise
    except BaseException as error:
        lines = traceback.format_exc().splitlines()
        # On a full disk even this note may fail; the error itself matters more.
        try:
            held.end("failed", error=f"{type(error).__name__}: {error}", traceback_tail=lines[-20:])
        except OSError:
            logger.warning("The failure could not be noted in %s.", held.path / "status.json")
        raise
    held.add_cost(wall_s=watch.seconds(), on_gpu=device.type == "cuda", peak_gib=_peak_gib(device))
    held.progress(training.epoch)
    held.end("done")
    checkpoint.remove(held.path)


def _train(config: Config, name: str, held: RunFolder, device: torch.device, inputs: Inputs, requests: list[int]) -> Training:
    folder = held.path
    make_deterministic(threads=config.exec.threads, allow_tf32=config.exec.allow_tf32)
    data = prepare(config, device)
    # Only now: what reading the files took goes back to the system.
    keep_freed_memory()
    write_text(folder / "config.yaml", yaml.safe_dump(dataclasses.asdict(config), sort_keys=True))
    write_json(folder / "identity.json", identity_document(config))
    write_json(folder / "provenance.json", _provenance(folder, config.exec, device, data, inputs))
    training = build(config, data, device, folder, inputs)
    state = checkpoint.load(folder, name)
    completed = None
    if state is not None:
        training.load_state(state)
        completed = training.epoch
        logger.info("%s goes on after %d of %d epochs.", name, training.epoch, config.optim.epochs)
    if training.recorder:
        training.recorder.begin(data.train_indices, completed_epochs=training.epoch)
    rows = held.open_metrics(up_to_epoch=completed)
    with track(config, name, folder) as tracker:
        for row in rows:
            tracker.log(row)
        monitor = Monitor(config, name, held, tracker, rows, requests)
        training.run(monitor)
        monitor.close()
        results = summarize(monitor.rows, diverged=training.diverged)
        held.check_lease()
        if config.exec.save_model:
            _save_model(folder, training)
        write_json(folder / "final.json", results)
        tracker.conclude(results)
    return training


def _provenance(folder: Path, execution: ExecConfig, device: torch.device, data: RunData, inputs: Inputs) -> dict[str, Any]:
    """Return the provenance of this attempt, and the states of the code that earlier attempts ran, where they differ."""
    present = provenance(device, data.hashes, effective_noise_rate=data.effective_noise_rate)
    try:
        before = read_json(folder / "provenance.json")
        earlier = [state for state in [*before.get("earlier_git", []), before["git"]] if state != present["git"]]
    except (FileNotFoundError, ValueError, KeyError):
        earlier = []
    read = {run.run_id: run.final_sha256 for run in inputs.all}
    changing_numbers = ("precision", "allow_tf32", "channels_last", "compile", "cuda_graphs")
    present["execution"] = {name: getattr(execution, name) for name in changing_numbers}
    return present | ({"earlier_git": earlier} if earlier else {}) | ({"inputs": read} if read else {})


def build(config: Config, data: RunData, device: torch.device, folder: Path, inputs: Inputs | None = None) -> Training:
    """Make the model, its optimiser, the method and the recorder of a run, all at their start."""

    def make_network(*stream: str) -> nn.Module:
        with seeded(Stream(config.seed, *stream)):
            choice = registry.get("model", config.model.name)
            made: nn.Module = choice.build(config.model, num_classes=data.num_classes, image_shape=data.image_shape)
            return prepare_model(made, config.exec, device)

    model = make_network("init")
    noise = registry.get("noise", config.noise.name)
    context = Context(
        num_classes=data.num_classes,
        observed=data.observed,
        device=device,
        seed=config.seed,
        epochs=config.optim.epochs,
        steps_per_epoch=steps_per_epoch(config.optim, len(data.observed)),
        inputs=inputs or Inputs(),
        data=data,
        transition=torch.from_numpy(noise.transition(config.noise, data.num_classes)).to(torch.get_default_dtype()).to(device),
        optim=config.optim,
        make_network=lambda name: make_network("init", name),
    )
    method: Method = registry.get("method", config.method.name).build(config.method, context)
    training = Training(config, data, model, make_optimizer(model, config.optim), method, recorder=None)
    if method.trajectory is not None and config.trajectory.record:
        rows = len(data.observed) if method.trajectory == "instance" else training.num_batches
        layout = Layout(
            kind=method.trajectory, epochs=config.optim.epochs, rows=rows, num_classes=data.num_classes, precision=config.trajectory.dtype
        )
        training.recorder = Recorder(folder / "labels", layout, method, when=config.trajectory.when)
    return training


def choose_device(name: str) -> torch.device:
    """Return the device that ``exec.device`` names; ``auto`` is CUDA if there is one, else the CPU.

    Raises:
        UserError: the named device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there[name]:
        present = ", ".join(kind for kind, found in there.items() if found)
        raise UserError(f"exec.device={name}: there is no such device here, or PyTorch cannot use it. Present: {present}.")
    return torch.device(name)


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """Collect the stop signals that arrive; a second Ctrl-C stops at once, with the state of the last checkpoint."""
    received: list[int] = []

    owner = os.getpid()

    def note(number: int, frame: FrameType | None) -> None:
        # A forked child inherits this handler; what is sent to it is not meant for the run.
        if os.getpid() != owner:
            return
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)
        logger.info("signal %s: saving and stopping after this step.", signal.Signals(number).name)

    try:
        before = {number: signal.signal(number, note) for number in STOP_SIGNALS}
    except ValueError:  # not the main thread: whoever started the thread handles signals
        yield received
        return
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def summarize(rows: list[dict[str, Any]], *, diverged: bool) -> dict[str, dict[str, float]]:
    """Return the results of a run from the rows of its epochs: what ``final.json`` holds.

    For each headline metric: its value after the ``last`` epoch, at the epoch of the best validation accuracy (``best_val``) and at
    the epoch of the best test accuracy (``best_test``, which looks at the test set and is for comparison with papers that do so).
    Of equal epochs the first counts; the untrained epoch 0 never does. A diverged run has NaN for its last epoch.
    """
    trained = [row for row in rows if row["epoch"] > 0]
    picked = {"last": trained[-1]}
    for rule, metric in (("best_val", "val/accuracy"), ("best_test", "test/accuracy")):
        scored = [row for row in trained if math.isfinite(float(row.get(metric, math.nan)))]
        if scored:
            picked[rule] = max(scored, key=lambda row: (float(row[metric]), -row["epoch"]))
    names = sorted(name for name in trained[-1] if is_headline(name))
    results = {name: {rule: float(row.get(name, math.nan)) for rule, row in picked.items()} for name in names}
    if diverged:
        for values in results.values():
            values["last"] = math.nan
    return results | {"epoch": {rule: float(row["epoch"]) for rule, row in picked.items()}}


def _save_model(folder: Path, training: Training) -> None:
    from safetensors.torch import save

    state = {name: tensor.detach().cpu().contiguous() for name, tensor in training.model.state_dict().items()}
    write_bytes(folder / "model.safetensors", save(state))


def _peak_gib(device: torch.device) -> float:
    """Return the highest memory of this process: of the GPU if it uses one, else resident on the host."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / 2**30
    try:
        import resource
    except ImportError:  # Windows has none
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts KiB, macOS bytes.
    return peak / (2**30 if sys.platform == "darwin" else 2**20)
