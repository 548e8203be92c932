"""How many hours runs take: as finished runs of their kind did, else as many as their FLOPs need on the usual GPU."""

from __future__ import annotations

import functools
import json
import statistics
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from repro.config import registry
from repro.errors import UserError
from repro.files import try_read
from sweeps.plan import Plan, planned_state

#: For which GPU hours are counted where no run of the kind is done: its products in TF32 at this share of their peak.
USUAL_GPU = "A100"
_FLOPS_PER_S = 156e12
_EFFICIENCY = 0.35

Fields = Mapping[str, Any]


@dataclass(frozen=True)
class Costs:
    """What the runs of a plan take, from the first to the last epoch.

    Attributes:
        unit: ``CPU-hours`` (of one core) where all finished runs of their kinds were on CPUs, else ``GPU-hours``.
        hours: by run id; ``None`` where there is no estimate.
        basis: in words, what they rest on.
    """

    unit: str
    hours: dict[str, float | None]
    basis: str

    def total(self, names: Collection[str]) -> str:
        """Return the sum of the hours of the runs ``names`` that are known, as a text."""
        known = [hours for name in names if (hours := self.hours[name]) is not None]
        return f"{sum(known):,.2f}" if known or not names else "no estimate"


def estimate(plan: Plan) -> Costs:
    """Return what the runs of ``plan`` take: the median hours an epoch of finished runs of the kind, else their FLOPs."""
    finished = list(_finished(plan.folder))
    kinds = {name: _kind(run.fields) for name, run in plan.runs.items()}
    on_gpu = any(gpu for _, gpu, _ in finished) or not {kind for kind, _, _ in finished} & set(kinds.values())
    by_kind: defaultdict[str, list[float]] = defaultdict(list)
    for kind, gpu, epoch_hours in finished:
        if gpu == on_gpu:
            by_kind[kind].append(epoch_hours)
    hours: dict[str, float | None] = {}
    for name, run in plan.runs.items():
        if kinds[name] in by_kind:
            hours[name] = statistics.median(by_kind[kinds[name]]) * int(run.fields["optim.epochs"])
        else:
            teacher = plan.runs.get(str(run.fields.get("inputs.teacher")))
            hours[name] = _counted_hours(run.fields, teacher.fields if teacher else None) if on_gpu else None
    measured = sum(kind in by_kind for kind in kinds.values())
    counted = f"as their FLOPs take in TF32 on an {USUAL_GPU} at {_EFFICIENCY:.0%} of its peak" if on_gpu else "without estimate"
    basis = f"{measured} as finished runs of their kind took, {len(hours) - measured} {counted}"
    return Costs("GPU-hours" if on_gpu else "CPU-hours", hours, basis)


def _finished(folder: Path) -> Iterator[tuple[str, bool, float]]:
    """Return of each finished run its kind, whether it was on a GPU, and the hours of an epoch, on CPUs those of one core."""
    for path in sorted(folder.glob("*/cost.json")):
        cost, fields = try_read(path), try_read(path.parent / "identity.json", "fields")
        if cost and fields and planned_state(path.parent) == "done":
            cores = try_read(path.parent / "provenance.json", "threads") or 1
            hours = cost["gpu_hours"] or cost["wall_s"] / 3600 * cores
            yield _kind(fields), cost["gpu_hours"] > 0, hours / fields["optim.epochs"]


def _kind(fields: Fields) -> str:
    """Return what runs have in common that take equally long for an epoch."""
    try:
        method = registry.get("method", fields["method.name"]).build
    except UserError:  # of another version of the code
        return ""
    prefixes = ("model.", "dataset.", "split.name", "optim.batch_size", *(["meta."] if method.uses_meta else []))
    settings = {key: value for key, value in fields.items() if key.startswith(prefixes)}
    return json.dumps([settings, method.uses_meta, method.num_networks, bool(fields.get("inputs.teacher"))], sort_keys=True)


def _counted_hours(fields: Fields, teacher: Fields | None) -> float | None:
    """Return the hours of all training steps by their FLOPs, as if nothing was held out; ``None`` where these are not known.

    A step is three forward passes of its batch; one that looks ahead has a derivative in one direction and a second backward pass besides,
    two each, and three of the meta batch.
    """
    size = registry.get("dataset", fields["dataset.name"]).size
    if size is None:
        return None
    side = fields.get("dataset.side") or size.image_shape[-1]
    method = registry.get("method", fields["method.name"]).build
    passes = 3.0
    if method.uses_meta:
        passes += (4 + 3 * fields["meta.batch_size"] / fields["optim.batch_size"]) / fields["meta.interval"]
    flops = passes * method.num_networks * _forward_flops(_model(fields), side, size)
    flops += _forward_flops(_model(teacher), side, size) if teacher else 0.0
    images = (fields.get("dataset.train_size") or size.train) * fields["optim.epochs"]
    return float(flops * images / (_FLOPS_PER_S * _EFFICIENCY) / 3600)


def _model(fields: Fields) -> str:
    return json.dumps({key[6:]: value for key, value in fields.items() if key.startswith("model.") and key != "model.version"})


@functools.cache
def _forward_flops(model: str, side: int, size: registry.DatasetSize) -> float:
    """Return the FLOPs of a forward pass of one image, two for each multiply-accumulate."""
    # Brings PyTorch's compiler along, which takes a second.
    from torch.utils.flop_counter import FlopCounterMode

    settings, shape = json.loads(model), (size.image_shape[0], side, side)
    choice = registry.get("model", settings["name"])
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network = choice.build(choice.config(**settings), num_classes=size.num_classes, image_shape=shape)
        network.eval()(torch.zeros(1, *shape))
    return float(counter.get_total_flops())
