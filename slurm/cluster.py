"""A cluster as data: where runs are trained, with what limits. One YAML file describes one site; nothing scientific stands there.

``clusters/example.yaml`` describes every key.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator

from repro.config import registry
from repro.config.assemble import PRESETS
from repro.errors import did_you_mean, one_of
from sweeps.spec.data import Map, Scalar, SpecError, shortened
from sweeps.spec.loader import load, named_file, read_file
from sweeps.spec.models import Items, Line, Model, Number, integer, keys, line, mapping, matching, validate, wrong
from sweeps.spec.settings import override_value, setting_value

_FOLDER = Path(__file__).resolve().parent / "clusters"
_EVERYWHERE = ("kind", "wandb", "settings", "paths", "environment")
_TIME = re.compile(r"(?:(\d{1,4})-)?(\d{1,3}):(\d\d):(\d\d)", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_UNITS = {"M": 1, "G": 1024, "T": 1024 * 1024}
#: Options of sbatch that are given by the suite.
_OWN_OPTIONS = {"array", "output", "error", "signal", "dependency", "comment", "requeue", "no-requeue", "job-name", "open-mode"}
_OWN_OPTIONS |= {"time", "time-min", "mem"}

#: Minutes that a job may need beside its training: modules, PyTorch, data from a slow disk.
_START_MIN = 10


def read_minutes(text: str) -> int | None:
    """Return a time as SLURM writes it (``2-00:00:00``, ``12:00:00``) in minutes, rounded up; ``None`` for any other text."""
    found = _TIME.fullmatch(text)
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups()) if found else (0, 0, 0, 0)
    return None if found is None else (days * 24 + hours) * 60 + minutes + (1 if seconds else 0)


def _minutes(value: object) -> int:
    minutes = read_minutes(value) if isinstance(value, str) else None
    if not minutes:
        raise wrong('a time in quotes, such as "12:00:00" or "2-00:00:00"')
    return minutes


def _variable(value: object) -> str:
    if value is None or not isinstance(value, str | int | float) or isinstance(value, bool):
        raise wrong('a text or a number; a truth value that is meant as text needs quotes, such as "true"')
    return str(value)


def _variables(value: object) -> object:
    for key in mapping(value):
        if not _VARIABLE.fullmatch(key):
            raise mapping(value).error(key, f"'{shortened(key)}' is no name of a variable: letters, digits and _.")
    return value


def _settings(value: object) -> tuple[str, ...]:
    given = mapping(value)
    overrides = []
    for key in given:
        group, dot, name = key.partition(".")
        if group not in ("exec", "tracker"):
            said = "a cluster says how a run is executed (exec, tracker: a preset; exec.NAME, tracker.NAME), never what is trained. "
            raise given.error(key, f"{said}Move it into the spec.")
        chosen = override_value(setting_value(given, key))
        known = [field.name for field in dataclasses.fields(PRESETS[group]) if field.name != "name"] if dot else registry.options(group)
        value, said = (name, "there is no such setting") if dot else (chosen, f"'{shortened(chosen)}' does not exist")
        if value not in known:
            raise given.error(key, f"{said}.{did_you_mean(value, known)} Allowed: {one_of(known)}.")
        if (key, chosen) in (("exec", "debug"), ("exec.debug", "true")):
            raise given.error(key, "a debug run keeps no results. Start it as `python -m repro ... exec=debug`.")
        overrides.append(f"{key}={chosen}")
    return tuple(overrides)


def _options(value: object) -> dict[str, Scalar]:
    given = mapping(value)
    options: dict[str, Scalar] = {}
    for key, item in given.items():
        option = key.replace("_", "-")
        if option in options:
            raise given.at[key].error(f"{given.below(key)} stands twice, once with _ and once with -. Keep one.")
        if option in _OWN_OPTIONS:
            raise given.error(key, "this option is ours to give. Leave it out.")
        if isinstance(item, list | dict):
            raise given.error(key, "an option has a text, a number, true, false or null.")
        options[option] = str(item) if isinstance(item, str) else item
    return options


_Count = Annotated[int, integer(1, 100_000)]
_Minutes = Annotated[int, PlainValidator(_minutes)]
_Amount = matching(r"0*[1-9]\d{0,8}[MGT]", "an amount of memory, such as 32G or 900M")
_Memory = Annotated[int, PlainValidator(line), _Amount, AfterValidator(lambda text: int(text[:-1]) * _UNITS[text[-1]])]
_AbsolutePath = Annotated[Line, matching("/.*", "an absolute path: jobs start in another folder")]


class Paths(Model):
    """Folders of a site."""

    runs: _AbsolutePath | None = None
    data: _AbsolutePath | None = None
    scratch: _AbsolutePath | None = None


class Resources(Model):
    """What jobs get, and how many runs they have.

    Attributes:
        time_factor: a job asks for so many times the planner's estimate, and for no more than its time.
        min_minutes: SLURM may give a job less time than it asks for, down to this.
    """

    partition: Line | None = None
    account: Line | None = None
    qos: Line | None = None
    constraint: Line | None = None
    gpu: Line = "any"
    cpus: _Count = 1
    runs_per_gpu: _Count = 1
    runs_per_job: _Count = 1
    time_factor: Annotated[Number, Field(ge=1, le=100)] | None = None
    min_minutes: _Minutes | None = Field(default=None, alias="time_min")


class ModelResources(Resources):
    """What is said for the jobs of one model."""

    minutes: _Minutes | None = Field(default=None, alias="time")
    memory_mib: _Memory | None = Field(default=None, alias="memory")


class Cluster(Resources):
    """One site.

    Attributes:
        minutes: time of a job by model, ``default`` for the others.
        memory_mib: memory of a run by model.
        by_model: what jobs of a model get instead.
        settings: overrides of every run.
    """

    kind: Literal["slurm", "local", "debug"]
    wandb: Literal["offline", "online", "none"] = "offline"
    settings: Annotated[tuple[str, ...], PlainValidator(_settings)] = ()
    paths: Paths = Paths()
    environment: Annotated[dict[str, Annotated[str, PlainValidator(_variable)]], BeforeValidator(_variables)] = Field(default={})
    minutes: Annotated[dict[str, _Minutes], keys(required=("default",))] = Field(default={}, alias="time")
    memory_mib: Annotated[dict[str, _Memory], keys(required=("default",))] = Field(default={}, alias="memory")
    by_model: dict[str, ModelResources] = Field(default={})
    array_limit: _Count = 1000
    max_jobs: _Count | None = None
    max_parallel: _Count | None = None
    warning_s: Annotated[int, integer(10, 3600)] = 120
    modules: Items[Line] = ()
    setup: Items[Line] = ()
    python: Line | None = None
    container: Items[Line] = ()
    check_data: bool = True
    sbatch: Annotated[dict[str, Scalar], PlainValidator(_options)] = Field(default={})

    @classmethod
    def allowed_keys(cls, data: Map) -> list[str]:
        """Return the keys that a cluster of this kind may have; every kind has some of its own."""
        own = {"local": [*_EVERYWHERE, "max_parallel"], "debug": list(_EVERYWHERE)}
        return own.get(str(data.get("kind")), super().allowed_keys(data))

    @property
    def path(self) -> Path:
        """The file."""
        return self.place.path

    @property
    def name(self) -> str:
        """The file's name without ``.yaml``."""
        return self.path.stem

    def of(self, model: str, hours: float | None = None) -> Cluster:
        """Return the cluster as jobs of ``model`` have it: their time and memory are its ``default``.

        ``hours`` are those that the longest of these jobs takes by the planner's estimate, ``None`` where there is none.
        """
        if self.kind != "slurm":
            return self
        own = self.by_model.get(model, ModelResources())
        given: dict[str, Any] = {key: value for key, value in own if key in own.model_fields_set}
        if self.node is not None and own.node is not None:
            given["node"] = Map(self.node.name, self.node.place)
            given["node"].at = self.node.at | own.node.at
        for key, of in (("minutes", self.minutes), ("memory_mib", self.memory_mib)):
            given[key] = {"default": given.get(key) or of.get(model, of["default"])}
        factor = given.get("time_factor", self.time_factor)
        if factor is not None and hours is not None:
            needed = _START_MIN + math.ceil(60 * factor * hours + self.warning_s / 60)
            given["minutes"]["default"] = min(needed, given["minutes"]["default"])
        return self.model_copy(update=given)

    def memory_of(self, runs: int) -> int:
        """Return the memory (MiB) of a job of so many runs, of which those after the first ``runs_per_gpu`` wait for their turn."""
        return self.memory_mib["default"] * min(runs, self.runs_per_gpu)

    def overrides(self, own: Sequence[str], *, on_gpu: bool) -> tuple[str, ...]:
        """Return the overrides of a run on this cluster; what the run itself says, ``own``, comes first and stays.

        A run that is given a GPU, ``on_gpu``, trains on it or fails: a node whose CUDA is broken would train on its processor for days.
        """
        keys = {override.partition("=")[0] for override in own}
        usual = (f"tracker={self.wandb}", *(["exec.device=cuda"] if on_gpu else []))
        given = {item.partition("=")[0]: item for item in (*usual, *self.settings)}
        return (*own, *(item for key, item in given.items() if key not in keys))

    def setting(self, key: str) -> str | None:
        """Return the value of ``key`` in ``settings``, as an override writes it; ``None`` where they do not name it."""
        return next((item.partition("=")[2] for item in self.settings if item.startswith(f"{key}=")), None)

    def error(self, key: str, message: str) -> SpecError:
        """Return an error that names the line of ``key``, or the file where it has no such key."""
        return self.at(key).error(message)


