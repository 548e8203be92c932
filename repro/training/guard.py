"""What ``exec.precision=auto`` chooses: the fastest way of execution whose first step is close enough to that of float32.

The first step of the run that learns is taken twice from the same start and on the same batch, by float32 one operation after another and
by each candidate, the fastest first. What a step moves is compared: the network's parameters, and what the method itself learns, such as
labels, whose movement is their gradient's. The first candidate within :data:`BOUNDS` is taken. The result is kept beside the runs,
for each type of GPU, method and network, so other runs of the kind do not compare again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from repro.config.identity import canonical_json, scientific_fields, step_fields
from repro.config.schema import Config, ExecConfig
from repro.engine.method import Method
from repro.files import peek, write_json
from repro.randomness import make_deterministic
from repro.training.loop import Training

logger = logging.getLogger(__name__)

#: The folder of the results, in that of the runs.
FOLDER = "guard"

#: Largest relative distance from float32 of what the first step moves: of what the method learns, and of the network's parameters.
#: ``docs/execution.md`` has what trainings up to there ended in.
BOUNDS = {"guard/labels": 0.1, "guard/parameters": 0.1}

#: How a run may be executed on a GPU, the fastest first; the last is taken without a question. With TensorFloat-32 or bfloat16 only where
#: the GPU multiplies in them.
CANDIDATES: Mapping[str, dict[str, Any]] = {
    "bfloat16": {"precision": "bfloat16", "allow_tf32": True, "channels_last": True, "cuda_graphs": True},
    "bfloat16, label gradient in TensorFloat-32": {
        **{"precision": "bfloat16", "allow_tf32": True, "channels_last": True, "cuda_graphs": True},
        "label_gradient": "float32",
    },
    "TensorFloat-32": {"precision": "float32", "allow_tf32": True, "channels_last": True, "cuda_graphs": True},
    "float32": {"precision": "float32", "cuda_graphs": True},
    "float32, one operation after another": {"precision": "float32"},
}

#: Makes a training at its start, with the settings given.
Make = Callable[[Config], Training]


def choose(config: Config, device: torch.device, earlier: Mapping[str, Any] | None, make: Make) -> tuple[ExecConfig, dict[str, float]]:
    """Return how the run of ``config`` is executed on ``device``, and what was measured for it now (``guard/...``, if anything).

    It goes on as it was executed ``earlier``, before it was interrupted.
    """
    execution = config.exec
    if execution.precision != "auto":
        return execution, {}
    if device.type != "cuda":
        return dataclasses.replace(execution, precision="float32"), {}
    if earlier is not None:
        return dataclasses.replace(execution, **{name: earlier[name] for name in earlier if hasattr(execution, name)}), {}
    # What looks into single steps needs them one operation after another.
    candidates = list(CANDIDATES)[-1:] if config.trajectory.gradient else candidates_on(device)
    return compared(config, candidates, Path(config.paths.runs) / FOLDER, torch.cuda.get_device_name(device), make)


def candidates_on(device: torch.device) -> list[str]:
    """Return the :data:`CANDIDATES` for the GPU ``device``: with bfloat16 and TensorFloat-32 from compute capability 8.0 on."""
    multiplies = torch.cuda.get_device_capability(device) >= (8, 0)
    return [name for name, way in CANDIDATES.items() if multiplies or not (way.get("allow_tf32") or way["precision"] == "bfloat16")]


def close(distances: Mapping[str, float]) -> bool:
    """Say whether what :func:`distance` returned is within :data:`BOUNDS`."""
    return all(distances[name] <= bound for name, bound in BOUNDS.items())


def compared(config: Config, candidates: Sequence[str], folder: Path, gpu: str, make: Make) -> tuple[ExecConfig, dict[str, float]]:
    """Return the first of ``candidates`` within the bounds and its distances, from ``folder`` where they are known."""
    kind = {
        "gpu": gpu,
        "torch": torch.__version__,
        "candidates": list(candidates),
        "bounds": BOUNDS,
        "run": step_fields(scientific_fields(config)),
    }
    digest = hashlib.sha256(canonical_json(kind).encode()).hexdigest()[:12]
    path = folder / f"{config.method.name}-{config.model.name}-{digest}.json"
    chosen = peek(path, "chosen")
    if isinstance(chosen, str) and chosen in CANDIDATES:
        return _executed(config, chosen).exec, {}
    distances: dict[str, dict[str, float]] = {}
    reference: list[Tensor] = []
    for chosen in candidates:
        if chosen == candidates[-1]:
            break
        reference = reference or first_step(_executed(config, list(CANDIDATES)[-1]), make)
        try:
            distances[chosen] = distance(first_step(_executed(config, chosen), make), reference)
        except torch.AcceleratorError:
            raise  # after it nothing works in this process
        except RuntimeError as error:
            logger.warning("not executed in %s: its first step failed: %s", chosen, str(error).partition("\n")[0])
            continue
        if close(distances[chosen]):
            break
        logger.warning("not executed in %s: its first step is too far from that of float32 (%s).", chosen, _said(distances[chosen]))
    measured = distances.get(chosen, {})
    logger.info("executed in %s%s.", chosen, f" ({_said(measured)})" if measured else "")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, {"chosen": chosen, "settings": CANDIDATES[chosen], "distances": distances, **kind})
    return _executed(config, chosen).exec, measured


def first_step(config: Config, make: Make) -> list[Tensor]:
    """Return how far the first step that learns moves the network's parameters, and what the method learns, each as one vector."""
    make_deterministic(threads=config.exec.threads, allow_tf32=config.exec.allow_tf32)
    training = make(config)
    training.epoch = next((epoch for epoch in range(config.optim.epochs) if training.method.learns_at(epoch)), 0)
    plan = training.begin_epoch()
    return movement(training.model, training.method, lambda: training.take_step(plan))


