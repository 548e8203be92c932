"""A cluster as data: where runs are trained, with what limits. One YAML file describes one site; nothing scientific stands there.

``clusters/example.yaml`` describes every key.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainValidator

from repro.config.assemble import PRESETS
from repro.config.registry import CONF
from repro.errors import did_you_mean, one_of
from sweeps.spec.data import Map, Scalar, SpecError, shortened
from sweeps.spec.loader import load, named_file, read_file
from sweeps.spec.models import Items, Line, Model, integer, keys, line, mapping, matching, validate, wrong
from sweeps.spec.settings import override_value, setting_value

_FOLDER = Path(__file__).resolve().parent / "clusters"
_EVERYWHERE = ("kind", "wandb", "settings", "paths", "environment")
_TIME = re.compile(r"(?:(\d{1,4})-)?(\d{1,3}):(\d\d):(\d\d)", re.ASCII)
_MEMORY = re.compile(r"(\d{1,9})([MGT])", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_UNITS = {"M": 1, "G": 1024, "T": 1024 * 1024}
#: Options of sbatch that are given by the suite.
_OWN_OPTIONS = (
    *("array", "output", "error", "signal", "dependency", "comment", "requeue", "no-requeue", "job-name", "open-mode"),
    *("time", "mem"),
)


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


def _mebibytes(value: object) -> int:
    found = _MEMORY.fullmatch(line(value))
    if found is None or int(found[1]) < 1:
        raise wrong("an amount of memory, such as 32G or 900M")
    return int(found[1]) * _UNITS[found[2]]


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
        if dot:
            known = [field.name for field in dataclasses.fields(PRESETS[group]) if field.name != "name"]
            if name not in known:
                raise given.error(key, f"there is no such setting.{did_you_mean(name, known)} Allowed: {one_of(known)}.")
        else:
            known = [path.stem for path in (CONF / group).glob("*.yaml")]
            if chosen not in known:
                raise given.error(key, f"'{shortened(chosen)}' does not exist.{did_you_mean(chosen, known)} Allowed: {one_of(known)}.")
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
_Memory = Annotated[int, PlainValidator(_mebibytes)]
_AbsolutePath = Annotated[Line, matching("/.*", "an absolute path: jobs start in another folder")]


class Paths(Model):
    """Folders of a site."""

    runs: _AbsolutePath | None = None
    data: _AbsolutePath | None = None
    scratch: _AbsolutePath | None = None


class Cluster(Model):
    """One site.

    Attributes:
        minutes: time of a job by model, ``default`` for the others.
        memory_mib: memory of a run by model.
        settings: overrides of every run.
    """

    kind: Literal["slurm", "local", "debug"]
    wandb: Literal["offline", "online", "none"] = "offline"
    settings: Annotated[tuple[str, ...], PlainValidator(_settings)] = ()
    paths: Paths = Paths()
    environment: Annotated[dict[str, Annotated[str, PlainValidator(_variable)]], BeforeValidator(_variables)] = Field(default={})
    partition: Line | None = None
    account: Line | None = None
    qos: Line | None = None
    constraint: Line | None = None
    gpu: Line = "any"
    cpus: _Count = 1
    minutes: Annotated[dict[str, _Minutes], keys(required=("default",))] = Field(default={}, alias="time")
    memory_mib: Annotated[dict[str, _Memory], keys(required=("default",))] = Field(default={}, alias="memory")
    runs_per_gpu: _Count = 1
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

    def minutes_of(self, model: str) -> int:
        """Return the time limit of a job that trains ``model``."""
        return self.minutes.get(model, self.minutes["default"])

    def memory_of(self, model: str) -> int:
        """Return the memory (MiB) of a run of ``model``."""
        return self.memory_mib.get(model, self.memory_mib["default"])

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
    for key in ("partition", "time", "memory") if cluster.kind == "slurm" else ():
        if key not in data:
            raise data.place.error(f"{key} is missing.")
    if "wandb" in data and cluster.setting("tracker") is not None:
        raise cluster.error("wandb", "wandb and settings.tracker choose the same thing. Keep one.")
    for model, minutes in cluster.minutes.items():
        if 60 * minutes <= cluster.warning_s:
            raise cluster.error("time", f"time.{model} must be longer than warning_s, the {cluster.warning_s} seconds before its end.")
    return cluster