def known_clusters() -> dict[str, Path]:
    """Return the clusters whose files come with the suite, by name."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.yaml"))}


def load_cluster(name: str) -> Cluster:
    """Read and check the cluster of that name, or at that path, which ends in ``.yaml``.

    Raises:
        SpecError: there is none, or it has a mistake; the message names the file and the line.
    """
    path = named_file(name, known_clusters(), "cluster", f" A new site is one file beside {_FOLDER / 'example.yaml'}.")
    data = load(path, read_file(path))
    cluster = validate(Cluster, data)
    data.only(data, required=("partition", "time", "memory") if cluster.kind == "slurm" else ())
    if "wandb" in data and cluster.setting("tracker") is not None:
        raise cluster.error("wandb", "wandb and settings.tracker choose the same thing. Keep one.")
    for model in [*cluster.minutes, *cluster.by_model]:
        part, own = cluster.of(model), cluster.by_model.get(model, ModelResources())
        for key, of, value in (("time", cluster.minutes, own.minutes), ("memory", cluster.memory_mib, own.memory_mib)):
            if model in of and value is not None:
                raise part.error(key, f"{key}.{model} and by_model.{model}.{key} say the same thing. Keep one.")
        for key, minutes in (("time", part.minutes["default"]), ("time_min", part.min_minutes)):
            if minutes is not None and 60 * minutes <= cluster.warning_s:
                said = f"longer than warning_s, the {cluster.warning_s} seconds before its end"
                raise part.error(key, f"{key} of a job of {model} must be {said}.")
    return cluster
