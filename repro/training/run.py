"""One run, from its settings to a finished run folder; or back into an unfinished one."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import resource
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
import yaml
from safetensors.torch import save

from repro.command import stop_signals
from repro.config import registry
from repro.config.identity import check_same, identity_document, run_id
from repro.config.schema import Config, ExecConfig
from repro.data.prepare import RunData, prepare
from repro.errors import UserError
from repro.files import try_read
from repro.labels import doubt
from repro.randomness import make_deterministic
from repro.runs import checkpoint
from repro.runs.code import differs, settle
from repro.runs.folder import FinishedError, RunFolder
from repro.runs.inputs import Inputs, open_inputs
from repro.runs.manifest import read_bytes, sha256, verify
from repro.runs.provenance import provenance
from repro.runs.state import corruption, read_state
from repro.tracker import track
from repro.training.allocator import keep_freed_memory
from repro.training.build import build, summarize
from repro.training.monitor import Monitor

logger = logging.getLogger(__name__)

#: Signals that ask a run to save its state and stop: SLURM's preemption, its warning before a time limit, and Ctrl-C.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)


def execute(config: Config) -> Path:
    """Train the run of ``config``, or what is left of it, and return its folder.

    A finished run is left alone. An unfinished one resumes from its last checkpoint and ends in the same bits as if it had never stopped.

    Raises:
        UserError: a mistake of the user, a full or read-only disk, a folder of another run, a dataset that is missing or corrupt.
        Interrupted: a signal asked the run to stop; its state is saved.
    """
    if config.exec.debug:
        raise UserError("exec.debug=true keeps no results, so only python -m repro takes it. Take it out of what this run is started with.")
    folder = Path(config.paths.runs) / run_id(config)
    try:
        with stop_signals(STOP_SIGNALS, _received) as requests:
            if (folder / "identity.json").exists():
                check_same(folder, config)
            settle(folder, config.exec.on_changed_code)
            if not _is_done(folder):
                _execute(config, folder, requests)
            # The files of a dataset without a known size are the user's own, and may have been changed since.
            elif registry.get("dataset", config.dataset.name).size is None:
                _check_data(folder, prepare(config, torch.device("cpu")))
    except FinishedError:
        logger.info("%s was finished by another process meanwhile.", folder.name)
    except OSError as error:
        raise UserError(
            f"{error.filename or folder}: {error.strerror or error}. What was saved before is intact. Make room, or set "
            "paths.runs or $REPRO_RUNS to a folder you can write; the same command resumes."
        ) from error
    return folder


def _is_done(folder: Path) -> bool:
    """Say whether a folder holds the finished run, every file as the run wrote it; refuse a corrupted one."""
    if problem := corruption(folder):
        raise UserError(problem)
    if read_state(folder) != "done":
        return False
    if problems := verify(folder):
        raise UserError(
            f"{folder} is not what the run wrote: {'; '.join(problems)}. Put it back from a copy; or move the folder away, and the same "
            "command trains the run again."
        )
    # A kill may have come between its last word and this. Results that can only be read are left as they are.
    with suppress(OSError):
        checkpoint.remove(folder)
    logger.info("%s is done already.", folder.name)
    return True


def _execute(config: Config, path: Path, requests: Sequence[int]) -> None:
    """Train the run; before its folder is made, everything is looked at that may be missing."""
    inputs = open_inputs(config)
    for run in inputs.all:
        if differs(run.folder):
            logger.warning("input %s was made by a different version of the code.", run.run_id)
    device = choose_device(config.exec.device)
    execution = choose_execution(config, device)
    config = dataclasses.replace(config, exec=execution)
    make_deterministic(threads=execution.threads, allow_tf32=execution.allow_tf32)
    data = prepare(config, device)
    _check_data(path, data)
    # Only now: what reading the files took goes back to the system.
    keep_freed_memory()
    folder = RunFolder(
        path,
        heartbeat_s=execution.heartbeat_s,
        epochs=config.optim.epochs,
        on_gpu=device.type == "cuda",
        peak_gib=lambda: _peak_gib(device),
    )
    with folder.acquire():
        _train(config, folder, data, device, inputs, requests)
        folder.finish()
    checkpoint.remove(path)


def _check_data(folder: Path, data: RunData) -> None:
    """Check that what a run was trained on, as far as it is, is what the dataset holds now."""
    before = try_read(folder / "provenance.json", "sha256")
    if before not in (None, data.hashes):
        raise UserError(
            f"{folder} was trained on other images, labels or splits than the dataset has now. Move it away, or set paths.runs to another "
            "folder, to train on those of now."
        )


def _train(config: Config, folder: RunFolder, data: RunData, device: torch.device, inputs: Inputs, requests: Sequence[int]) -> None:
    state = checkpoint.load(folder.path)
    before = (try_read(folder.path / "provenance.json") or {}) if state else {}
    folder.write_json("identity.json", identity_document(config))
    folder.write("config.yaml", yaml.safe_dump(dataclasses.asdict(config)).encode())
    origin = provenance(device, config.exec, before) | {"sha256": data.hashes, "effective_noise_rate": data.effective_noise_rate}
    read = {run.run_id: sha256(read_bytes(run.folder, "final.json")) for run in inputs.all}
    folder.write_json("provenance.json", origin | ({"inputs": read} if read else {}))
    training = build(config, data, device, folder.path, inputs)
    if state is not None:
        training.load_state(state)
        logger.info("%s resumes after %d of %d epochs.", folder.path.name, training.epoch, config.optim.epochs)
    if training.recorder:
        training.recorder.begin(data.train_indices, completed_epochs=training.epoch)
    folder.begin_rows([json.loads(line) for line in state["rows"]] if state else [])
    with track(config, folder.path) as tracker:
        for row in folder.rows:
            tracker.log(row)
        training.run(Monitor(config, folder, tracker, requests))
        if config.exec.save_model:
            weights = training.model.state_dict()
            folder.write("model.safetensors", save({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}))
        results = summarize(folder.rows, diverged=training.diverged)
        if training.predictions:
            content = training.predictions.content(folder.rows)
            folder.write(doubt.FILE, content)
            if not training.diverged:
                measured = doubt.measure(doubt.parse(content), data.true.cpu().numpy())
                results |= {name: {"last": value} for name, value in measured.items()}
        folder.write_json("final.json", results)
        if training.recorder:
            folder.written |= training.recorder.sha256s()
        tracker.conclude()


def choose_device(name: str) -> torch.device:
    """Return the device that ``exec.device`` names; ``auto`` is CUDA if there is one, else the CPU.

    Raises:
        UserError: the named device is not there, or this process was given GPUs and cannot use them.
    """
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if name == "auto" and not torch.cuda.is_available() and given not in ("", "-1", "NoDevFiles"):
        raise UserError(
            f"exec.device=auto: this process was given GPUs (CUDA_VISIBLE_DEVICES={given}), but PyTorch cannot use them. "
            "exec.device=cpu trains on the CPU all the same."
        )
    present = [kind for kind in ("cuda", "cpu", "mps") if kind == "cpu" or getattr(torch, kind).is_available()]
    if name not in ("auto", *present):
        raise UserError(f"exec.device={name}: there is no such device here, or PyTorch cannot use it. Present: {', '.join(present)}.")
    return torch.device(present[0] if name == "auto" else name)


def choose_execution(config: Config, device: torch.device) -> ExecConfig:
    """Return ``config.exec`` with ``precision=auto`` resolved: TensorFloat-32 and CUDA graphs on a GPU, plain float32 elsewhere."""
    if config.exec.precision != "auto":
        return config.exec
    if device.type != "cuda":
        return dataclasses.replace(config.exec, precision="float32")
    # What looks into single steps needs them one operation after another.
    captured = registry.get("method", config.method.name).build.repeatable and not config.trajectory.gradient
    return dataclasses.replace(config.exec, precision="float32", allow_tf32=True, channels_last=True, cuda_graphs=captured)


def _received(number: int, earlier: list[int]) -> None:
    """Say what a stop signal does; a second Ctrl-C stops at once, with the state of the last checkpoint."""
    if earlier and number == signal.SIGINT:
        raise KeyboardInterrupt
    logger.info("signal %s: saving and stopping after this step.", signal.Signals(number).name)


def _peak_gib(device: torch.device) -> float:
    """Return the highest memory of this process: of the GPU if it uses one, else resident on the host."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / 2**30
    # Linux counts KiB, macOS bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
