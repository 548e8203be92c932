"""A cluster as data: where runs are trained, with what limits. One YAML file describes one site; nothing scientific stands there.

::

    kind: slurm                        # slurm; local: this machine, a worker for each GPU; debug: in this process, one after the other
    partition: gpu
    account: vision                    # optional, as are all the following
    qos: normal
    constraint: "a100|h100"
    gpu: a100                          # type of the one GPU of a job; any; none for a partition without GPUs
    cpus: 8                            # of a job
    time: {default: "24:00:00", vgg16: "12:00:00"}    # of a job, by model; a run that needs longer saves, is queued again and goes on
    memory: {default: 32G}             # of a run, by model
    runs_per_gpu: 1                    # runs that share the GPU of a job
    array_limit: 1000                  # tasks of one job array
    max_parallel: 32                   # tasks of an array at a time
    warning_s: 120                     # a job is told so many seconds before its time is over
    modules: [cuda/13.0]               # loaded before the run
    setup: ["source /etc/profile.d/proxy.sh"]         # lines of shell, run after that
    python: /path/to/python            # on the nodes, if not the one that submits
    environment: {NCCL_DEBUG: WARN}
    wandb: offline                     # offline, online, none
    settings: {exec.checkpoint_interval_s: 300}       # of the run; exec and tracker only
    paths: {runs: /project/runs, data: /project/data, scratch: /scratch}
    sbatch: {mail-type: FAIL}          # any other option of sbatch
    jobs: 2                            # kind local: runs at a time on the CPU
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from repro.errors import did_you_mean, one_of
from sweeps.nodes import Entry, Place, Scalar, SpecError, existing, read_file, read_yaml, shortened
from sweeps.settings import override_value

_FOLDER = Path(__file__).resolve().parent / "clusters"

#: What a cluster can be.
KINDS = ("slurm", "local", "debug")

_EVERYWHERE = ("kind", "wandb", "settings", "paths", "environment")
_KEYS = {
    "slurm": (
        *_EVERYWHERE,
        *("partition", "account", "qos", "constraint", "gpu", "cpus", "time", "memory", "runs_per_gpu", "array_limit", "max_parallel"),
        *("warning_s", "modules", "setup", "python", "sbatch"),
    ),
    "local": (*_EVERYWHERE, "jobs"),
    "debug": _EVERYWHERE,
}

_TIME = re.compile(r"(?:(\d{1,4})-)?(\d{1,3}):(\d\d):(\d\d)", re.ASCII)
_MEMORY = re.compile(r"(\d{1,9})([MGT])", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_UNITS = {"M": 1, "G": 1024, "T": 1024 * 1024}
_OWN_OPTIONS = (
    "array",
    "output",
    "error",
    "signal",
    "dependency",
    "comment",
    "requeue",
    "no-requeue",
    "job-name",
    "open-mode",
    "time",
    "mem",
)


@dataclass(frozen=True)
class Cluster:
    """One site.

    Attributes:
        place: the line that each top-level key stands in, for messages.
        minutes: time of a job by model, ``default`` for the others.
        memory_mib: memory of a run by model.
        settings: overrides of every run.
    """

    name: str
    path: Path
    kind: str
    place: Mapping[str, Place] = field(default_factory=dict)
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gpu: str = "any"
    cpus: int = 1
    minutes: Mapping[str, int] = field(default_factory=dict)
    memory_mib: Mapping[str, int] = field(default_factory=dict)
    runs_per_gpu: int = 1
    array_limit: int = 1000
    max_parallel: int | None = None
    warning_s: int = 120
    modules: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    python: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    wandb: str = "offline"
    settings: tuple[str, ...] = ()
    runs: str | None = None
    data: str | None = None
    scratch: str | None = None
    sbatch: Mapping[str, Scalar] = field(default_factory=dict)
    jobs: int | None = None

    def minutes_of(self, model: str) -> int:
        """Return the time limit of a job that trains ``model``."""
        return self.minutes.get(model, self.minutes["default"])

    def memory_of(self, model: str) -> int:
        """Return the memory (MiB) of a run of ``model``."""
        return self.memory_mib.get(model, self.memory_mib["default"])

    def error(self, key: str, message: str) -> SpecError:
        """Return an error that names the line of ``key``, or the file where it has no such key."""
        return self.place.get(key, Place(self.path, 1)).error(message)


def known_clusters() -> dict[str, Path]:
    """Return the clusters whose files come with the suite, by name."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.yaml"))}


def load_cluster(name: str) -> Cluster:
    """Read and check the cluster of that name, or at that path, which ends in ``.yaml``.

    Raises:
        SpecError: there is none, or it has a mistake; the message names the file and the line.
    """
    if name.endswith((".yaml", ".yml")):
        path = existing(name)
    elif name in known_clusters():
        path = known_clusters()[name]
    else:
        near = did_you_mean(name, known_clusters())
        raise SpecError(
            f"'{shortened(name)}': there is no cluster of that name.{near} Known: {one_of(known_clusters())}; or give the path of a .yaml "
            f"file. A new site is one file beside {_FOLDER / 'example.yaml'}."
        )
    return _parse(read_yaml(path, read_file(path)), path)


