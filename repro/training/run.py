"""One run, from its settings to a finished run folder; or back into an unfinished one."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import signal
import sys
import time
import traceback
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save

from repro.command import stop_signals
from repro.config.identity import check_same, identity_document, run_id, scientific_fields
from repro.config.schema import Config
from repro.data.prepare import RunData, prepare
from repro.data.staging import staged
from repro.errors import Interrupted, UserError, first_of, shown
from repro.files import peek
from repro.randomness import make_deterministic
from repro.runs import checkpoint, recorded
from repro.runs.code import Code
from repro.runs.folder import FinishedError, RunFolder
from repro.runs.inputs import Inputs, open_inputs
from repro.runs.manifest import open_manifest
from repro.runs.provenance import attempts, device_name, facts, presets_of, provenance
from repro.runs.state import REMEDY, damage, read_state
from repro.tracker import track
from repro.training.allocator import keep_freed_memory
from repro.training.build import build, summarize
from repro.training.guard import choose
from repro.training.loop import Training
from repro.training.monitor import Monitor

logger = logging.getLogger(__name__)

#: The same text from the C library, where PyYAML has it, in a tenth of the time.
_YAML = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

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
    if config.exec.debug:
        raise UserError("exec.debug=true keeps no results, so only python -m repro takes it. Take it out of what this run is started with.")
    name = run_id(config)
    folder = Path(config.paths.runs) / name
    try:
        _check_folder(folder, config)
        # The code that this process has imported.
        read = [*config.inputs.labels, *filter(None, [config.inputs.teacher])]
        code = recorded.run_code(scientific_fields(config), folder.parent, inputs=read, load=True)
        if code.edited:
            logger.warning("%s: edited since this process began, and used as it was then: %s.", name, first_of(code.edited))
        recorded.settle(folder, code, config.exec.on_changed_code)
        if _is_done(folder):
            logger.info("%s is done already.", name)
            return folder
        inputs = open_inputs(config)
        recorded.warn_of_inputs(inputs.all)
    except OSError as error:
        raise UserError(
            f"{shown(str(error.filename or folder))}: {error.strerror or error}. Set paths.runs or $REPRO_RUNS to a folder you can write."
        ) from error
    try:
        with RunFolder(folder).hold(heartbeat_s=config.exec.heartbeat_s, epochs=config.optim.epochs) as held:
            # Another process may have finished it while this one waited for the lock.
            _check_folder(folder, config)
            _train_held(config, name, held, inputs, code)
    except FinishedError:
        logger.info("%s was finished by another process meanwhile.", name)
    except OSError as error:
        where = error.filename or folder
        raise UserError(
            f"{where}: {error.strerror or error}. What was saved before is intact; make room (or the folder writable) and start the same "
            "command again to resume."
        ) from error
    return folder


def _is_done(folder: Path) -> bool:
    """Say whether a folder holds the finished run, every file as the run wrote it; refuse a damaged one."""
    if problem := damage(folder):
        raise UserError(problem)
    if read_state(folder) != "done":
        return False
    if problems := open_manifest(folder).misfits():
        raise UserError(f"{folder} is not what the run wrote: {'; '.join(problems)}. {REMEDY}")
    # A kill may have come between its last word and this. Results that can only be read are left as they are.
    with suppress(OSError):
        checkpoint.remove(folder)
    return True


def _check_folder(folder: Path, config: Config) -> None:
    # What a run that was killed as it began may have left, half-written files among it.
    known = (".lock", ".lock.holder", "lease.json", "status.json")
    if (folder / "identity.json").exists():
        check_same(folder, config)
    elif folder.is_dir() and any(path.name not in known and not path.match(".*.tmp") for path in folder.iterdir()):
        raise UserError(
            f"{folder} exists but has no identity.json, so it is no run folder of ours. Move it away, or set paths.runs elsewhere."
        )


def _train_held(config: Config, name: str, held: RunFolder, inputs: Inputs, code: Code) -> None:
    began = time.monotonic()

    def note_cost() -> None:
        held.add_cost(wall_s=time.monotonic() - began, on_gpu=device.type == "cuda", peak_gib=_peak_gib(device))

    try:
        device = choose_device(config.exec.device)
        if device.type == "cuda":
            held.use_gpu()
        with _stop_requests() as requests:
            training = _train(config, name, held, device, inputs, code, requests)
    except Interrupted as stop:
        note_cost()
        held.end("preempted", error=f"stopped by signal {stop.signal_number}; the same command resumes")
        raise
    except KeyboardInterrupt:
        held.end("preempted", error="stopped at once by a second Ctrl-C; the same command resumes from the last checkpoint")
        raise
    except UserError as error:
        if not (held.path / "identity.json").exists():
            # Nothing was trained and nothing is known of it, such as for missing data: it is as if it had never been called.
            held.forget()
        else:
            held.end("failed", error=f"{type(error).__name__}: {error}")
        raise
    except BaseException as error:
        lines = traceback.format_exc().splitlines()
        # On a full disk even this note may fail; the error itself matters more.
        try:
            held.end("failed", error=f"{type(error).__name__}: {error}", traceback_tail=lines[-20:])
        except OSError:
            logger.warning("The failure could not be noted in %s.", held.path / "status.json")
        raise
    note_cost()
    held.progress(training.epoch)
    held.end("done", entries=training.recorder.entries() if training.recorder else {})
    checkpoint.remove(held.path)


def _train(config: Config, name: str, held: RunFolder, device: torch.device, inputs: Inputs, code: Code, requests: list[int]) -> Training:
    folder = held.path
    make_deterministic(threads=config.exec.threads, allow_tf32=config.exec.allow_tf32)
    data = prepare(staged(config), device)
    found = peek(folder / "provenance.json")
    stored: dict[str, Any] = found if isinstance(found, dict) else {}
    # Of the attempts that this one goes on from.
    before = stored if recorded.has_results(folder) else {}
    execution, compared = choose(config, device, before.get("execution"), lambda changed: build(changed, data, device, folder, inputs))
    config = dataclasses.replace(config, exec=execution)
    make_deterministic(threads=execution.threads, allow_tf32=execution.allow_tf32)
    # Only now: what reading the files took goes back to the system.
    keep_freed_memory()
    held.write("config.yaml", yaml.dump(dataclasses.asdict(config), Dumper=_YAML, sort_keys=True).encode())
    held.write_json("identity.json", identity_document(config))
    recorded.record(folder, code)
    where = {name: getattr(held.status, name) for name in ("attempt", "host", "slurm_job", "node", "gpu", "started")}
    here = {name: value for name, value in where.items() if value is not None} | {"device": device_name(device)}
    origin = _provenance(before, name, config, device, data, inputs, code)
    held.write_json("provenance.json", origin | {"hosts": [*stored.get("hosts", []), here]})
    training = build(config, data, device, folder, inputs)
    state = checkpoint.load(held.manifest)
    rows: list[dict[str, Any]] = []
    if state is not None:
        training.load_state(state)
        rows = [json.loads(line) for line in state["rows"]]
        logger.info("%s resumes after %d of %d epochs.", name, training.epoch, config.optim.epochs)
    if training.recorder:
        training.recorder.begin(data.train_indices, completed_epochs=training.epoch)
    held.open_metrics(rows)
    with track(config, name, folder) as tracker:
        for row in rows:
            tracker.log(row)
        monitor = Monitor(config, name, held, tracker, rows, requests)
        training.run(monitor, first=compared)
        monitor.close()
        results = summarize(monitor.rows, diverged=training.diverged)
        held.check_lease()
        if config.exec.save_model:
            state = training.model.state_dict()
            held.write("model.safetensors", save({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}))
        held.write_json("final.json", results)
        tracker.conclude()
    return training


def _provenance(
    before: dict[str, Any], name: str, config: Config, device: torch.device, data: RunData, inputs: Inputs, code: Code
) -> dict[str, Any]:
    present = provenance(device, data.hashes, effective_noise_rate=data.effective_noise_rate, presets=presets_of(config))
    earlier = [state for state in [*before.get("earlier_git", []), *filter(None, [before.get("git")])] if state != present["git"]]
    read = {run.run_id: run.manifest.entry("final.json").sha256 for run in inputs.all}
    changing_numbers = ("precision", "label_gradient", "allow_tf32", "channels_last", "compile", "cuda_graphs")
    present["execution"] = {name: getattr(config.exec, name) for name in changing_numbers}
    present["code"] = code.sha256
    found = facts(device, present["execution"])
    present["attempts"] = attempts(before, found, name)
    return present | ({"earlier_git": earlier} if earlier else {}) | ({"inputs": read} if read else {})


def choose_device(name: str) -> torch.device:
    """Return the device that ``exec.device`` names; ``auto`` is CUDA if there is one, else the CPU.

    Raises:
        UserError: the named device is not there, or this process was given GPUs and cannot use them.
    """
    if name == "auto":
        given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        if not torch.cuda.is_available() and given not in ("", "-1", "NoDevFiles"):
            raise UserError(
                f"exec.device=auto: this process was given GPUs (CUDA_VISIBLE_DEVICES={shown(given)}), but PyTorch cannot use them: there "
                "is no driver, one too old for this PyTorch, or a PyTorch without CUDA. exec.device=cpu trains on the CPU all the same."
            )
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there[name]:
        present = ", ".join(kind for kind, found in there.items() if found)
        raise UserError(f"exec.device={name}: there is no such device here, or PyTorch cannot use it. Present: {present}.")
    return torch.device(name)


def _stop_requests() -> AbstractContextManager[list[int]]:
    """Collect the stop signals that arrive; a second Ctrl-C stops at once, with the state of the last checkpoint."""

    def say(number: int, earlier: list[int]) -> None:
        if earlier and number == signal.SIGINT:
            raise KeyboardInterrupt
        logger.info("signal %s: saving and stopping after this step.", signal.Signals(number).name)

    return stop_signals(STOP_SIGNALS, say)


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
