"""How many GPU-hours a run takes: measured on finished runs of its kind, or counted, at an assumed rate; CPU-hours are measured only.

Counted are the multiply-accumulates (MACs) of convolutions and linear layers, two FLOPs each, one forward pass of an image being
one unit. A training image costs 3 units, forward and backward. A step that learns labels costs more: forward and backward of its
meta batch, the tangents of a Jacobian-vector product (2) and a second backward pass (2), so 13 in all when the meta batch is twice
the training batch: the least that this algorithm can do, not what a program reaches. An epoch also evaluates the test set and
everything held out. The MACs stand in ``macs.yaml``, so that planning computes nothing with PyTorch.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import statistics
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from repro import registry
from repro.config import Config
from repro.errors import UserError
from repro.files import read_json
from repro.manifest import DamagedError, open_manifest
from repro.rundir import read_state
from sweeps.plan import Plan, PlannedRun

logger = logging.getLogger(__name__)

#: FLOP/s, in units of 10^12, that a counted run is assumed to reach.
ASSUMED_TFLOPS = 20.0

#: What an estimate can rest on.
FINISHED = "finished runs"
COUNTED = "counted FLOPs"

MACS_FILE = Path(__file__).with_name("macs.yaml")

Fields = Mapping[str, Any]


@dataclass(frozen=True)
class Estimate:
    """The cost of one run.

    Attributes:
        gpu_hours: ``None`` where there is no estimate.
        basis: :data:`FINISHED` or :data:`COUNTED`; where there is no estimate, why not.
        cpu_hours: hours of one core, from finished runs of its kind on a CPU; ``None`` where there are none.
    """

    gpu_hours: float | None
    basis: str
    cpu_hours: float | None = None


class _NoEstimateError(Exception):
    """Why a run cannot be estimated."""


def estimate(plan: Plan, *, tflops: float = ASSUMED_TFLOPS) -> dict[str, Estimate]:
    """Return what each run of ``plan`` costs from its first to its last epoch, by run id.

    Counted runs are assumed to reach ``tflops`` TFLOP/s.
    """
    cost = _Cost(plan)
    return {run.run_id: cost.of(run, tflops) for run in plan.runs.values()}


class _Cost:
    """What the runs folder and ``macs.yaml`` say about the runs of a plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._known: dict[str, Fields | None] = {name: run.fields for name, run in plan.runs.items()}
        hours = self._hours()
        self._measured, self._measured_cpu = (
            {kind: statistics.median(values) for (device, kind), values in hours.items() if device == wanted} for wanted in ("gpu", "cpu")
        )

    def of(self, run: PlannedRun, tflops: float) -> Estimate:
        """Return what ``run`` costs."""
        cpu: float | None = None
        try:
            teacher = self._teacher(run.fields)
            kind, visits = _kind(run.fields, teacher), _training_images(run.fields) * run.epochs
            if kind in self._measured_cpu:
                cpu = self._measured_cpu[kind] * visits
            if kind in self._measured:
                return Estimate(self._measured[kind] * visits, FINISHED, cpu)
            return Estimate(_flops(run.fields, teacher) / (tflops * 1e12) / 3600, COUNTED, cpu)
        except _NoEstimateError as error:
            return Estimate(None, str(error), cpu)

    def _hours(self) -> dict[tuple[str, str], list[float]]:
        """Return the hours per epoch and training image of the finished runs in the folder, by device (gpu, cpu) and kind."""
        hours: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
        for name in sorted(entry.name for entry in os.scandir(self._plan.folder)) if self._plan.folder.is_dir() else ():
            folder = self._plan.folder / name
            if name in self._plan.runs and self._plan.runs[name].state != "done":
                continue
            if read_state(folder) != "done":
                continue
            device, spent = "gpu", _read(folder / "cost.json", "gpu_hours")
            if not spent:
                device, seconds, threads = "cpu", _read(folder / "cost.json", "wall_s"), _read(folder / "provenance.json", "threads")
                if not seconds or not threads:
                    continue
                spent = seconds * threads / 3600
            try:
                open_manifest(folder).read_bytes("cost.json")
            except DamagedError as error:
                logger.warning("%s It is not counted.", error)
                continue
            fields = self._fields(name)
            epochs = _read(folder / "status.json", "epoch")
            if fields is None or not epochs:
                continue
            # Other versions of the code may have had other settings; their runs tell nothing.
            with contextlib.suppress(_NoEstimateError, KeyError):
                kind, hours_each = _kind(fields, self._teacher(fields)), spent / (epochs * _training_images(fields))
                hours[device, kind].append(hours_each)
        return hours

    def _teacher(self, fields: Fields) -> Fields | None:
        """Return the settings of the run that teaches, ``None`` for most runs."""
        name = fields.get("inputs.teacher")
        if name is None:
            return None
        teacher = self._fields(name)
        if teacher is None:
            raise _NoEstimateError(f"the settings of its teacher {name} are not known")
        return teacher

    def _fields(self, name: str) -> Fields | None:
        if name not in self._known:
            self._known[name] = _read(self._plan.folder / name / "identity.json", "fields")
        return self._known[name]


