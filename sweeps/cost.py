"""How many hours runs take: as finished runs of their kind did, else as many as their FLOPs need on the usual GPU."""

from __future__ import annotations

import functools
import json
import statistics
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from repro.config import registry
from repro.errors import UserError
from repro.files import peek
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
        total = sum(known)
        if names and not known:
            return "no estimate"
        return "< 0.01" if 0.0 < total < 0.01 else f"{total:,.2f}" if total < 10.0 else f"{total:,.0f}"


def estimate(plan: Plan) -> Costs:
    """Return what the runs of ``plan`` take: the median hours an epoch of finished runs of the kind, else their FLOPs."""
    measured: dict[bool, defaultdict[str, list[float]]] = {True: defaultdict(list), False: defaultdict(list)}
    for folder in sorted(plan.folder.glob("*-*-*")):
        cost, fields = peek(folder / "cost.json"), peek(folder / "identity.json", "fields")
        if cost and fields and planned_state(folder) == "done":
            on_gpu = bool(cost["gpu_hours"])
            hours = cost["gpu_hours"] if on_gpu else cost["wall_s"] / 3600 * (peek(folder / "provenance.json", "threads") or 1)
            measured[on_gpu][_kind(fields)].append(hours / fields["optim.epochs"])
    kinds = {name: _kind(run.fields) for name, run in plan.runs.items()}
    on_gpu = bool(measured[True]) or not measured[False].keys() & set(kinds.values())
    by_kind = {kind: statistics.median(hours) for kind, hours in measured[on_gpu].items()}
    hours_of: dict[str, float | None] = {}
    for name, run in plan.runs.items():
        if kinds[name] in by_kind:
            hours_of[name] = by_kind[kinds[name]] * int(run.fields["optim.epochs"])
        else:
            teacher = plan.runs.get(str(run.fields.get("inputs.teacher")))
            hours_of[name] = _counted_hours(run.fields, teacher and teacher.fields) if on_gpu else None
    finished = sum(kind in by_kind for kind in kinds.values())
    basis = [f"{finished} as finished runs of their kind took"] if finished else []
    if on_gpu and finished < len(kinds):
        basis.append(f"{len(kinds) - finished} counted: FLOPs in TF32 on an {USUAL_GPU}, at {_EFFICIENCY:.0%} of its peak")
    if None in hours_of.values():
        basis.append(f"{list(hours_of.values()).count(None)} without estimate")
    return Costs("GPU-hours" if on_gpu else "CPU-hours", hours_of, "; ".join(basis))


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
    try:
        return _flops(fields, teacher) / (_FLOPS_PER_S * _EFFICIENCY) / 3600
    except (UserError, RuntimeError, AttributeError):
        # A dataset that was registered without its size, or a network that asks for a number.
        return None


def _flops(fields: Fields, teacher: Fields | None) -> float:
    """Return the FLOPs of all training steps and evaluations.

    A step is three forward passes of its batch; one that looks ahead has a derivative in one direction and a second backward pass besides,
    two each, and three of the meta batch.
    """
    size = registry.get("dataset", fields["dataset.name"]).size
    classes = fields.get("dataset.num_classes") or size.num_classes
    total = fields.get("dataset.train_size") or size.train * classes // size.num_classes
    test = fields.get("dataset.test_size") or size.test * classes // size.num_classes
    held_out = 0
    if fields["split.name"] == "fold":
        held_out = total // fields["split.num_folds"]
    elif fields["split.name"] == "clean_meta":
        held_out = fields["split.meta_size"] + (fields.get("split.validation_size") or 0)
    train = total - held_out
    method = registry.get("method", fields["method.name"]).build
    passes = 3.0
    if method.uses_meta:
        passes += (4 + 3 * fields["meta.batch_size"] / fields["optim.batch_size"]) / fields["meta.interval"]
    side = fields.get("dataset.side")
    shape = (size.image_shape[0], side, side) if side else size.image_shape
    flops = (passes * train + test + held_out) * _forward_flops(_model(fields), shape, classes) * method.num_networks
    if teacher is not None:
        flops += train * _forward_flops(_model(teacher), shape, classes)
    return float(flops * fields["optim.epochs"])


def _model(fields: Fields) -> str:
    return json.dumps({key[6:]: value for key, value in fields.items() if key.startswith("model.") and key != "model.version"})


@functools.cache
def _forward_flops(model: str, shape: tuple[int, ...], classes: int) -> float:
    """Return the FLOPs of a forward pass of one image, two for each multiply-accumulate."""
    settings = json.loads(model)
    choice = registry.get("model", settings["name"])
    with torch.device("meta"):
        network = choice.build(choice.config(**settings), num_classes=classes, image_shape=shape)
        image = torch.empty(1, *shape)
    with FlopCounterMode(display=False) as counter:
        network.eval()(image)
    return counter.get_total_flops()