def _parse(root: Entry, path: Path) -> Cluster:
    kind = root.mapping(required=("kind",))["kind"].choice(KINDS)
    parts = root.mapping(allowed=_KEYS[kind], required=("kind", "partition", "time", "memory") if kind == "slurm" else ("kind",))
    texts = {key: parts[key].line() for key in ("partition", "account", "qos", "constraint", "gpu", "python") if key in parts}
    numbers = ("cpus", "runs_per_gpu", "array_limit", "max_parallel", "jobs")
    counts = {key: parts[key].integer(at_least=1, at_most=100_000) for key in numbers if key in parts}
    lists = {key: tuple(item.line() for item in parts[key].items()) for key in ("modules", "setup") if key in parts}
    paths = {key: _absolute(entry) for key, entry in parts["paths"].mapping(allowed=("runs", "data", "scratch")).items()} \
        if "paths" in parts else {}  # fmt: skip
    more: dict[str, object] = {}
    if "warning_s" in parts:
        more["warning_s"] = parts["warning_s"].integer(at_least=10, at_most=3600)
    if "wandb" in parts:
        more["wandb"] = parts["wandb"].choice(("offline", "online", "none"))
    if "environment" in parts:
        more["environment"] = {key: _variable(key, entry) for key, entry in parts["environment"].mapping().items()}
    if "time" in parts:
        more["minutes"] = _by_model(parts["time"], _minutes)
    if "memory" in parts:
        more["memory_mib"] = _by_model(parts["memory"], _mebibytes)
    cluster = Cluster(
        name=path.stem,
        path=path,
        kind=kind,
        place={key: entry.place for key, entry in parts.items()},
        settings=_settings(parts["settings"]) if "settings" in parts else (),
        sbatch=_options(parts["sbatch"]) if "sbatch" in parts else {},
        **texts,  # type: ignore[arg-type]
        **counts,  # type: ignore[arg-type]
        **lists,  # type: ignore[arg-type]
        **paths,  # type: ignore[arg-type]
        **more,  # type: ignore[arg-type]
    )
    short = {model: minutes for model, minutes in cluster.minutes.items() if 60 * minutes <= cluster.warning_s}
    if short:
        raise cluster.error(
            "time", f"time.{next(iter(short))} must be longer than warning_s, the {cluster.warning_s} seconds before its end."
        )
    return cluster


def _variable(key: str, entry: Entry) -> str:
    if not _VARIABLE.fullmatch(key):
        raise entry.place.error(f"{entry.name}: '{shortened(key)}' is no name of a variable: letters, digits and _.")
    value = entry.scalar()
    if value is None or isinstance(value, bool):
        raise entry.wrong('a text or a number; a truth value that is meant as text needs quotes, such as "true"')
    return str(value)


def _by_model(entry: Entry, read: object) -> dict[str, int]:
    assert callable(read)
    return {model: read(item) for model, item in entry.mapping(required=("default",)).items()}


def _minutes(entry: Entry) -> int:
    wanted = 'a time in quotes, such as "12:00:00" or "2-00:00:00"'
    value = entry.scalar()
    found = _TIME.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise entry.wrong(wanted)
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    total = (days * 24 + hours) * 60 + minutes + (1 if seconds else 0)
    if total < 1:
        raise entry.wrong(wanted)
    return total


def _mebibytes(entry: Entry) -> int:
    found = _MEMORY.fullmatch(entry.line())
    if found is None or int(found[1]) < 1:
        raise entry.wrong("an amount of memory, such as 32G or 900M")
    return int(found[1]) * _UNITS[found[2]]


def _absolute(entry: Entry) -> str:
    path = entry.line()
    if not path.startswith("/"):
        raise entry.wrong("an absolute path: jobs start in another folder")
    return path


def _settings(entry: Entry) -> tuple[str, ...]:
    overrides = []
    for key, item in entry.mapping().items():
        if key.partition(".")[0] not in ("exec", "tracker") or "." not in key:
            raise item.place.error(
                f"{item.name}: a cluster says how a run is executed (exec.NAME, tracker.NAME), never what is trained. "
                "Move it into the spec."
            )
        overrides.append(f"{key}={override_value(item.value())}")
    return tuple(overrides)


def _options(entry: Entry) -> dict[str, Scalar]:
    options = {}
    for key, item in entry.mapping().items():
        if key.replace("_", "-") in options:
            raise item.place.error(f"{item.name} stands twice, once with _ and once with -. Keep one.")
        if key.replace("_", "-") in _OWN_OPTIONS:
            raise item.place.error(f"{item.name}: this option is ours to give. Leave it out.")
        options[key.replace("_", "-")] = item.scalar()
    return options