def movement(model: nn.Module, method: Method, call: Callable[[], object]) -> list[Tensor]:
    """Return how far a ``call`` moves the parameters of ``model``, and what ``method`` learns, each as one vector."""

    def state() -> list[Tensor]:
        learned = [tensor for tensor in method.state_dict().values() if tensor.is_floating_point()]
        parts: list[list[Tensor]] = [[parameter.detach() for parameter in model.parameters()], learned]
        return [torch.cat([tensor.double().flatten() for tensor in part]) if part else torch.zeros(0) for part in parts]

    before = state()
    call()
    return [new - old for new, old in zip(state(), before, strict=True)]


def distance(moved: Sequence[Tensor], reference: Sequence[Tensor]) -> dict[str, float]:
    """Return the relative distances ``|moved - reference| / |reference|`` by the names of :data:`BOUNDS`; infinite where nothing moves."""

    def relative(mine: Tensor, theirs: Tensor) -> float:
        apart, length = float((mine - theirs).norm()), float(theirs.norm())
        if not math.isfinite(apart) or not math.isfinite(length):
            return math.inf
        return 0.0 if apart == 0.0 else apart / length if length > 0.0 else math.inf

    parameters, learned = (relative(mine, theirs) for mine, theirs in zip(moved, reference, strict=True))
    if not float(reference[0].norm()) > 0.0:
        parameters = math.inf  # a step that moves nothing shows nothing
    return {"guard/labels": learned, "guard/parameters": parameters}


def _executed(config: Config, candidate: str) -> Config:
    """Return the settings of the run as they are compared: executed in one way, with nothing recorded and nothing drawn inside the step."""
    model, trajectory = config.model, dataclasses.replace(config.trajectory, record=False)
    if hasattr(model, "dropout"):
        # Which activations a GPU drops depends on their number format.
        model = dataclasses.replace(model, dropout=0.0)  # type: ignore[call-arg]
    execution = dataclasses.replace(config.exec, **CANDIDATES[candidate])
    return dataclasses.replace(config, model=model, trajectory=trajectory, exec=execution)


def _said(distances: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.1e}, at most {BOUNDS[name]:g}" for name, value in distances.items())
