"""How many GPU-hours a run takes: measured on finished runs of its kind, or counted; CPU-hours are measured only.

Counted are the operations of one training step and of an evaluation (:mod:`sweeps.plan.counting`). Their time at the roofline of a GPU
(:mod:`sweeps.plan.roofline`), times the steps of a run, is the least that it can take; it takes longer by the fraction of that speed which
finished runs on such a GPU have reached, or which is assumed. What is planned is executed as ``exec=auto`` does it on that GPU: as it chose
for a run of the kind, where there was one in the folder, else in what it tries first.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from repro.config import registry
from repro.config.identity import canonical_json, step_fields
from repro.errors import UserError
from repro.files import peek
from repro.runs.manifest import DamagedError, open_manifest
from repro.runs.state import read_state
from sweeps.plan import count_cache
from sweeps.plan.gpus import USUAL, Execution, Gpu, auto, known_gpu
from sweeps.plan.plan import Plan, PlannedRun
from sweeps.plan.roofline import Counted, Work
from sweeps.plan.sizes import Fields, NoEstimateError, dataset_of, method_of, network_settings, training_images

logger = logging.getLogger(__name__)

#: Fraction of the roofline's speed that a run is assumed to reach, where none has been measured.
ASSUMED_REACHED = 0.5

#: What an estimate can rest on.
FINISHED = "finished runs"
COUNTED = "counted steps"

#: Images in a forward pass of an evaluation, as exec.eval_batch_size usually is.
_EVALUATED = 1000


@dataclass(frozen=True)
class Estimate:
    """The cost of one run.

    Attributes:
        gpu_hours: ``None`` where there is no estimate.
        basis: :data:`FINISHED` or :data:`COUNTED`; where there is no estimate, why not.
        cpu_hours: hours of one core, from finished runs of its kind on a CPU; ``None`` where there are none.
        work: what was counted of it, on a GPU.
        execution: how ``exec=auto`` executes it there.
    """

    gpu_hours: float | None
    basis: str
    cpu_hours: float | None = None
    work: Work | None = field(default=None, compare=False)
    execution: Execution | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Costs:
    """The cost of the runs of a plan.

    Attributes:
        runs: of each run, from its first to its last epoch, by id.
        gpu: for which; ``None`` where none was named and all finished runs were on CPUs: then no run has GPU-hours.
        reached: fraction of the roofline's speed that counted runs reach.
        measured: number of finished runs on that GPU that have reached it together; 0 where it is not measured.
        on_gpu: number of finished runs on that GPU, whatever can be told of them.
        others: number of finished runs on GPUs whose roofline is not known, by name; they tell nothing.
    """

    runs: dict[str, Estimate]
    gpu: Gpu | None
    reached: float
    measured: int
    on_gpu: int
    others: Counter[str]


def estimate(plan: Plan, *, gpu: Gpu | None = None, reached: float | None = None) -> Costs:
    """Return what the runs of ``plan`` cost on ``gpu``, or on that of most finished runs, where these are on CPUs on none, else on an A100.

    Counted runs reach the fraction ``reached`` of the roofline's speed; by default as finished runs do.
    """
    return _Cost(plan).of_all(gpu, reached)


def job_hours(plan: Plan, places: Mapping[str, tuple[str, int]]) -> dict[str, float]:
    """Return how many hours the runs of ``plan`` keep their GPU busy, or their cores, by id; those of which it is not known are left out.

    It is known where such runs are done, or where the peaks of the GPU are. ``places`` has for each run what a site calls its GPU,
    ``none`` where it trains on a CPU, and the number of its cores.
    """
    found: dict[str, float] = {}
    for named in {gpu for gpu, _ in places.values()}:
        gpu = known_gpu(named)
        for name, cost in estimate(plan, gpu=gpu).runs.items():
            hours = cost.gpu_hours if gpu is not None or cost.basis == FINISHED else None
            if named == "none":
                hours = None if cost.cpu_hours is None else cost.cpu_hours / places[name][1]
            if places[name][0] == named and hours is not None:
                found[name] = hours
    return found


@dataclass(frozen=True)
class _Finished:
    """A finished run; ``gpu`` is ``None`` on a CPU, where ``hours`` are those of one core."""

    fields: Fields
    epochs: int
    hours: float
    gpu: Gpu | None
    execution: Execution


class _Cost:
    """What the finished runs of a folder say about the runs of a plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._known: dict[str, Fields | None] = {name: run.fields for name, run in plan.runs.items()}
        self._others: Counter[str] = Counter()
        self._finished = self._read_finished()

    def of_all(self, named: Gpu | None, named_fraction: float | None) -> Costs:
        on_gpus = Counter(run.gpu for run in self._finished if run.gpu is not None)
        cpu = self._medians(None)
        gpu = named or next((known for known, _ in on_gpus.most_common(1)), None)
        runs = self._plan.runs.values()
        if gpu is None and not any(self._measured(run, cpu) for run in runs):
            gpu = USUAL
        at_roofline = self._hours_at_roofline(gpu) if gpu is not None and named_fraction is None else []
        measured = sum(counted for counted, _ in at_roofline) / sum(hours for _, hours in at_roofline) if at_roofline else ASSUMED_REACHED
        reached = named_fraction or measured
        on_gpu, chosen = ({}, {}) if gpu is None else (self._medians(gpu), self._chosen(gpu))

        def cost(run: PlannedRun) -> Estimate:
            cpu_hours = self._measured(run, cpu)
            if gpu is None:
                return Estimate(None, "no GPU was named", cpu_hours)
            gpu_hours = self._measured(run, on_gpu)
            try:
                work = _work(run.fields, self._teacher(run.fields), run.epochs)
            except NoEstimateError as error:
                return Estimate(gpu_hours, str(error) if gpu_hours is None else FINISHED, cpu_hours)
            if gpu_hours is not None:
                return Estimate(gpu_hours, FINISHED, cpu_hours, work)
            execution = chosen.get(canonical_json(step_fields(run.fields)), auto(gpu))
            return Estimate(work.hours(gpu, execution) / reached, COUNTED, cpu_hours, work, execution)

        found = {run.run_id: cost(run) for run in runs}
        return Costs(found, gpu, reached, len(at_roofline), on_gpus[gpu] if gpu else 0, self._others)

    def _chosen(self, gpu: Gpu) -> dict[str, Execution]:
        """Return what ``exec=auto`` has chosen on ``gpu`` (:mod:`repro.training.guard`), by what decides how a step computes."""
        found = {}
        for path in (self._plan.folder / "guard").glob("*.json"):
            name, kind, settings = (peek(path, key) for key in ("gpu", "run", "settings"))
            if settings is not None and known_gpu(name) == gpu:
                found[canonical_json(kind)] = _execution(settings, gpu)
        return found

    def _measured(self, run: PlannedRun, medians: Mapping[str, float]) -> float | None:
        """Return the hours of ``run`` by those that runs of its kind took for an epoch and a training image."""
        with contextlib.suppress(NoEstimateError):
            each = medians.get(_kind(run.fields, self._teacher(run.fields)))
            return None if each is None else each * training_images(run.fields) * run.epochs
        return None

    def _medians(self, gpu: Gpu | None) -> dict[str, float]:
        """Return the hours per epoch and training image of the finished runs on ``gpu``, or on CPUs, by kind."""
        hours: defaultdict[str, list[float]] = defaultdict(list)
        for run in self._finished:
            # Other versions of the code may have had other settings; their runs tell nothing.
            with contextlib.suppress(NoEstimateError, KeyError):
                if run.gpu == gpu:
                    kind = _kind(run.fields, self._teacher(run.fields))
                    hours[kind].append(run.hours / (run.epochs * training_images(run.fields)))
        return {kind: statistics.median(values) for kind, values in hours.items()}

    def _hours_at_roofline(self, gpu: Gpu) -> list[tuple[float, float]]:
        """Return of each finished run on ``gpu`` its hours at the roofline, executed as it was, and the hours that it took."""
        found = []
        for run in self._finished:
            with contextlib.suppress(NoEstimateError, KeyError):
                if run.gpu == gpu:
                    work = _work(run.fields, self._teacher(run.fields), run.epochs)
                    found.append((work.hours(gpu, run.execution), run.hours))
        return found

    def _read_finished(self) -> list[_Finished]:
        names = sorted(entry.name for entry in os.scandir(self._plan.folder)) if self._plan.folder.is_dir() else ()
        planned = self._plan.runs
        found = (self._read_run(name) for name in names if name not in planned or planned[name].state == "done")
        return [run for run in found if run is not None]

    def _read_run(self, name: str) -> _Finished | None:
        """Return a run if it is done and tells something; those on GPUs that are not known are only counted."""
        folder = self._plan.folder / name
        if read_state(folder) != "done":
            return None
        provenance = folder / "provenance.json"
        hours, device = peek(folder / "cost.json", "gpu_hours"), ""
        if hours:
            device = str(peek(provenance, "device"))
        else:
            hours = (peek(folder / "cost.json", "wall_s") or 0) * (peek(provenance, "threads") or 0) / 3600
        fields, epochs = self._fields(name), peek(folder / "status.json", "epoch")
        if not hours or fields is None or not epochs:
            return None
        try:
            open_manifest(folder).read_bytes("cost.json")
        except DamagedError as error:
            logger.warning("%s It is not counted.", error)
            return None
        gpu = known_gpu(device)
        if device and gpu is None:
            self._others[device] += 1
            return None
        return _Finished(fields, epochs, hours, gpu, _execution(peek(provenance, "execution") or {}, gpu))

    def _teacher(self, fields: Fields) -> Fields | None:
        name = fields.get("inputs.teacher")
        if name is None:
            return None
        teacher = self._fields(name)
        if teacher is None:
            raise NoEstimateError(f"the settings of its teacher {name} are not known")
        return teacher

    def _fields(self, name: str) -> Fields | None:
        if name not in self._known:
            self._known[name] = peek(self._plan.folder / name / "identity.json", "fields")
        return self._known[name]