def _read(path: Path, key: str) -> Any:
    """Return one value of a JSON file, ``None`` where the file has none or is none."""
    try:
        return read_json(path).get(key)
    except (OSError, ValueError, AttributeError):
        return None


def _kind(fields: Fields, teacher: Fields | None) -> str:
    """Return what two runs have in common that cost the same for an epoch and an image."""
    kind = {key: value for key, value in fields.items() if key.startswith(("model.", "dataset.")) or key == "optim.batch_size"}
    if _learns(fields["method.name"]):
        kind |= {key: fields[key] for key in ("meta.batch_size", "meta.interval")} | {"warmup": _warmup_epochs(fields)}
    if _networks(fields["method.name"]) > 1:
        kind["networks"] = _networks(fields["method.name"])
    if teacher is not None:
        kind |= {f"teacher.{key}": value for key, value in teacher.items() if key.startswith("model.")}
        kind["view"] = fields.get("method.target_view")
    return json.dumps(kind, sort_keys=True)


def _learns(name: str) -> bool:
    return bool(_method(name).uses_meta)


def _networks(name: str) -> int:
    return int(_method(name).num_networks)


@functools.cache
def _method(name: str) -> Any:
    try:
        return registry.get("method", name).build
    except UserError as error:
        # Of a finished run that another version of the code has trained.
        raise _NoEstimateError(f"method={name} does not exist") from error


def _warmup_epochs(fields: Fields) -> int:
    return int(fields.get("method.warmup_epochs", 0))


def _flops(fields: Fields, teacher: Fields | None) -> float:
    """Return the FLOPs of a run, its evaluations included."""
    train, epochs, dataset = _training_images(fields), int(fields["optim.epochs"]), _dataset(fields)
    # Everything that is held out is a meta or a validation set.
    evaluated: int = dataset["test"] + dataset["train"] - train
    # The untrained model is evaluated too.
    units = 3.0 * train * epochs + evaluated * (epochs + 1)
    if _learns(fields["method.name"]):
        meta_images = int(fields["meta.batch_size"]) / int(fields["optim.batch_size"])
        units += train * max(0, epochs - _warmup_epochs(fields)) * (3.0 * meta_images + 4.0) / int(fields["meta.interval"])
    macs = units * _networks(fields["method.name"]) * _macs(fields, fields)
    if teacher is not None:
        # Each image once as it is, and where it is augmented once an epoch as the student sees it.
        predictions = epochs + 1 if fields.get("method.target_view") == "augmented" else 1
        macs += predictions * train * _macs(teacher, fields)
    return 2.0 * macs


def _training_images(fields: Fields) -> int:
    """Return how many images are left to train on after the cut of :mod:`repro.data.splits`."""
    total: int = _dataset(fields)["train"]
    split = fields["split.name"]
    if split == "fold":
        folds, fold = int(fields["split.num_folds"]), int(fields["split.fold"])
        return total - total // folds - (1 if fold < total % folds else 0)
    if split == "clean_meta":
        return total - int(fields["split.meta_size"]) - int(fields.get("split.validation_size") or 0)
    return total


def _dataset(fields: Fields) -> dict[str, Any]:
    """Return the sizes of the run's dataset."""
    name = fields["dataset.name"]
    found: dict[str, Any] | None = _tables()["datasets"].get(name)
    if found is None:
        raise _NoEstimateError(f"dataset={name} does not stand in sweeps/{MACS_FILE.name}")
    classes, train, test = (fields.get(f"dataset.{key}") for key in ("num_classes", "train_size", "test_size"))
    if classes not in (None, found["classes"]) and train is None:
        raise _NoEstimateError(f"dataset.num_classes={classes} changes the number of images")
    return found | {"train": train or found["train"], "test": test or found["test"]}


def num_classes(config: Config) -> int | None:
    """Return how many classes the dataset of a run has; ``None`` where it is not known without its files."""
    chosen: int | None = getattr(config.dataset, "num_classes", None)
    known = _tables()["datasets"].get(config.dataset.name, {}) if chosen is None else {"classes": chosen}
    return known.get("classes")


def _macs(fields: Fields, images: Fields) -> int:
    """Return the MACs of the model of ``fields`` for one image of the dataset of ``images``."""
    for key in ("dataset.side", "dataset.num_classes"):
        if images.get(key) is not None:
            raise _NoEstimateError(f"{key}={images[key]} stands nowhere in sweeps/{MACS_FILE.name}")
    name, dataset = fields["model.name"], images["dataset.name"]
    settings = {key.removeprefix("model."): value for key, value in fields.items() if key.startswith("model.")}
    settings = {key: value for key, value in settings.items() if key not in ("name", "version")}
    for entry in _tables()["macs"]:
        if entry["model"] == name and entry["settings"] == settings and dataset in entry["images"]:
            return int(entry["images"][dataset])
    chosen = "".join(f" {key}={value}" for key, value in settings.items())
    raise _NoEstimateError(f"model={name}{chosen} for {dataset} does not stand in sweeps/{MACS_FILE.name}")


@functools.cache
def _tables() -> Any:
    return yaml.safe_load(MACS_FILE.read_text())