def _kind(fields: Fields, teacher: Fields | None) -> str:
    """Return what two runs have in common that cost the same for an epoch and an image."""
    kind = {key: value for key, value in fields.items() if key.startswith(("model.", "dataset.")) or key == "optim.batch_size"}
    method = method_of(fields["method.name"])
    if method.uses_meta:
        kind |= {key: fields[key] for key in ("meta.batch_size", "meta.interval")} | {"warmup": int(fields.get("method.warmup_epochs", 0))}
    if method.num_networks > 1:
        kind["networks"] = method.num_networks
    if teacher is not None:
        kind |= {f"teacher.{key}": value for key, value in teacher.items() if key.startswith("model.")}
        kind["view"] = fields.get("method.target_view")
    return json.dumps(kind, sort_keys=True)


def _work(fields: Fields, teacher: Fields | None, epochs: int) -> Work:
    """Return what ``epochs`` epochs of a run ask of a GPU, their evaluations included."""
    train, dataset, method = training_images(fields), dataset_of(fields), method_of(fields["method.name"])
    batch = int(fields["optim.batch_size"])
    steps = train * epochs / batch
    looking = 0.0
    if method.uses_meta:
        learning = max(0, epochs - int(fields.get("method.warmup_epochs", 0)))
        looking = train * learning / batch / int(fields["meta.interval"])
    # Everything that is held out is a meta or a validation set, and the untrained model is evaluated too.
    evaluated = (dataset.test + dataset.train - train) * (epochs + 1) / _EVALUATED
    parts = [
        (method.num_networks * looking, fields, {"batch": batch, "meta_batch": int(fields["meta.batch_size"])}),
        (method.num_networks * (steps - looking), fields, {"batch": batch}),
        (method.num_networks * evaluated, fields, {"images": _EVALUATED}),
    ]
    if teacher is not None:
        # Each image once as it is, and where it is augmented once an epoch as the student sees it.
        predictions = epochs + 1 if fields.get("method.target_view") == "augmented" else 1
        parts.append((predictions * train / _EVALUATED, teacher, {"images": _EVALUATED}))
    counted = tuple((times, _counted(network, dataset, sizes)) for times, network, sizes in parts if times)
    return Work(counted, 4 * train * dataset.num_classes if method.trajectory == "instance" else 0)


def _counted(fields: Fields, dataset: registry.DatasetSize, sizes: Mapping[str, int]) -> Counted:
    """Return a step, or an evaluation, of the model of ``fields`` on images of ``dataset``."""
    try:
        return count_cache.counted(fields["model.name"], network_settings(fields), dataset.image_shape, dataset.num_classes, **sizes)
    except (UserError, RuntimeError, TypeError) as error:  # TypeError: a setting of another version of the code
        raise NoEstimateError(f"the network {fields['model.name']} cannot be counted: {str(error).splitlines()[0]}") from error


def _execution(settings: Fields, gpu: Gpu | None) -> Execution:
    """Return how a run is executed on ``gpu`` by its settings; where a part of its products is in TF32, as if all were."""
    cast = settings.get("precision") == "bfloat16" and settings.get("label_gradient", "precision") == "precision"
    products = "bfloat16" if cast else "tf32" if settings.get("allow_tf32") else "float32"
    has = gpu is None or gpu.peak(products) is not None
    return Execution(products if has else "float32", graphs=bool(settings.get("cuda_graphs") or settings.get("compile")))
